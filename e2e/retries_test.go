package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

func TestRetriesByStatusWithBackoff(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	var tries atomic.Int64
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/down":
			rw.WriteHeader(http.StatusServiceUnavailable)
		case tries.Add(1)%3 != 0:
			rw.WriteHeader(http.StatusTooEarly)
		default:
			return false
		}
		return true
	}
	w := newWorld(t, service("codes", up.Address, "  retries: {codes: [425]}")+
		service("other", up.Address, "  retries: {codes: [429]}")+`
---
kind: Route
metadata: {name: codes, namespace: shop}
spec: {service: codes, rules: [{name: once, match: {path: {prefix: /once}}, retries: {attempts: 0}}, {name: rest}]}
`+
		service("slowly", up.Address, "  circuitBreaker: {maxRetries: 100}\n  retries: {attempts: 3, codes: [503], backoff: 300ms}"))
	if got := w.mustDo(request{host: "codes.example.com", path: "/"}); got.status != http.StatusOK {
		t.Errorf("a status that is tried again: %d", got.status)
	}
	if got := w.mustDo(request{host: "codes.example.com", path: "/once"}); got.status != http.StatusTooEarly {
		t.Errorf("no attempts, by the rule's own word: %d", got.status)
	}
	if got := w.mustDo(request{host: "other.example.com", path: "/"}); got.status != http.StatusTooEarly {
		t.Errorf("another status: %d", got.status)
	}
	// Envoy waits for a random part of 300, 600 and 1200 ms: a second, in the mean of these.
	const n = 20
	var sum atomic.Int64
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			began := time.Now()
			got, err := w.do(t.Context(), request{host: "slowly.example.com", path: "/down"})
			sum.Add(int64(time.Since(began)))
			if err != nil || got.status != http.StatusServiceUnavailable {
				t.Errorf("%d %v", got.status, err)
			}
		})
	}
	group.Wait()
	if mean := time.Duration(sum.Load() / n); mean < 400*time.Millisecond {
		t.Errorf("three retries with a backoff from 300 ms took %s in the mean, want about 1 s", mean)
	}
}

// TestRetriesGoElsewhere: what one endpoint fails is tried again at the other one.
func TestRetriesGoElsewhere(t *testing.T) {
	good, bad := envoytest.Upstream(t, "good"), envoytest.Upstream(t, "bad")
	bad.Handle = func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	w := newWorld(t, replicas([]*envoytest.Server{good, bad}, "loadBalancing: {policy: random}\n  retries: {attempts: 1, on: [5xx], backoff: 1ms}", "first"))
	const n = 200
	failed := 0
	for range n {
		if got := w.mustDo(checkout); got.body != "good" {
			failed++
		}
	}
	if failed > 2 { // one of four, where the second try goes anywhere
		t.Errorf("%d of %d requests failed twice", failed, n)
	}
	if bad.Requests.Load() < n/4 {
		t.Errorf("%d of %d requests came to the endpoint that fails, so that this shows little", bad.Requests.Load(), n)
	}
}

// TestHedging: a request that is slow is not given up for the one that is sent beside it.
func TestHedging(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	var requests, first atomic.Int64
	up.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		if requests.Add(1)%2 == first.Load() { // this one hangs
			<-r.Context().Done()
			return true
		}
		if first.Load() == 0 { // and this one has had to wait for it
			time.Sleep(500 * time.Millisecond)
		}
		return false
	}
	const retries = "  retries: {attempts: 1, perTry: 100ms, on: [5xx]}\n"
	w := newWorld(t, service("hedged", up.Address, retries+"  hedge: {onPerTryTimeout: true}")+service("hasty", up.Address, retries))
	for _, c := range []struct {
		what, host string
		first      int64 // 1: the first of two requests hangs; 0: the second one
		want       int
	}{
		{"the second answers", "hedged", 1, 200},
		{"the first answers after all", "hedged", 0, 200},
		{"the first is given up without hedging", "hasty", 0, 504},
	} {
		requests.Store(0)
		first.Store(c.first)
		if got := w.mustDo(request{host: c.host + ".example.com", path: "/"}); got.status != c.want || requests.Load() != 2 {
			t.Errorf("%s: %d after %d requests, want %d after 2", c.what, got.status, requests.Load(), c.want)
		}
	}
}

func TestRetryBudget(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	up.Handle = func(rw http.ResponseWriter, _ *http.Request) bool {
		time.Sleep(20 * time.Millisecond)
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	const more = "  circuitBreaker: {maxRetries: %d}\n  retries: {attempts: 5, on: [5xx], backoff: 1ms%s}"
	w := newWorld(t, service("budget", up.Address, fmt.Sprintf(more, 1, ", budget: 20"))+service("lavish", up.Address, fmt.Sprintf(more, 1000, "")))
	for host, bounds := range map[string][2]float64{
		"budget": {0.10, 0.25}, // one at a time would be 0.02
		"lavish": {0.80, 0.84}, // five of six
	} {
		const workers, each = 50, 20
		up.Requests.Store(0)
		var group sync.WaitGroup
		for range workers {
			group.Go(func() {
				for range each {
					if got, err := w.do(t.Context(), request{host: host + ".example.com", path: "/"}); err != nil || got.status != http.StatusServiceUnavailable {
						t.Errorf("%d %v", got.status, err)
					}
				}
			})
		}
		group.Wait()
		share := 1 - workers*each/float64(up.Requests.Load())
		t.Logf("%s: %.3f of %d requests were retries", host, share, up.Requests.Load())
		if share < bounds[0] || share > bounds[1] {
			t.Errorf("%s: %.3f of %d requests were retries, want %v", host, share, up.Requests.Load(), bounds)
		}
	}
	if n := w.envoy.Stat("cluster.shop/budget.upstream_rq_retry_overflow"); n == 0 {
		t.Error("Envoy counts no retry beyond the budget")
	}
}
