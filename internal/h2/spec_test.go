package h2_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/internal/servers"
)

// TestSpec holds the server to RFC 9113 and RFC 7541 by h2spec's 145 tests.
func TestSpec(t *testing.T) {
	tool, err := servers.Tool("h2spec")
	require.NoError(t, err)
	var calls sync.Map // by connection
	_, address := startHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n, _ := calls.LoadOrStore(r.RemoteAddr, new(atomic.Int64))
		if n.(*atomic.Int64).Add(1) > 5 {
			time.Sleep(time.Second) // so that many are there at once where many are made
		}
		_, _ = io.WriteString(w, "some text")
	}))
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	var out []byte
	for range 5 { // one of them changes a window while it is written to, and fails if it comes first
		if out, err = exec.CommandContext(t.Context(), tool, "-h", host, "-p", port, "-o", "3").CombinedOutput(); err == nil {
			break
		}
	}
	require.NoErrorf(t, err, "%s", out)
	require.Contains(t, string(out), "145 tests, 145 passed")
}

// client is one that keeps to no rules.
type client struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
}

func connect(t *testing.T, address string) *client {
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &client{http2.NewFramer(conn, conn), t, conn}
	require.NoError(t, c.WriteSettings())
	return c
}

func block() []byte {
	var b blockWriter
	e := hpack.NewEncoder(&b)
	fields := []string{":method", "POST", ":scheme", "http", ":path", echoPath, ":authority", "x", "content-type", "application/grpc"}
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
	}
	return b
}

type blockWriter []byte

func (b *blockWriter) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func framed(message string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// goAway reads until the server ends the connection, and gives why.
func (c *client) goAway() http2.ErrCode {
	for {
		f, err := c.ReadFrame()
		require.NoError(c.t, err)
		if g, ok := f.(*http2.GoAwayFrame); ok {
			return g.ErrCode
		}
	}
}

// TestFloodOfContinuations sends a block of headers that never ends.
func TestFloodOfContinuations(t *testing.T) {
	_, address := start(t)
	for name, part := range map[string][]byte{"long": make([]byte, 16000), "empty": {}} {
		c := connect(t, address)
		require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block()}), name)
		for range 100 {
			if c.WriteContinuation(1, false, part) != nil {
				break
			}
		}
		require.Equal(t, http2.ErrCodeEnhanceYourCalm, c.goAway(), name)
	}
}

// TestHeadersThatUnpack sends a small block that stands for many headers.
func TestHeadersThatUnpack(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	var b blockWriter
	e := hpack.NewEncoder(&b)
	for range 5000 {
		_ = e.WriteField(hpack.HeaderField{Name: "x-long", Value: string(make([]byte, 3000))})
	}
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(block(), b...), EndHeaders: true}))
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		if h, ok := f.(*http2.HeadersFrame); ok {
			require.Contains(t, string(h.HeaderBlockFragment()), "431")
			break
		}
	}
}

// TestRapidReset begins and gives up calls that have to wait: CVE-2023-44487.
func TestRapidReset(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	go func() { _, _ = io.Copy(io.Discard, c.conn) }()
	before := runtime.NumGoroutine()
	for i := range uint32(20_000) {
		id := 2*i + 1
		require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(), EndHeaders: true}))
		require.NoError(t, c.WriteData(id, true, framed("late")))
		require.NoError(t, c.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	require.Less(t, runtime.NumGoroutine(), before+3000)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+5 }, 10*time.Second, 10*time.Millisecond)
}

// TestClientThatDoesNotRead asks without end, and reads nothing.
func TestClientThatDoesNotRead(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	_ = c.conn.SetDeadline(time.Now().Add(2 * time.Second))
	message := framed(string(make([]byte, 10_000)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range uint32(1 << 20) {
		if c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block(), EndHeaders: true}) != nil ||
			c.WriteData(2*i+1, true, message) != nil {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(32<<20)) // 1,024 answers wait
	answer, err := call(t.Context(), dial(t, address), []byte("others are served"))
	require.NoError(t, err)
	require.Equal(t, "others are served", string(answer))
}

// TestWindowOfNothing gives no room for an answer, and then a byte at a time.
func TestWindowOfNothing(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(), EndHeaders: true}))
	require.NoError(t, c.WriteData(1, true, framed("abc")))
	var got []byte
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		switch f := f.(type) {
		case *http2.DataFrame:
			require.Len(t, f.Data(), 1)
			got = append(got, f.Data()...)
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				require.Equal(t, framed("abc"), got)
				return
			}
		default:
			continue
		}
		require.NoError(t, c.WriteWindowUpdate(1, 1))
	}
}

// TestClientWithoutTable refuses a table of headers after it has had one.
func TestClientWithoutTable(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	d := hpack.NewDecoder(4096, nil)
	for i, id := range []uint32{1, 3, 5, 7} {
		if i == 2 {
			require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}))
			d.SetAllowedMaxDynamicTableSize(0)
		}
		require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(), EndHeaders: true}))
		require.NoError(t, c.WriteData(id, true, framed("x")))
		var got []hpack.HeaderField
		for ended := false; !ended; {
			f, err := c.ReadFrame()
			require.NoError(t, err)
			if h, ok := f.(*http2.HeadersFrame); ok {
				fields, err := d.DecodeFull(h.HeaderBlockFragment())
				require.NoError(t, err)
				got = append(got, fields...)
				ended = h.StreamEnded()
			}
		}
		require.Equal(t, []hpack.HeaderField{
			{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "0"},
		}, got)
	}
}

// FuzzConnection sends anything.
func FuzzConnection(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	f.Add(append(append([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, byte(len(block())), 1, 4, 0, 0, 0, 1}, block()...),
		append([]byte{0, 0, 6, 0, 1, 0, 0, 0, 1}, framed("x")...)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		client, conn := net.Pipe()
		s := &h2.Server{Path: echoPath, Unary: new(echo), Handler: http.NotFoundHandler()}
		l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conn <- conn
		done := make(chan struct{})
		go func() { _ = s.Serve(l); close(done) }()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = io.WriteString(client, http2.ClientPreface)
		_, _ = client.Write(b)
		_ = client.Close()
		s.Close()
		<-done
	})
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
