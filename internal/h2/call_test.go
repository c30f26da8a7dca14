package h2_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/h2"
)

const talkPath = "/test.Echo/Talk"

// talks are calls that say back what they are told: of "send N" that many bytes, of "fail" an error, and of "end" the
// end. What is published goes to all of them.
type talks struct {
	mu    sync.Mutex
	all   map[*talk]bool
	begun int
	most  atomic.Int64 // of long messages that were received at once
	now   atomic.Int64
	slow  time.Duration // what a long message takes
}

type talk struct {
	*talks
	call *h2.Call
}

func (ts *talks) Begin(path string, c *h2.Call) h2.Receiver {
	if path != talkPath {
		return nil
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := &talk{ts, c}
	if ts.all == nil {
		ts.all = make(map[*talk]bool)
	}
	ts.all[t] = true
	ts.begun++
	return t
}

func (t *talk) Receive(message []byte) error {
	if len(message) >= 4<<10 {
		t.most.Store(max(t.most.Load(), t.now.Add(1)))
		defer t.now.Add(-1)
		time.Sleep(t.slow)
	}
	if rest, ok := bytes.CutPrefix(message, []byte("send ")); ok {
		n, _ := strconv.Atoi(string(rest))
		t.call.Send(nil, long[:n])
		return nil
	}
	switch string(message) {
	case "fail":
		t.Done()
		return status.Error(codes.NotFound, "no “such”")
	case "end":
		t.Done()
		t.call.End(nil)
		return nil
	}
	m := bytes.Clone(message)
	t.call.Send(m[:len(m)/2], nil, m[len(m)/2:])
	return nil
}

func (t *talk) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, t)
}

func (ts *talks) open() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.all)
}

func (ts *talks) publish(message []byte) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for t := range ts.all {
		t.call.Send(nil, message)
		t.call.Flush()
	}
}

// startTalks serves them on a listener, or on one of the network's own.
func startTalks(t testing.TB, ts *talks, l net.Listener) (*h2.Server, string) {
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	s := &h2.Server{Path: echoPath, Unary: new(echo), Calls: ts, Handler: g}
	if l == nil {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return s, l.Addr().String()
}

func begin(t testing.TB, c *grpc.ClientConn) grpc.ClientStream {
	s, err := c.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, talkPath, grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(64<<20))
	require.NoError(t, err)
	return s
}

func say(t testing.TB, s grpc.ClientStream, message string) {
	b := []byte(message)
	require.NoError(t, s.SendMsg(&b))
}

func hear(t testing.TB, s grpc.ClientStream) string {
	var b []byte
	require.NoError(t, s.RecvMsg(&b))
	return string(b)
}

func TestTalks(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	c := dial(t, address)
	a, b := begin(t, c), begin(t, c)
	big := string(bytes.Repeat([]byte("weir"), 400_000))
	for _, message := range []string{"", "hello", big, string(make([]byte, 5000)), "again"} {
		say(t, a, message)
		require.True(t, hear(t, a) == message, "%d bytes", len(message))
	}
	say(t, b, "other")
	require.Equal(t, "other", hear(t, b))
	ts.publish([]byte("for all"))
	require.Equal(t, "for all", hear(t, a))
	require.Equal(t, "for all", hear(t, b))

	say(t, b, "fail")
	err := b.RecvMsg(&[]byte{})
	require.Equal(t, codes.NotFound, status.Code(err))
	require.Equal(t, "no “such”", status.Convert(err).Message())

	b = begin(t, c)
	say(t, b, "fail") // before anything was said
	require.Equal(t, codes.NotFound, status.Code(b.RecvMsg(&[]byte{})))

	say(t, a, "end")
	require.ErrorIs(t, a.RecvMsg(&[]byte{}), io.EOF)

	a = begin(t, c)
	say(t, a, "hello")
	require.NoError(t, a.CloseSend())
	require.Equal(t, "hello", hear(t, a))
	require.ErrorIs(t, a.RecvMsg(&[]byte{}), io.EOF)
	require.Zero(t, ts.open())

	_, err = healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err, "everything else is the handler's")
	answer, err := call(t.Context(), c, []byte("unary"))
	require.NoError(t, err)
	require.Equal(t, "unary", string(answer))
}

