// Package h2 is an HTTP/2 server (RFC 9113) made for one unary gRPC method that is asked very often: its questions are
// read where they lie, answered by the goroutine that reads the connection, and written together. Everything else on
// the same connections goes to an [http.Handler], such as a *grpc.Server.
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

// Unary answers the calls of one method. Its methods are called by many goroutines.
type Unary interface {
	// Answer appends the answer to a request to out, unless that would have to wait for something: then it gives
	// false, and Wait is called instead. The request is the connection's memory, and is kept no longer than the call.
	Answer(request, out []byte) (answer []byte, ok bool, err error)
	// Wait is Answer on a goroutine of its own. An error with a GRPCStatus method is told as that.
	Wait(ctx context.Context, request, out []byte) ([]byte, error)
}

// Server serves HTTP/2 on connections of which the client knows that the server speaks it. Its fields are not changed
// once it serves.
type Server struct {
	Path    string // of the method: /package.Service/Method
	Unary   Unary
	Handler http.Handler // of everything else

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	closing   bool
	done      sync.WaitGroup // of connections
}

// handshakeTimeout is how long a client may take until it has sent its preface.
const handshakeTimeout = 10 * time.Second

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
// then closes.
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

// stop closes the listeners and gives the connections.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
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
