package e2e_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// another gives one more endpoint of a Kubernetes Service that is there already.
func another(t *testing.T, service, version, address string) string {
	t.Helper()
	return "---\n" + strings.SplitN(kube(t, service, version, address), "---\n", 3)[2]
}

const manyRequests = 2000 // equal requests of which shares are counted

// isShare holds a count against the share of what was asked that it should be, within 5 standard errors.
func isShare(t *testing.T, what string, got int64, share float64) {
	t.Helper()
	t.Logf("%s: %d of %d", what, got, manyRequests)
	if math.Abs(float64(got)/manyRequests-share) > 5*math.Sqrt(share*(1-share)/manyRequests) {
		t.Errorf("%s: %d of %d, want %v %%", what, got, manyRequests, 100*share)
	}
}

// shares asks, and says how many were answered by each; who answers 418 is "418".
func (w *world) shares(r request) map[string]int64 {
	w.t.Helper()
	var one, two, teapot atomic.Int64
	each(manyRequests, func(int) {
		switch got, err := w.do(w.t.Context(), r); {
		case err != nil:
			w.t.Error(err)
		case got.status == http.StatusTeapot:
			teapot.Add(1)
		case got.body == "one":
			one.Add(1)
		case got.body == "two":
			two.Add(1)
		default:
			w.t.Errorf("%s: %d %s", r.path, got.status, got.body)
		}
	})
	return map[string]int64{"one": one.Load(), "two": two.Load(), "418": teapot.Load()}
}

// misbehaving answers late at /late, and every third time well at /flaky.
func misbehaving(tries *atomic.Int64) func(http.ResponseWriter, *http.Request) bool {
	return func(rw http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/late"):
			pause(r.Context(), time.Minute)
		case r.URL.Path == "/flaky" && tries.Add(1)%3 != 0:
			rw.WriteHeader(http.StatusServiceUnavailable)
		default:
			return false
		}
		return true
	}
}

const gatewayAPIPolicies = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ratings, namespace: shop}
spec:
  parentRefs: [{name: outside}]
  hostnames: [ratings.example.com]
  rules:
    - matches: [{path: {value: /late}}]
      timeouts: {request: 200ms}
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /late-try}}]
      timeouts: {backendRequest: 200ms}
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /flaky}}]
      retry: {attempts: 2, codes: [503], backoff: 1ms}
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /copied}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copies, port: 80}, percent: 20}}]
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /cors}}]
      filters: [{type: CORS, cors: {allowOrigins: ["https://shop.example.com"], allowMethods: [PUT], maxAge: 60}}]
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /split}}]
      backendRefs:
        - {name: one, port: 80, weight: 3}
        - {name: two, port: 80, weight: 1}
        - {name: copies, port: 80, weight: 0}
    - matches: [{path: {value: /kept}}]
      sessionPersistence: {type: Cookie, absoluteTimeout: 1h, cookie: {name: ab, lifetimeType: Permanent}}
      backendRefs: [{name: kept, port: 80}]