// TestTalksEndWithTheirClients: a call that is given up, and a connection that breaks.
func TestTalksEndWithTheirClients(t *testing.T) {
	ts := &talks{}
	s, address := startTalks(t, ts, nil)
	c := dial(t, address)
	ctx, cancel := context.WithCancel(t.Context())
	given, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, talkPath, grpc.ForceCodec(raw{}))
	require.NoError(t, err)
	say(t, given, "hello")
	require.Equal(t, "hello", hear(t, given))
	kept := begin(t, c)
	say(t, kept, "hello")
	require.Equal(t, "hello", hear(t, kept))
	cancel()
	require.Eventually(t, func() bool { return ts.open() == 1 }, 10*time.Second, time.Millisecond)
	_ = c.Close()
	require.Eventually(t, func() bool { return ts.open() == 0 }, 10*time.Second, time.Millisecond)
	ended := begin(t, dial(t, address))
	say(t, ended, "hello")
	require.Equal(t, "hello", hear(t, ended))
	s.Close()
	require.Error(t, ended.RecvMsg(&[]byte{}))
	require.Eventually(t, func() bool { return ts.open() == 0 }, 10*time.Second, time.Millisecond)
}

// talkBlock is the headers of a call.
func talkBlock() []byte { return callBlock(talkPath) }

func callBlock(path string) []byte {
	var b blockWriter
	e := hpack.NewEncoder(&b)
	fields := []string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", "application/grpc"}
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
	}
	return b
}

func (c *client) begin(id uint32) {
	require.NoError(c.t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: talkBlock(), EndHeaders: true}))
}

// until reads frames until one does.
func (c *client) until(what string, f func(http2.Frame) bool) {
	for {
		got, err := c.ReadFrame()
		require.NoError(c.t, err, what)
		if f(got) {
			return
		}
	}
}

// TestMessagesInPieces: however messages are cut into frames, they come as they were.
func TestMessagesInPieces(t *testing.T) {
	_, address := startTalks(t, &talks{}, nil)
	for _, size := range []int{1, 3, 7, 100, 16000} {
		c := connect(t, address)
		c.begin(1)
		var all, got []byte
		for _, n := range []int{0, 1, 50, 4096, 9000, 3} {
			all = append(all, framed(string(make([]byte, n)))...)
		}
		for rest := all; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			require.NoError(t, c.WriteData(1, false, rest[:min(size, len(rest))]))
		}
		c.until("all comes back", func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				got = append(got, d.Data()...)
			}
			return len(got) >= len(all)
		})
		require.True(t, bytes.Equal(all, got), "in pieces of %d", size)
	}
}

// TestTalkKeepsToTheWindows: of a message no more is sent than there is room for, on the stream and on the connection.
func TestTalkKeepsToTheWindows(t *testing.T) {
	_, address := startTalks(t, &talks{}, nil)
	c := connect(t, address)
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100_000}))
	c.begin(1)
	require.NoError(t, c.WriteData(1, false, framed("send 300000")))
	got, connection := 0, 65535
	data := func(want int) {
		t.Helper()
		c.until("as much as there is room for", func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				got += len(d.Data())
				require.LessOrEqual(t, got, want)
			}
			return got == want
		})
		require.NoError(t, c.WritePing(false, [8]byte{1}))
		c.until("and no more", func(f http2.Frame) bool {
			require.NotEqual(t, http2.FrameData, f.Header().Type)
			p, ok := f.(*http2.PingFrame)
			return ok && p.IsAck()
		})
	}
	data(connection)
	require.NoError(t, c.WriteWindowUpdate(0, 1<<20))
	data(100_000)
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 150_000}))
	data(150_000)
	require.NoError(t, c.WriteWindowUpdate(1, 1))
	data(150_001)
	require.NoError(t, c.WriteWindowUpdate(1, 1<<20))
	data(300_005)
}

