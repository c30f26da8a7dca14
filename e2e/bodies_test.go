package e2e_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/machinenativeops/weir/internal/envoytest"
)

func TestMaxRequestBytes(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	first := make(chan string, 1)
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/stream" {
			part := make([]byte, 5)
			_, err := io.ReadFull(r.Body, part)
			first <- fmt.Sprint(string(part), err)
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			_, _ = fmt.Fprint(rw, n)
		}
		return true
	}
	w := newWorld(t, service("checkout", up.Address, "  maxRequestBytes: 4KiB")+checkoutRoute+`    - {name: uploads, match: {path: {prefix: /uploads}}, maxRequestBytes: 2MiB}
    - {name: any, match: {path: {prefix: /any}}, maxRequestBytes: 0}
    - {name: rest}
`)
	send := func(path string, body io.Reader) (int, string) {
		t.Helper()
		got := w.mustDo(request{method: http.MethodPost, host: checkout.host, path: path, body: body})
		return got.status, got.body
	}
	for _, c := range []struct {
		path     string
		n, limit int
	}{
		{"/", 4096, 4096},
		{"/", 4097, 4096},
		{"/", 0, 4096},
		{"/uploads", 2 << 20, 2 << 20},
		{"/uploads", 2<<20 + 1, 2 << 20},
		{"/any", 3 << 20, 4 << 20},
	} {
		body := bytes.Repeat([]byte("x"), c.n)
		for form, reader := range map[string]io.Reader{"declared": bytes.NewReader(body), "chunked": io.MultiReader(bytes.NewReader(body))} {
			status, text := send(c.path, reader)
			if c.n <= c.limit && (status != 200 || text != fmt.Sprint(c.n)) || c.n > c.limit && status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s, %d bytes %s: %d %q, the limit is %d", c.path, c.n, form, status, text, c.limit)
			}
		}
	}

	// What is declared too large is refused before it is sent.
	before := up.Requests.Load()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(w.gateway, "http://"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000000\r\n\r\n", checkout.host); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 413 ") {
		t.Errorf("a gigabyte declared: %q %v", line, err)
	}
	if n := up.Requests.Load() - before; n > 0 {
		t.Errorf("%d requests that were declared too large reached the service", n)
	}

	// Nothing is held back: the service has the first part of a body whose second is not sent yet.
	r, pipe := io.Pipe()
	got := make(chan string, 1)
	go func() {
		status, text := send("/stream", r)
		got <- fmt.Sprint(status, " ", text)
	}()
	if _, err := io.WriteString(pipe, "hello"); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-first:
		if s != "hello<nil>" {
			t.Errorf("the first part arrives as %q", s)
		}
	case <-time.After(10 * time.Second):
		t.Error("the first part of a body does not arrive before the rest")
	}
	_, err = io.WriteString(pipe, "bye")
	if e := pipe.Close(); err != nil || e != nil {
		t.Error(err, e)
	}
	if s := <-got; s != "200 3" {
		t.Errorf("the stream is answered by %q", s)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

func TestCompression(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	text := strings.Repeat("what is said again and again ", 1000)
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		h, body := rw.Header(), text
		h.Set("Content-Type", "text/plain; charset=utf-8")
		switch strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/rule"), "/off") {
		case "/small":
			body = text[:999]
		case "/png":
			h.Set("Content-Type", "image/png")
		case "/json":
			h.Set("Content-Type", "Application/JSON")
		case "/events":
			h.Set("Content-Type", "text/event-stream")
		case "/packed":
			h.Set("Content-Encoding", "gzip")
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, text)
			_ = z.Close()
			body = b.String()
		case "/no-transform":
			h.Set("Cache-Control", "no-transform")
		case "/part":
			h.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(text)-1, 2*len(text)))
			rw.WriteHeader(http.StatusPartialContent)
		case "/weak":
			h.Set("Etag", `W/"v1"`)
		case "/strong":
			h.Set("Etag", `"v1"`)
			h.Set("Vary", "Origin")
		}
		_, _ = io.WriteString(rw, body)
		return true
	}
	w := newWorld(t, service("checkout", up.Address, "  compression: {}")+checkoutRoute+`    - {name: rule, match: {path: {prefix: /rule}}, compression: {algorithms: [gzip, br], minBytes: 10, contentTypes: [image/png, text/plain]}}
    - {name: off, match: {path: {prefix: /off}}, compression: {algorithms: []}}
    - {name: direct, match: {path: {prefix: /direct}}, directResponse: {status: 200, body: "`+text[:2000]+`"}}
    - {name: rest}
`)
	w.client.Transport.(*http.Transport).DisableCompression = true
	const all = "gzip, deflate, br, zstd"
	for _, c := range []struct{ path, accept, want string }{
		{"/", all, "zstd"},
		{"/", "zstd, br, gzip", "zstd"},
		{"/", "gzip, br", "gzip"},
		{"/", "br, gzip", "br"},
		{"/", "gzip", "gzip"},
		{"/", "br;q=0.5, gzip", "gzip"},
		{"/", "*", "zstd"},
		{"/", "", ""},
		{"/", "deflate", ""},
		{"/", "identity", ""},
		{"/", "gzip;q=0", ""},
		{"/small", all, ""},
		{"/png", all, ""},
		{"/json", all, "zstd"},
		{"/events", all, ""},
		{"/packed", all, "gzip"},
		{"/no-transform", all, ""},
		{"/part", all, ""},
		{"/rule/", all, "gzip"},
		{"/rule/", "br, zstd", "br"},
		{"/rule/", "zstd", ""},
		{"/rule/small", all, "gzip"},
		{"/rule/png", all, "gzip"},
		{"/rule/json", all, ""},
		{"/off/", all, ""},
		{"/direct", all, "zstd"},
	} {
		got := w.mustDo(request{host: checkout.host, path: c.path, headers: map[string]string{"Accept-Encoding": c.accept}})
		encoding := got.header.Get("Content-Encoding")
		if encoding != c.want || len(got.header.Values("Content-Encoding")) > 1 {
			t.Errorf("%s, accepting %q: encoded as %q, want %q", c.path, c.accept, got.header.Values("Content-Encoding"), c.want)
			continue
		}
		if body := decoded(t, encoding, got.body); !strings.HasPrefix(text, body) || len(body) < 999 {
			t.Errorf("%s, accepting %q: %d bytes, want the text of %d", c.path, c.accept, len(body), len(text))
		}
		if encoding != "" && len(got.body) > len(text)/10 {
			t.Errorf("%s: %s makes %d bytes of %d", c.path, encoding, len(got.body), len(text))
		}
	}
	for _, c := range []struct{ path, accept, etag, vary string }{
		{"/strong", all, `W/"v1"`, "Origin, Accept-Encoding"},
		{"/weak", all, `W/"v1"`, "Accept-Encoding"},
		{"/strong", "", `"v1"`, "Origin, Accept-Encoding"},
		{"/off/strong", all, `"v1"`, "Origin"},
	} {
		got := w.mustDo(request{host: checkout.host, path: c.path, headers: map[string]string{"Accept-Encoding": c.accept}}).header
		if got.Get("Etag") != c.etag || strings.Join(got.Values("Vary"), ", ") != c.vary {
			t.Errorf("%s, accepting %q: ETag %s, Vary %q, want %s, %q", c.path, c.accept, got.Get("Etag"), got.Values("Vary"), c.etag, c.vary)
		}
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

func decoded(t *testing.T, encoding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	switch encoding {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		z, err := zstd.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v", encoding, err)
	}
	return string(text)
}