`

// TestImportedGatewayAPIPolicies: timeouts, retries, mirrors, CORS, weights and sessions.
func TestImportedGatewayAPIPolicies(t *testing.T) {
	one, two, copies := envoytest.Upstream(t, "one"), envoytest.Upstream(t, "two"), envoytest.Upstream(t, "copies")
	var tries atomic.Int64
	one.Handle = misbehaving(&tries)
	w := imported(t, gatewayAPIPolicies+kube(t, "one", "v1", one.Address)+kube(t, "two", "v1", two.Address)+kube(t, "copies", "v1", copies.Address)+
		kube(t, "kept", "v1", one.Address)+another(t, "kept", "v2", two.Address))
	const host = "ratings.example.com"
	for path, want := range map[string]int{"/late": http.StatusGatewayTimeout, "/late-try": http.StatusGatewayTimeout, "/flaky": http.StatusOK} {
		if got := w.mustDo(request{host: host, path: path}); got.status != want {
			t.Errorf("%s: %d %s, want %d", path, got.status, got.body, want)
		}
	}
	if n := tries.Load(); n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
	if got := w.shares(request{host: host, path: "/copied"})["one"]; got != manyRequests {
		t.Errorf("%d of %d requests with a mirror are answered by one", got, manyRequests)
	}
	isShare(t, "a weight of 1 in 4", w.shares(request{host: host, path: "/split"})["two"], 0.25)
	isShare(t, "copies", copies.Requests.Load(), 0.2)
	if got := w.mustDo(request{host: host, path: "/cors", method: http.MethodOptions, headers: map[string]string{
		"Origin": "https://shop.example.com", "Access-Control-Request-Method": http.MethodPut,
	}}).header; got.Get("Access-Control-Allow-Origin") != "https://shop.example.com" || got.Get("Access-Control-Max-Age") != "60" {
		t.Errorf("preflight: %v", got)
	}
	w.keepsUsers(request{host: host, path: "/kept"})
}

// keepsUsers: those who are given the cookie ab stay where they are, and they are not all at one place.
func (w *world) keepsUsers(r request) {
	w.t.Helper()
	used := make(map[string]bool)
	for range 40 {
		first := w.mustDo(r)
		made := madeCookie.FindStringSubmatch(first.header.Get("Set-Cookie"))
		if made == nil {
			w.t.Fatalf("a new user is given the cookie %q", first.header.Get("Set-Cookie"))
		}
		used[first.body] = true
		again := r
		again.headers = map[string]string{"Cookie": made[1]}
		for range 3 {
			if got := w.mustDo(again); got.body != first.body {
				w.t.Errorf("a user was at %s, and is at %s", first.body, got.body)
			}
		}
	}
	if len(used) != 2 {
		w.t.Errorf("all users are at one endpoint: %v", used)
	}
}

const istioShares = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: shop}
spec:
  hosts: [ratings]
  http:
    - match: [{uri: {prefix: /delayed}}]
      fault: {delay: {fixedDelay: 1s, percentage: {value: 100}}}
      route: [{destination: {host: ratings, subset: v1}}]
    - match: [{uri: {prefix: /aborted}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 20}}}
      route: [{destination: {host: ratings, subset: v1}}]
    - match: [{uri: {prefix: /copied}}]
      mirrors: [{destination: {host: copies}, percentage: {value: 20}}]
      route: [{destination: {host: ratings, subset: v1}}]
    - route:
        - {destination: {host: ratings, subset: v1}, weight: 75}
        - {destination: {host: ratings, subset: v2}, weight: 25, headers: {request: {set: {x-of: two}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: shop}
spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: kept, namespace: shop}
spec: {host: kept, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: ab, ttl: 1h}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: narrow, namespace: shop}
spec:
  host: narrow
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1}}
`

// TestImportedIstioShares: weights, shares of mirrors and aborts, delays, a destination's own headers, sessions by cookie,
// and connection pools of Istio's objects.
func TestImportedIstioShares(t *testing.T) {
	one, two, copies, narrow := envoytest.Upstream(t, "one"), envoytest.Upstream(t, "two"), envoytest.Upstream(t, "copies"), envoytest.Upstream(t, "narrow")
	narrow.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		pause(r.Context(), 300*time.Millisecond)
		return false
	}
	w := imported(t, istioShares+kube(t, "ratings", "v1", one.Address)+another(t, "ratings", "v2", two.Address)+kube(t, "copies", "v1", copies.Address)+
		kube(t, "kept", "v1", one.Address)+another(t, "kept", "v2", two.Address)+kube(t, "narrow", "v1", narrow.Address))
	const host, n = "ratings.shop", 2000
	isShare(t, "a weight of 25", w.shares(request{host: host, path: "/"})["two"], 0.25)
	isShare(t, "aborts", w.shares(request{host: host, path: "/aborted"})["418"], 0.2)
	w.shares(request{host: host, path: "/copied"})
	w.eventually("copies have come", func() error {
		if copies.Requests.Load() < n/10 {
			return fmt.Errorf("%d have", copies.Requests.Load())
		}
		return nil
	})
	isShare(t, "copies", copies.Requests.Load(), 0.2)
	w.eventually("a destination's own header", func() error {
		if got := w.mustDo(request{host: host, path: "/"}); got.body != "two" || got.header.Get("Echo-X-Of") != "two" {
			return fmt.Errorf("%s with %q", got.body, got.header.Get("Echo-X-Of"))
		}
		return nil
	})
	began := time.Now()
	if got := w.mustDo(request{host: host, path: "/delayed"}); got.body != "one" || time.Since(began) < 900*time.Millisecond {
		t.Errorf("delayed by a second: %d %s after %s", got.status, got.body, time.Since(began))
	}
	w.keepsUsers(request{host: "kept.shop", path: "/"})

	// Of many at once, one is on its way and as many wait as Envoy's workers, of which each keeps one.
	var refused atomic.Int64
	each(8, func(int) {
		if got, err := w.do(t.Context(), request{host: "narrow.shop", path: "/"}); err != nil {
			t.Error(err)
		} else if got.header.Get("X-Envoy-Overloaded") == "true" {
			refused.Add(1)
		}
	})
	if n := refused.Load(); n < 4 {
		t.Errorf("%d of 8 requests at once are refused by a pool of one connection", n)
	}
}