// TestTalksBreakTheRules: each call ends as it should, and others go on.
func TestTalksBreakTheRules(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	c := connect(t, address)
	compressed := framed("x")
	compressed[0] = 1
	huge := binary.BigEndian.AppendUint32([]byte{0}, 1<<30)
	id := uint32(1)
	for _, one := range []struct {
		data   []byte
		last   bool
		status string
	}{
		{compressed, false, "12"},
		{huge, false, "8"},
		{framed("cut off")[:8], true, "13"},
		{[]byte{0, 0}, true, "13"},
	} {
		c.begin(id)
		require.NoError(t, c.WriteData(id, one.last, one.data))
		d := hpack.NewDecoder(4096, nil)
		c.until("its end", func(f http2.Frame) bool {
			h, ok := f.(*http2.HeadersFrame)
			if !ok {
				return false
			}
			fields, err := d.DecodeFull(h.HeaderBlockFragment())
			require.NoError(t, err)
			require.Contains(t, fields, hpack.HeaderField{Name: "grpc-status", Value: one.status})
			return h.StreamEnded()
		})
		id += 2
	}
	require.Eventually(t, func() bool { return ts.open() == 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, c.WriteWindowUpdate(1, 1)) // of one that is over
	c.begin(id)
	require.NoError(t, c.WriteData(id, false, framed("hello")))
	c.until("another", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
}

// TestRapidResetOfTalks begins and gives up calls: CVE-2023-44487.
func TestRapidResetOfTalks(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	c := connect(t, address)
	go func() { _, _ = io.Copy(io.Discard, c.conn) }()
	before := runtime.NumGoroutine()
	for i := range uint32(20_000) {
		c.begin(2*i + 1)
		require.NoError(t, c.WriteData(2*i+1, false, framed("send 1000000"))) // more than there is room for
		require.NoError(t, c.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before+2)
	require.Eventually(t, func() bool { ts.mu.Lock(); defer ts.mu.Unlock(); return ts.begun == 20_000 && len(ts.all) == 0 }, 20*time.Second, time.Millisecond)
}

// TestTalkThatIsNotRead: a client that reads nothing holds up nobody, and what waits for it is shared.
func TestTalkThatIsNotRead(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	for range 50 {
		c := connect(t, address)
		require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}))
		require.NoError(t, c.WriteWindowUpdate(0, 1<<30))
		c.begin(1)
		require.NoError(t, c.WriteData(1, false, framed("x"))) // and never reads
	}
	reader := begin(t, dial(t, address))
	say(t, reader, "x")
	require.Equal(t, "x", hear(t, reader))
	require.Eventually(t, func() bool { return ts.open() == 51 }, 10*time.Second, time.Millisecond)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 20
	go func() {
		for range times {
			ts.publish(long)
		}
	}()
	for range times {
		require.Len(t, hear(t, reader), len(long))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(24<<20), "50 times 20 MB wait")
}

// TestLongMessagesAreAdmitted: so many bytes of them are taken at once, in turn, and short ones do not wait.
func TestLongMessagesAreAdmitted(t *testing.T) {
	ts := &talks{slow: 20 * time.Millisecond}
	_, address := startTalks(t, ts, nil)
	short := begin(t, dial(t, address))
	var wg sync.WaitGroup
	message := string(make([]byte, 11<<20)) // two of them fit into what one address may have
	for range 6 {
		s := begin(t, dial(t, address))
		wg.Go(func() {
			b := []byte(message)
			if err := s.SendMsg(&b); err != nil {
				t.Error(err)
				return
			}
			if err := s.RecvMsg(&b); err != nil || len(b) != len(message) {
				t.Errorf("%d bytes: %v", len(b), err)
			}
		})
	}
	for range 100 {
		say(t, short, "short")
		require.Equal(t, "short", hear(t, short))
	}
	wg.Wait()
	require.LessOrEqual(t, ts.most.Load(), int64(2))
}

// beginLong begins a message for which there is half of all the room, and says more of it than is taken without room.
func (c *client) beginLong() {
	c.begin(1)
	c.say(append(binary.BigEndian.AppendUint32([]byte{0}, 16<<20), make([]byte, 80_000)...))
}

// say says something on the first stream in as many frames as it takes, and does not care whether the server is still there.
func (c *client) say(message []byte) {
	for part := range slices.Chunk(message, 1<<14) {
		_ = c.WriteData(1, false, part)
	}
}

