package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/loadtest"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/sampling/proxies"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// get gives the body of an answer that is OK.
func get(t *testing.T, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", resp.Status)
	}
	return string(body), err
}

// eventually waits until check gives nil, for 20 seconds.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// syncBuffer is a buffer that is read while it is written.
type syncBuffer struct {
	mu     sync.Mutex // guards buffer
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// newTestPlane gives one that no proxy is connected to.
func newTestPlane(t testing.TB, log *slog.Logger, registry prometheus.Registerer) *plane {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	stops, err := loadtest.Open("", quiet)
	if err != nil {
		t.Fatal(err)
	}
	return newPlane(log, registry, services{ratelimit.New(quiet, ratelimit.Options{}), serve.New(quiet), loadreport.New(quiet), stops, newFeedback(registry, proxies.NewTable(proxies.Freeze, proxies.Decay))}, xds.Options{})
}

// TestNotReadyWithoutPolicy: until the first set is in force, weir is alive and not ready.
func TestNotReadyWithoutPolicy(t *testing.T) {
	registry, quiet := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	p := newTestPlane(t, quiet, registry)
	s := httptest.NewServer(p.handler(registry))
	t.Cleanup(s.Close)
	if body, err := get(t, s.URL+"/healthz"); err != nil || body != "ok\n" {
		t.Errorf("healthz: %v %q", err, body)
	}
	if body, err := get(t, s.URL+"/readyz"); err == nil || body != "no policy is in force yet\n" {
		t.Errorf("readyz: %v %q", err, body)
	}
	stdout, stderr, code := weir(t, "status", "--http-address", strings.TrimPrefix(s.URL, "http://"))
	if code != 0 || !strings.Contains(stdout, "no policy is in force yet") {
		t.Errorf("status: exit %d\n%s%s", code, stdout, stderr)
	}
}

// TestReportsOfCollectors: a report is a PUT of JSON, and what is wrong with another is said.
func TestReportsOfCollectors(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := newTestPlane(t, slog.New(slog.DiscardHandler), registry)
	for _, tt := range []struct {
		method, kind, body string
		want               int
	}{
		{http.MethodPut, "application/json", `{"routes": [{"name": "shop/a/default", "percent": 3}]}`, http.StatusOK},
		{http.MethodPut, "application/json; charset=utf-8", `{"routes": []}`, http.StatusOK},
		{http.MethodPut, "application/json", `{"routes": [], "budget": {"needs": {"mesh": 20, "classes": {"api": 10}}}}`, http.StatusOK},
		{http.MethodPut, "application/json", `{"routes": [], "budget": {"needs": {"mesh": -1}}}`, http.StatusBadRequest},
		{http.MethodPut, "text/plain", `{"routes": []}`, http.StatusUnsupportedMediaType},
		{http.MethodPut, "application/json", `{"routes": 1}`, http.StatusBadRequest},
		{http.MethodPut, "application/json", `{"routes": [{"name": "shop/a/default", "percent": 300}]}`, http.StatusBadRequest},
		{http.MethodPost, "application/json", `{"routes": []}`, http.StatusMethodNotAllowed},
	} {
		r := httptest.NewRequest(tt.method, "/api/v1/sampling/collectors/1", strings.NewReader(tt.body))
		r.Header.Set("Content-Type", tt.kind)
		w := httptest.NewRecorder()
		p.handler(registry).ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s of %s %s: %d %s", tt.method, tt.kind, tt.body, w.Code, w.Body)
		}
	}
}

// TestCollectorsShareTheBudget: each is told its share, and people are told of all.
func TestCollectorsShareTheBudget(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := newTestPlane(t, slog.New(slog.DiscardHandler), registry)
	report := func(collector, body string) string {
		r := httptest.NewRequest(http.MethodPut, "/api/v1/sampling/collectors/"+collector, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		p.handler(registry).ServeHTTP(w, r)
		return strings.Join(strings.Fields(w.Body.String()), "")
	}
	report("a", `{"budget": {"needs": {"mesh": 300}}}`)
	for _, tt := range []struct{ body, want, status string }{
		{`{"budget": {"needs": {"mesh": 100}}}`, `{"budget":{"shares":{"mesh":0.25},"settling":true}}`, "2 collectors share the budget of spans:\n  a has 100.0 %, and needs 300 spans a second\n  b has 25.0 %, and needs 100 spans a second\n"},
		{`{}`, `{}`, "1 collector has the budget of spans:\n  a has"},
	} {
		if got := report("b", tt.body); got != tt.want {
			t.Errorf("%s is answered %s, want %s", tt.body, got, tt.want)
		}
		var out strings.Builder
		if err := printStatus(&out, p.status()); err != nil || !strings.Contains(out.String(), tt.status) {
			t.Errorf("after %s, the status is %v\n%s", tt.body, err, out.String())
		}
	}
}
