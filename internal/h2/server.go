// Package h2 is an HTTP/2 server (RFC 9113) made for two kinds of gRPC methods. One is unary and asked very often: its
// questions are read where they lie, answered by the goroutine that reads the connection, and written together. The
// other are streams in both directions that thousands of clients keep open and say little on: such a call has no
// goroutine and no buffer of its own, messages are given to a [Receiver], and what goes out are bytes that many may share.
// Everything else on the same connections goes to an [http.Handler], such as a *grpc.Server.
//
// No client costs another anything: what it does not read is bounded, long messages are taken so many bytes at a time, in
// turns of those who send them by what they have proven to be, or else by address, and one that is silent for half a minute
// and does not answer a ping is given up.
package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Unary answers the calls of one method. It is called by many goroutines.
type Unary interface {
	// Answer appends the answer to a request to out, unless that has to wait for something: then it gives false, and has
	// later told. The request is the connection's memory, and is kept no longer than the call.
	Answer(request, out []byte, later Later) (answer []byte, ok bool, err error)
	// Flush is called when all requests that came together have been given to Answer: what waits for others need wait no
	// longer.
	Flusher
}

// Later takes an answer that has to be waited for.
type Later interface {
	// Answer is called once, by a goroutine that is not within [Unary.Answer]. It keeps nothing of the answer, and does not
	// wait for the client. An error with a GRPCStatus method is told as that. The answer goes out with the next Flush.
	Answer(answer []byte, err error) Flusher
}

// Flusher is a connection, of which it can be said that all there is for it now shall be written.
type Flusher interface{ Flush() }

// Server serves HTTP/2 on connections of which the client knows that the server speaks it. Its fields are not changed
// once it serves.
type Server struct {
	Path    string // of the method: /package.Service/Method
	Unary   Unary
	Calls   Calls        // of methods whose both sides are streams; nil: none is
	Handler http.Handler // of everything else

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	closing   bool
	turns     gate            // bytes of long messages that are taken at once,
	room      gate            // and of those that have been made room for
	ctx       context.Context // until it is closing
	cancel    context.CancelFunc
	done      sync.WaitGroup // of connections, of what works at answers, and of watch
}

// handshakeTimeout is how long a client may take until it has sent its preface: long, since thousands may come at once to
// a machine that is busy.
const handshakeTimeout = 60 * time.Second

// Serve accepts connections until [Server.Close] or [Server.Shutdown], and then gives [http.ErrServerClosed]. Those of
// a TLS listener must agree on "h2".
func (s *Server) Serve(l net.Listener) error {
	if !s.track(l) {
		_ = l.Close()
		return http.ErrServerClosed
	}
	wait := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err != nil {
			if s.isClosing() {
				return http.ErrServerClosed
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || isTemporary(err) {
				wait = min(max(2*wait, 5*time.Millisecond), time.Second) // out of files, as a rule
				time.Sleep(wait)
				continue
			}
			return err
		}
		wait = 0
		s.start(nc)
	}
}

func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	if s.listeners == nil {
		s.listeners = map[net.Listener]bool{}
		s.conns = map[*conn]bool{}
		s.turns.size, s.room.size = turnsSize, roomSize
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.done.Go(s.watch)
	}
	s.listeners[l] = true
	return true
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *Server) start(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = nc.Close()
		return
	}
	s.conns[c] = true
	s.done.Go(func() {
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// Shutdown takes no new connections and no new calls, waits until those that run are answered or ctx is done, and
// then closes. When it returns nothing runs any more, also of what nobody waits for: so a [Later] must be told
// soon, and the handler must end when its context does.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.stop() {
		go c.goAway() // a client that does not read holds up its own
	}
	done := make(chan struct{})
	go func() { s.done.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	<-done
	return err
}

// Close ends everything at once.
func (s *Server) Close() {
	for _, c := range s.stop() {
		_ = c.nc.Close()
	}
}

// watch looks after connections that have gone silent.
func (s *Server) watch() {
	t := time.NewTicker(sweep)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
			for _, c := range s.all() {
				c.check()
			}
		}
	}
}

// stop closes the listeners and gives the connections.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	s.closing = true
	if s.cancel != nil {
		s.cancel()
	}
	for l := range s.listeners {
		_ = l.Close()
	}
	clear(s.listeners)
	s.mu.Unlock()
	return s.all()
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// handshake gives the state of TLS, if the connection has it.
func handshake(nc net.Conn) (*tls.ConnectionState, error) {
	t, ok := nc.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	state := t.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return nil, errors.New("the client does not speak HTTP/2")
	}
	return &state, nil
}