// TestMessageThatDoesNotCome: who has room for a long message and does not go on is cut off, so that others get it.
func TestMessageThatDoesNotCome(t *testing.T) {
	for name, instead := range map[string]func(*client){
		"silence": func(*client) {},
		"a trickle": func(c *client) {
			for c.WriteData(1, false, []byte("and on")) == nil {
				time.Sleep(time.Second)
			}
		},
		"a client that reads nothing": func(c *client) {
			for c.WritePing(false, [8]byte{1}) == nil { // of which each is answered
			}
			_, _ = io.Copy(io.Discard, c.conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts := &talks{}
				l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				startTalks(t, ts, l)
				var clients sync.WaitGroup
				strangers := []*client{l.connect(t), l.connect(t)}
				for _, c := range strangers {
					c.beginLong()
					clients.Go(func() { instead(c) })
				}
				last := l.connect(t)
				last.begin(1)
				clients.Go(func() { last.say(framed("send " + strings.Repeat("0", 100_000))) }) // it waits for room
				time.Sleep(9 * time.Second)
				synctest.Wait()
				require.Equal(t, 3, ts.open())
				start := time.Now()
				last.until("its turn", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
				require.Less(t, time.Since(start), 20*time.Second)
				synctest.Wait()
				require.Less(t, ts.open(), 3)
				for _, c := range strangers {
					_ = c.conn.Close()
				}
				clients.Wait()
			})
		})
	}
}

// TestMessageThatNobodyWaitsFor: who holds up nobody is not cut off, as on a machine that is too busy to send, until somebody waits.
func TestMessageThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &talks{}
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, ts, l)
		for range 2 {
			c := l.connect(t)
			c.beginLong()
			go c.answerPings(new(int))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, 2, ts.open())
		next := l.connect(t)
		next.begin(1)
		go next.say(framed("send " + strings.Repeat("0", 100_000)))
		next.until("its turn", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
		synctest.Wait()
		require.Less(t, ts.open(), 3)
	})
}

// TestLongMessageThatComesSlowly is not cut off, though others wait.
func TestLongMessageThatComesSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, &talks{}, l)
		for range 6 {
			s := l.connect(t)
			go s.beginLong()
		}
		c := l.connect(t)
		c.begin(1)
		message := framed("send " + string(bytes.Repeat([]byte("0"), 8<<20)))
		for part := range slices.Chunk(message, 1<<14) {
			require.NoError(t, c.WriteData(1, false, part))
			time.Sleep(time.Second)
		}
		c.until("it has come", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
	})
}

// TestClientThatIsGone: one that is silent is asked whether it is there, and given up when it does not say so.
func TestClientThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &talks{}
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, ts, l)
		there, gone := l.connect(t), l.connect(t)
		pings := 0
		go there.answerPings(&pings)
		go func() { _, _ = io.Copy(io.Discard, gone.conn) }()
		there.begin(1)
		gone.begin(1)
		synctest.Wait()
		require.Equal(t, 2, ts.open())
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, ts.open())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, 1, ts.open())
		require.InDelta(t, 15, pings, 3)
	})
}

// TestClientThatNeverSettles says that it speaks HTTP/2, and nothing more.
func TestClientThatNeverSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, &talks{}, l)
		ours, theirs := net.Pipe()
		l.conns <- theirs
		go func() { _, _ = io.WriteString(ours, http2.ClientPreface) }()
		start := time.Now()
		_ = ours.SetReadDeadline(start.Add(time.Hour))
		_, err := io.Copy(io.Discard, ours)
		require.NoError(t, err, "it is cut off")
		require.Less(t, time.Since(start), 2*time.Minute)
	})
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipes) Close() error {
	close(l.closed)
	return nil
}

func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (l pipes) connect(t *testing.T) *client {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	t.Cleanup(func() { _ = ours.Close() })
	buffered := &reading{Conn: ours, in: make(chan []byte, 1000)}
	go buffered.run()
	c := &client{http2.NewFramer(ours, buffered), t, buffered}
	_, err := io.WriteString(ours, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, c.WriteSettings())
	return c
}

// reading reads a pipe all the time, since a pipe has no room.
type reading struct {
	net.Conn
	in   chan []byte
	rest []byte
}

