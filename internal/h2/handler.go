package h2

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// hand gives a call to the handler, on a goroutine of its own.
func (s *stream) hand(r *request) error {
	c := s.c
	u, err := url.ParseRequestURI(r.path)
	if err != nil {
		return c.refuse(s.id, protocolError)
	}
	s.length = r.length
	if s.ended && !s.count(0, true) {
		return c.refuse(s.id, protocolError)
	}
	s.changed.L = &c.mu
	ctx := context.WithValue(context.Background(), http.LocalAddrContextKey, c.nc.LocalAddr())
	ctx, s.cancel = context.WithCancel(ctx)
	h := (&http.Request{
		Method: r.method, URL: u, Host: r.authority, RequestURI: r.path,
		Proto: "HTTP/2.0", ProtoMajor: 2, ContentLength: r.length,
		Header: make(http.Header, len(r.header)), Body: &body{s},
		RemoteAddr: c.nc.RemoteAddr().String(), TLS: c.state,
	}).WithContext(ctx)
	for _, f := range r.header {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		h.Header[name] = append(h.Header[name], f.Value)
	}
	c.running++
	c.srv.done.Go(func() {
		w := &response{s: s, header: http.Header{}}
		c.srv.Handler.ServeHTTP(w, h)
		w.finish()
	})
	return nil
}

// receive takes a part of a request.
func (s *stream) receive(f *frame) error {
	last := f.flags&flagEndStream != 0
	if !s.count(len(f.payload), last) {
		return s.c.refuse(s.id, protocolError)
	}
	if s.closed {
		s.c.credit(len(f.payload))
	} else {
		s.body = append(s.body, f.payload...)
	}
	s.ended = last
	s.wake()
	return nil
}

// body is a request's.
type body struct{ s *stream }

func (b *body) Read(p []byte) (int, error) {
	s, c := b.s, b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(s.body) == 0 && !s.ended && !s.aborted && !s.closed {
		s.changed.Wait()
	}
	if s.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if s.aborted {
		return 0, io.ErrUnexpectedEOF
	}
	if len(s.body) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.body)
	s.body = s.body[:copy(s.body, s.body[n:])]
	c.credit(n)
	if !s.ended {
		s.credit(n)
	}
	c.flush()
	return n, nil
}

// Close ends all reads; what comes after is thrown away.
func (b *body) Close() error {
	s, c := b.s, b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.close()
	return nil
}

func (s *stream) close() {
	s.closed = true
	s.c.credit(len(s.body))
	s.body = nil
	s.wake()
}

// response is what a handler writes to. It is a http.Flusher.
type response struct {
	s      *stream
	header http.Header
	wrote  bool // the headers
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(code int) {
	w.s.c.mu.Lock()
	defer w.s.c.mu.Unlock()
	w.writeHeader(code)
}

func (w *response) writeHeader(code int) {
	if w.wrote {
		return
	}
	w.wrote = true
	if w.s.aborted {
		return
	}
	c := w.s.c
	block := appendLiteral(c.prefix(nil), ":status", strconv.Itoa(code))
	trailers := w.trailers()
	for _, name := range w.names() {
		if !slices.Contains(trailers, name) && !strings.HasPrefix(name, http.TrailerPrefix) {
			block = appendField(block, name, w.header[name])
		}
	}
	c.out = appendBlock(c.out, w.s.id, 0, block, c.peerFrame)
}

func appendField(block []byte, name string, values []string) []byte {
	for _, v := range values {
		block = appendLiteral(block, strings.ToLower(name), v)
	}
	return block
}

// names of all headers, in order.
func (w *response) names() []string {
	names := make([]string, 0, len(w.header))
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// trailers are the names that were announced as such.
func (w *response) trailers() []string {
	var names []string
	for _, v := range w.header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			names = append(names, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}

func (w *response) Write(p []byte) (int, error) {
	s, c := w.s, w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	w.writeHeader(http.StatusOK)
	written := 0
	for written < len(p) {
		for !s.aborted && s.sendable(1) == 0 {
			if c.flush(); !s.aborted && s.sendable(1) == 0 { // it lets go of mu
				s.changed.Wait()
			}
		}
		for c.writing && len(c.out) > maxUnwritten && c.err == nil {
			c.written.Wait()
		}
		if s.aborted || c.err != nil {
			return written, io.ErrClosedPipe
		}
		n := s.sendable(len(p) - written)
		s.appendData(p[written : written+n])
		written += n
		if len(c.out) > maxFrame {
			c.flush()
		}
	}
	return written, nil
}

func (w *response) Flush() {
	w.s.c.mu.Lock()
	defer w.s.c.mu.Unlock()
	w.writeHeader(http.StatusOK)
	w.s.c.flush()
}

// finish ends the answer.
func (w *response) finish() {
	s, c := w.s, w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	s.close()
	s.cancel()
	if !s.aborted && c.err == nil {
		w.writeHeader(http.StatusOK)
		trailers := w.trailers()
		var block []byte
		for _, name := range w.names() {
			if slices.Contains(trailers, name) {
				block = appendField(block, name, w.header[name])
			} else if after, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				block = appendField(block, after, w.header[name])
			}
		}
		if len(block) > 0 {
			c.out = appendBlock(c.out, s.id, flagEndStream, append(c.prefix(nil), block...), c.peerFrame)
		} else {
			c.out = appendHead(c.out, 0, frameData, flagEndStream, s.id)
		}
		if !s.ended {
			c.out = appendReset(c.out, s.id, noError)
		}
		c.drop(s)
	}
	c.flush()
}
