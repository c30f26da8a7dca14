package h2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/h2"
)

// otherBlock is the headers of a call that the handler gets.
func otherBlock() []byte {
	var b blockWriter
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/other"}, {":authority", "x"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	return b
}

// TestEmptyData begins a question with a frame of nothing, for which there is no credit to give.
func TestEmptyData(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(), EndHeaders: true}))
	require.NoError(t, c.WriteData(1, false, nil))
	require.NoError(t, c.WriteData(1, true, framed("x")))
	for {
		f, err := c.ReadFrame() // the framer refuses a credit of nothing
		require.NoError(t, err)
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamEnded() {
			return
		}
	}
}

// TestPaddingIsCredited sends more padding than a stream's window has room for.
func TestPaddingIsCredited(t *testing.T) {
	_, address := startHandler(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	c := connect(t, address)
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: otherBlock(), EndHeaders: true}))
	const frames, size = 400, 1 + 1 + 255 // with the length of the padding
	window, sent := 65535, 0
	for ended := false; !ended; {
		for ; sent < frames && window >= size; sent++ {
			require.NoError(t, c.WriteDataPadded(1, sent == frames-1, []byte("x"), make([]byte, 255)))
			window -= size
		}
		f, err := c.ReadFrame()
		require.NoErrorf(t, err, "after %d frames, with a window of %d", sent, window)
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID == 1 {
				window += int(f.Increment)
			}
		case *http2.DataFrame:
			ended = f.StreamEnded()
		case *http2.HeadersFrame:
			ended = f.StreamEnded()
		}
	}
}

// TestHandlerEndsFirst is refused by the handler while it may still send.
func TestHandlerEndsFirst(t *testing.T) {
	_, address := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := dial(t, address).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Unknown", grpc.ForceCodec(raw{}))
	require.NoError(t, err)
	require.Equal(t, codes.Unimplemented, status.Code(s.RecvMsg(&[]byte{})))
}

// TestCreditWhileWriting gives credit while the server writes the last of what it had credit for.
func TestCreditWhileWriting(t *testing.T) {
	const window, size = 1000, 2000
	client, conn := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	s := &h2.Server{Path: echoPath, Unary: new(echo), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, size))
	})}
	l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- conn
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })

	c := http2.NewFramer(client, client)
	head := make(chan error, 1)
	go func() { // a pipe has no room: both sides go on at once
		_, err := io.WriteString(client, http2.ClientPreface)
		if err == nil {
			err = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		}
		if err == nil {
			err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: otherBlock(), EndHeaders: true, EndStream: true})
		}
		head <- err
	}()
	for got := 0; got < size; {
		f, err := c.ReadFrame()
		require.NoErrorf(t, err, "after %d bytes of %d", got, size)
		switch f := f.(type) {
		case *http2.HeadersFrame: // they are written with the first data, which waits for us to read it
			require.NoError(t, <-head)
			require.NoError(t, c.WriteWindowUpdate(1, size))
			require.NoError(t, c.WritePing(false, [8]byte{})) // taken once the credit is
		case *http2.DataFrame:
			got += len(f.Data())
		}
	}
}

// TestShutdownDuringHandshake shuts down while a client has only connected.
func TestShutdownDuringHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &h2.Server{Path: echoPath, Unary: new(echo), Handler: http.NotFoundHandler()}
	accepted := make(chan struct{}, 1)
	go func() {
		_ = s.Serve(noting{tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}), accepted})
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	<-accepted // and asked for the next: the first is the server's
	<-accepted
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(5 * time.Second): // a handshake may take 60
		t.Error("Shutdown waits for longer than it was told to")
		require.Error(t, <-done)
	}
}

// noting says when it is asked for a connection.
type noting struct {
	net.Listener
	asked chan struct{}
}

func (l noting) Accept() (net.Conn, error) {
	l.asked <- struct{}{}
	return l.Listener.Accept()
}

// TestAnswersThatWait asks for long answers and gives no room for them.
func TestAnswersThatWait(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range uint32(100) {
		require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block(), EndHeaders: true}))
		require.NoError(t, c.WriteData(2*i+1, true, framed("long")))
	}
	require.NoError(t, c.WritePing(false, [8]byte{1}))
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(32<<20))
}

// TestTableAfterReset wants no table any more, while a call that is given up has yet to be answered.
func TestTableAfterReset(t *testing.T) {
	reset, answered := make(chan struct{}), make(chan struct{})
	_, address := startHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		<-reset
		w.WriteHeader(http.StatusOK)
		close(answered)
	}))
	c := connect(t, address)
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: otherBlock(), EndHeaders: true}))
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}))
	require.NoError(t, c.WriteRSTStream(1, http2.ErrCodeCancel))
	close(reset)
	<-answered
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(), EndHeaders: true}))
	require.NoError(t, c.WriteData(3, true, framed("x")))
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		if h, ok := f.(*http2.HeadersFrame); ok {
			require.True(t, bytes.HasPrefix(h.HeaderBlockFragment(), []byte{0x20}), "RFC 7541, section 4.2: a change of size comes first")
			return
		}
	}
}

// TestBlocksThatRepeat sends the same bytes of headers again and again, and after they have come to mean something else.
func TestBlocksThatRepeat(t *testing.T) {
	_, address := start(t)
	c := connect(t, address)
	var b blockWriter
	e := hpack.NewEncoder(&b)
	id := uint32(1)
	ask := func(path string) []byte {
		b = b[:0]
		for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"content-type", "application/grpc"}} {
			require.NoError(t, e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		return bytes.Clone(b)
	}
	send := func(block []byte) {
		id += 2
		require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}))
		require.NoError(t, c.WriteData(id, true, framed("x")))
	}
	answer := func() (data []byte) {
		for {
			f, err := c.ReadFrame()
			require.NoError(t, err)
			if f.Header().StreamID != id {
				continue // the data of what was reset is answered by a reset too
			}
			switch f := f.(type) {
			case *http2.DataFrame:
				data = append(data, f.Data()...)
			case *http2.HeadersFrame:
				if f.StreamEnded() {
					return data
				}
			case *http2.RSTStreamFrame:
				require.Equal(t, http2.ErrCodeProtocol, f.ErrCode)
				return nil
			}
		}
	}
	var block []byte
	for range 4 {
		block = ask(echoPath)
		send(block)
		require.Equal(t, framed("x"), answer())
	}
	require.Len(t, block, 5, "one byte a header")
	send(ask("/other"))
	require.NotEqual(t, framed("x"), answer(), "another method")
	send(block)
	require.Nil(t, answer(), "the path is the last of these headers now")
	send(ask(echoPath))
	require.Equal(t, framed("x"), answer())
}
