package e2e_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestWhatHoldsForAnswers: whatever may be written of a rule that answers by itself holds for it.
func TestWhatHoldsForAnswers(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, "")+`
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - {name: c, match: {path: {exact: /c}}, directResponse: {status: 200}, rateLimit: {requests: 0, per: hour, scope: local}}
    - {name: d, match: {path: {exact: /d}}, redirect: {port: 1}, rateLimit: {requests: 0, per: hour, scope: local}}
    - {name: e, match: {path: {exact: /e}}, directResponse: {status: 200}, fault: {abort: {status: 500}}}
    - {name: f, match: {path: {exact: /f}}, redirect: {port: 1}, fault: {abort: {status: 500}}}
    - {name: g, match: {path: {exact: /g}}, directResponse: {status: 200}, maxRequestBytes: 1}
    - {name: h, match: {path: {exact: /h}}, redirect: {port: 1}, maxRequestBytes: 1}
    - {name: rest}
`)
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]int{"/c": 429, "/d": 429, "/e": 500, "/f": 500, "/g": 413, "/h": 413} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.gateway+path, bytes.NewReader([]byte("more")))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = checkout.host
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("%s: %d %v, want %d", path, resp.StatusCode, err, want)
		}
	}
}
