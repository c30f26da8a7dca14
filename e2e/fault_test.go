package e2e_test

import (
	"math"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

func TestFaults(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, "")+checkoutRoute+`    - {name: marked, match: {path: {prefix: /marked}}, fault: {headers: [{name: x-chaos, exact: "1"}], abort: {status: 418}}}
    - {name: slow, match: {path: {prefix: /slow}}, fault: {delay: {fixed: 1s}}, timeout: 500ms}
    - {name: never, match: {path: {prefix: /never}}, fault: {delay: {fixed: 1h, percent: 0}, abort: {status: 500, percent: 0}}}
    - {name: grpc, match: {path: {prefix: /grpc}}, fault: {abort: {grpcStatus: 8}}}
    - {name: share, match: {path: {prefix: /share}}, fault: {abort: {status: 503, percent: 10}}}
    - {name: late, match: {path: {prefix: /late}}, fault: {delay: {fixed: 1ms, percent: 10}}}
    - {name: limited, match: {path: {prefix: /limited}}, rateLimit: {requests: 0, per: second}, fault: {abort: {status: 500}}}
    - {name: rest}
`)
	get := func(path string, headers map[string]string) response {
		t.Helper()
		return w.mustDo(request{host: checkout.host, path: path, headers: headers})
	}
	for path, want := range map[string]int{"/marked": 200, "/never": 200, "/": 200, "/limited": 429} {
		if got := get(path, nil); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
	before := up.Requests.Load()
	if got := get("/marked", map[string]string{"X-Chaos": "1"}); got.status != http.StatusTeapot {
		t.Errorf("with the header: %d", got.status)
	}
	if got := get("/grpc", map[string]string{"Content-Type": "application/grpc"}); got.header.Get("Grpc-Status") != "8" {
		t.Errorf("gRPC status: %d %v", got.status, got.header)
	}
	if n := up.Requests.Load() - before; n > 0 {
		t.Errorf("%d failed requests reached the service", n)
	}
	began := time.Now()
	if got := get("/slow", nil); got.status != http.StatusOK { // the timeout is the service's
		t.Errorf("delayed: %d %s", got.status, got.body)
	}
	if took := time.Since(began); took < 900*time.Millisecond { // Envoy's timers begin up to some ms early
		t.Errorf("a request that is delayed by 1 s took %s", took)
	}

	const n, share = 50_000, 0.1
	send := func(path string) (failed int64) {
		var n503 atomic.Int64
		each(n, func(int) {
			if got, err := w.do(t.Context(), request{host: checkout.host, path: path}); err != nil {
				t.Error(err)
			} else if got.status == http.StatusServiceUnavailable {
				n503.Add(1)
			}
		})
		return n503.Load()
	}
	isShare := func(what string, count float64) {
		t.Helper()
		got, standardError := count/n, math.Sqrt(share*(1-share)/n)
		t.Logf("%.2f %% of %d %s, %.1f standard errors off", 100*got, n, what, (got-share)/standardError)
		if math.Abs(got-share) > 3.29*standardError { // chi-square at p = 0.001
			t.Errorf("a share of %.4f %s, want %.2f within 3.29 standard errors of %.4f", got, what, share, standardError)
		}
	}
	const aborts, delays = "http.gateway/edge/http.fault.aborts_injected", "http.gateway/edge/http.fault.delays_injected"
	failed := send("/share")
	isShare("failed", float64(failed))
	if n := w.envoy.Stat(aborts); n < float64(failed) {
		t.Errorf("Envoy counts %v aborts, of %d", n, failed)
	}
	delayed := w.envoy.Stat(delays)
	if failed := send("/late"); failed > 0 {
		t.Errorf("%d requests failed that may only be delayed", failed)
	}
	isShare("were delayed", w.envoy.Stat(delays)-delayed)
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