func (r *reading) run() {
	defer close(r.in)
	for {
		b := make([]byte, 4096)
		n, err := r.Conn.Read(b)
		if err != nil {
			return
		}
		r.in <- b[:n]
	}
}

func (r *reading) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		var ok bool
		if r.rest, ok = <-r.in; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// answerPings does so until the connection ends.
func (c *client) answerPings(n *int) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return
		}
		if p, ok := f.(*http2.PingFrame); ok && !p.IsAck() {
			*n++
			_ = c.WritePing(true, p.Data)
		}
	}
}

// TestClientsThatPing: as often as they like.
func TestClientsThatPing(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	c := connect(t, address)
	for i := range byte(200) {
		require.NoError(t, c.WritePing(false, [8]byte{i}))
	}
	answered := byte(0)
	c.until("all are answered", func(f http2.Frame) bool {
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			require.Equal(t, answered, p.Data[0])
			answered++
		}
		return answered == 200
	})
	s := begin(t, dial(t, address, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, PermitWithoutStream: true})))
	say(t, s, "hello")
	require.Equal(t, "hello", hear(t, s))
}

// TestShutdownWaitsForTalks: clients are told to go, and calls go on until they end.
func TestShutdownWaitsForTalks(t *testing.T) {
	ts := &talks{}
	s, address := startTalks(t, ts, nil)
	c := begin(t, dial(t, address))
	say(t, c, "hello")
	require.Equal(t, "hello", hear(t, c))
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool { _, err := net.Dial("tcp", address); return err != nil }, 10*time.Second, time.Millisecond)
	say(t, c, "still there")
	require.Equal(t, "still there", hear(t, c))
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	say(t, c, "end")
	require.ErrorIs(t, c.RecvMsg(&[]byte{}), io.EOF)
	require.NoError(t, <-done)
}

// stays answers when it is let go, whatever its context says.
type stays chan struct{}

func (s stays) Answer(_, out []byte, later h2.Later) ([]byte, bool, error) {
	go func() {
		<-s
		later.Answer(nil, nil).Flush()
	}()
	return out, false, nil
}

func (s stays) Flush() {}

func (s stays) ServeHTTP(http.ResponseWriter, *http.Request) { <-s }

// TestShutdownLeavesNothingRunning, not even what works at answers to clients that are gone.
func TestShutdownLeavesNothingRunning(t *testing.T) {
	for name, path := range map[string]string{"a question": echoPath, "the handler's": "/other"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				work := make(stays)
				s := &h2.Server{Path: echoPath, Unary: work, Handler: work}
				l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				go func() { _ = s.Serve(l) }()
				c := l.connect(t)
				require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: callBlock(path), EndHeaders: true}))
				require.NoError(t, c.WriteData(1, true, framed("x")))
				synctest.Wait()
				_ = c.conn.Close()
				synctest.Wait()
				ended := false
				go func() { _ = s.Shutdown(t.Context()); ended = true }()
				synctest.Wait()
				require.False(t, ended)
				close(work)
				synctest.Wait()
				require.True(t, ended)
			})
		})
	}
}

// TestTalksOverTLS: with certificates on both sides, of which a call can tell.
func TestTalksOverTLS(t *testing.T) {
	pair, pool := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ts := &talks{}
	_, address := startTalks(t, ts, tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}))
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: "weir.test",
	})))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	s := begin(t, c)
	for _, n := range []int{10, 100_000, 10, 1_000_000, 10} {
		message := string(bytes.Repeat([]byte("x"), n))
		say(t, s, message)
		require.True(t, hear(t, s) == message)
		ts.publish([]byte("published"))
		require.Equal(t, "published", hear(t, s))
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for one := range ts.all {
		require.Equal(t, "weir.test", one.call.TLS().PeerCertificates[0].Subject.CommonName)
	}
}

