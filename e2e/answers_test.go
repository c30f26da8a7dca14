package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestWhatHoldsForAnswers: whatever may be written of a rule that answers by itself holds for it.
func TestWhatHoldsForAnswers(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, "")+checkoutRoute+`    - {name: c, match: {path: {exact: /c}}, directResponse: {status: 200}, rateLimit: {requests: 0, per: hour, scope: local}}
    - {name: d, match: {path: {exact: /d}}, redirect: {port: 1}, rateLimit: {requests: 0, per: hour, scope: local}}
    - {name: e, match: {path: {exact: /e}}, directResponse: {status: 200}, fault: {abort: {status: 500}}}
    - {name: f, match: {path: {exact: /f}}, redirect: {port: 1}, fault: {abort: {status: 500}}}
    - {name: g, match: {path: {exact: /g}}, directResponse: {status: 200}, maxRequestBytes: 1}
    - {name: h, match: {path: {exact: /h}}, redirect: {port: 1}, maxRequestBytes: 1}
    - {name: rest}
`)
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]int{"/c": 429, "/d": 429, "/e": 500, "/f": 500, "/g": 413, "/h": 413} {
		got := w.mustDo(request{method: http.MethodPost, host: checkout.host, path: path, body: strings.NewReader("more")})
		if got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
}
