// Package envoytest runs a real Envoy for tests, and the upstreams behind it.
package envoytest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/servers"
)

// Envoy is a running Envoy.
type Envoy struct {
	*servers.Process
	Admin string // http://HOST:PORT
	tb    testing.TB
}

// The admin address is the only one in a bootstrap that stands under "admin:".
var adminPattern = regexp.MustCompile(`(?s)admin:.*?address: ([\d.]+)\s+port_value: (\d+)`)

// Start runs Envoy with a bootstrap that has an admin address, and returns when it answers there.
func Start(tb testing.TB, bootstrap []byte) *Envoy {
	tb.Helper()
	m := adminPattern.FindSubmatch(bootstrap)
	if m == nil {
		tb.Fatalf("the bootstrap has no admin address:\n%s", bootstrap)
	}
	file := filepath.Join(tb.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	e := &Envoy{Admin: "http://" + string(m[1]) + ":" + string(m[2]), tb: tb}
	e.Process = servers.StartProcess(tb, servers.Command{
		Name: "envoy", Path: servers.MustTool(tb, "envoy"),
		Args: []string{"-c", file, "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning"},
	})
	if err := e.WaitHTTP(context.Background(), e.Admin+"/server_info"); err != nil {
		tb.Fatal(err)
	}
	return e
}

// Stat gives one counter or gauge; one that does not exist is 0.
func (e *Envoy) Stat(name string) float64 {
	e.tb.Helper()
	for line := range strings.Lines(e.Get("/stats?filter=^" + regexp.QuoteMeta(name) + "$")) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || key != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			e.tb.Fatalf("stat %s: %v", line, err)
		}
		return v
	}
	return 0
}

// Get gives a page of Envoy's admin interface.
func (e *Envoy) Get(path string) string {
	e.tb.Helper()
	resp, err := http.Get(e.Admin + path)
	if err != nil {
		e.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		e.tb.Fatal(err)
	}
	return string(body)
}

// Server is an upstream that answers every request with its name, and repeats the request's headers as Echo-NAME.
type Server struct {
	Name     string
	Address  string // HOST:PORT
	Requests atomic.Int64
	// Handle, if set before the first request, answers instead where it gives true.
	Handle func(http.ResponseWriter, *http.Request) bool
}

// Upstream starts one for a test, on a free port.
func Upstream(tb testing.TB, name string) *Server {
	tb.Helper()
	return UpstreamAt(tb, name, "127.0.0.1:0")
}

// UpstreamAt starts one for a test at an address.
func UpstreamAt(tb testing.TB, name, address string) *Server {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Name: name, Address: l.Addr().String()}
	h := &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
	h.Start()
	tb.Cleanup(h.Close)
	return s
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Requests.Add(1)
	if s.Handle != nil && s.Handle(w, r) {
		return
	}
	for name, values := range r.Header {
		for _, v := range values {
			w.Header().Add("Echo-"+name, v)
		}
	}
	w.Header().Set("Server", "upstream")
	_, _ = io.WriteString(w, s.Name) // a client that went away needs no answer
}