// certificate is of "weir.test", by itself.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir.test"}, DNSNames: []string{"weir.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir.test"}, DNSNames: []string{"weir.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestSilentCallsTakeLittle pins what a call costs that nobody says anything on: a goroutine, and no buffer.
func TestSilentCallsTakeLittle(t *testing.T) {
	ts := &talks{}
	_, address := startTalks(t, ts, nil)
	goroutines := runtime.NumGoroutine()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const calls = 200
	for range calls {
		c := connect(t, address)
		c.begin(1)
		require.NoError(t, c.WriteData(1, false, framed(string(make([]byte, 30_000)))[:16_000]))
		require.NoError(t, c.WriteData(1, false, framed(string(make([]byte, 30_000)))[16_000:]))
		got := 0
		c.until("it comes back", func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				got += len(d.Data())
			}
			return got == 30_005
		})
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+calls+5) // the server's own among them
	runtime.GC()
	runtime.GC() // pools let go of what they have
	runtime.ReadMemStats(&after)
	a := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / calls
	t.Logf("%d bytes on the heap for a call and its client", a)
	require.Less(t, a, int64(32<<10), "of which the client's framer is some")
}

// FuzzTalk has anything said in a call.
func FuzzTalk(f *testing.F) {
	f.Add(framed("hello"))
	f.Add(append(framed("send 100000"), framed("")...))
	f.Add(framed(string(make([]byte, 5000)))[:300])
	f.Fuzz(func(t *testing.T, b []byte) {
		ts := &talks{}
		client, conn := net.Pipe()
		s := &h2.Server{Calls: ts, Handler: http.NotFoundHandler()}
		l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conn <- conn
		done := make(chan struct{})
		go func() { _ = s.Serve(l); close(done) }()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = io.WriteString(client, http2.ClientPreface)
		fr := http2.NewFramer(client, nil)
		_ = fr.WriteSettings()
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: talkBlock(), EndHeaders: true})
		for n := 0; n < len(b); n += 16000 {
			if fr.WriteData(1, false, b[n:min(n+16000, len(b))]) != nil {
				break
			}
		}
		_ = client.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx) // which waits
		<-done
		if n := ts.open(); n > 0 {
			t.Errorf("%d calls are left", n)
		}
	})
}

// TestWhatIsOnlyBegunHoldsUpNobody: a hundred strangers begin long messages, say as much of them as is taken without room, and
// no more.
func TestWhatIsOnlyBegunHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &talks{}
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, ts, l)
		for i := range 300 {
			c := l.connect(t)
			c.begin(1)
			c.say(append(binary.BigEndian.AppendUint32([]byte{0}, 16<<20), make([]byte, min(i*1000, 65_000))...))
		}
		start := time.Now()
		c := l.connect(t)
		c.begin(1)
		go c.say(framed("send " + strings.Repeat("0", 60_000)))
		c.until("its turn", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
		require.Zero(t, time.Since(start))
		require.Equal(t, 301, ts.open())
	})
}

// TestTurnsAreNotHeldForWriting: clients that ask for answers, begin long messages and read nothing hold up nobody either, when
// they have had to wait for their turn.
func TestTurnsAreNotHeldForWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &talks{slow: time.Second}
		l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		startTalks(t, ts, l)
		for range 80 { // so that there is somebody who waits
			c := l.connect(t)
			c.begin(1)
			go c.say(framed("send " + strings.Repeat("0", 60_000)))
		}
		var begun bytes.Buffer
		f := http2.NewFramer(&begun, nil)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: talkBlock(), EndHeaders: true})
		for range 20 {
			_ = f.WritePing(false, [8]byte{1})
		}
		_ = f.WriteData(1, false, append(binary.BigEndian.AppendUint32([]byte{0}, 64_000), make([]byte, 100)...))
		for range 80 {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			t.Cleanup(func() { _ = ours.Close() })
			go func() { _, _ = io.ReadFull(ours, make([]byte, 70)) }() // the server's settings, and no more
			_, _ = io.WriteString(ours, http2.ClientPreface)
			_ = http2.NewFramer(ours, nil).WriteSettings()
			synctest.Wait()
			go func() { _, _ = ours.Write(begun.Bytes()) }()
		}
		synctest.Wait()
		time.Sleep(5 * time.Second)
		start := time.Now()
		c := l.connect(t)
		c.begin(1)
		go c.say(framed("send " + strings.Repeat("0", 5_000)))
		c.until("its turn", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
		require.Less(t, time.Since(start), 5*time.Second)
	})
}
