package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// blueGreen is a service of two colours. The colour header wins over the active one.
func blueGreen(blue, green, active string) string {
	return fmt.Sprintf(`
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  hosts: [checkout.example.com]
  versions: [{name: blue}, {name: green}]
  healthCheck: {path: /healthz, interval: 100ms}
  endpoints:
    static:
      - {address: 127.0.0.1, port: %s, labels: {version: blue}}
      - {address: 127.0.0.1, port: %s, labels: {version: green}}
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - {name: blue, match: {headers: [{name: x-color, exact: blue}]}, to: [{version: blue}]}
    - {name: green, match: {headers: [{name: x-color, exact: green}]}, to: [{version: green}]}
    - {name: active, to: [{version: %s}]}
`, port(blue), port(green), active)
}

// TestBlueGreen: the active colour is one edit, which loses no request under load; what is under way is finished, and
// no new request comes to the old colour unless it asks for it.
func TestBlueGreen(t *testing.T) {
	blue, green := envoytest.Upstream(t, "blue"), envoytest.Upstream(t, "green")
	var checks atomic.Int64 // of blue's health
	arrived, release := make(chan struct{}), make(chan struct{})
	finish := sync.OnceFunc(func() { close(release) })
	t.Cleanup(finish) // before blue's server is closed, which waits for its requests
	blue.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/healthz":
			checks.Add(1)
		case "/slow":
			close(arrived)
			<-release
		}
		return false
	}
	w := newWorld(t, blueGreen(blue.Address, green.Address, "blue"))
	asked := func() int64 { return blue.Requests.Load() - checks.Load() }
	colour := func(name string) string {
		return w.mustDo(request{host: checkout.host, headers: map[string]string{"X-Color": name}}).body
	}
	warm := func() {
		t.Helper()
		for _, name := range []string{"blue", "green"} {
			w.eventually(name+" is warm", func() error {
				if n := w.envoy.Stat("cluster.shop/checkout/" + name + ".membership_healthy"); n != 1 {
					return fmt.Errorf("%v healthy endpoints", n)
				}
				if n := w.envoy.Stat("cluster.shop/checkout/" + name + ".health_check.success"); n == 0 {
					return fmt.Errorf("no health check yet")
				}
				return nil
			})
			if got := colour(name); got != name {
				t.Errorf("who asks for %s gets %q", name, got)
			}
		}
	}
	warm()

	slow := make(chan response, 1)
	go func() {
		resp, err := w.do(t.Context(), request{host: checkout.host, path: "/slow"})
		if err != nil {
			resp.body = err.Error()
		}
		slow <- resp
	}()
	<-arrived
	l := w.load(4)
	w.write("mesh.yaml", blueGreen(blue.Address, green.Address, "green"))
	w.eventually("all new requests are green", func() error { // each of Envoy's workers takes the edit at its own moment
		before := asked()
		for range 50 {
			if resp := w.mustDo(checkout); resp.body != "green" {
				return fmt.Errorf("one is %s", resp.body)
			}
		}
		if n := asked() - before; n > 0 {
			return fmt.Errorf("%d are blue", n)
		}
		return nil
	})
	before, total := asked(), l.total.Load()
	w.eventually("more requests", func() error {
		if n := l.total.Load() - total; n < 500 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := asked() - before; n > 0 {
		t.Errorf("%d new requests came to blue after the switch", n)
	}
	finish()
	if got := <-slow; got.status != http.StatusOK || got.body != "blue" {
		t.Errorf("the request that was under way at blue: %d %q", got.status, got.body)
	}
	warm() // the old colour too, to go back to
	l.end(t)
}

// TestBlueGreenBackAndForth: fifty switches under load lose no request.
func TestBlueGreenBackAndForth(t *testing.T) {
	blue, green := envoytest.Upstream(t, "blue"), envoytest.Upstream(t, "green")
	w := newWorld(t, blueGreen(blue.Address, green.Address, "blue"))
	l := w.load(4)
	for i := range 50 {
		active := []string{"green", "blue"}[i%2]
		w.write("mesh.yaml", blueGreen(blue.Address, green.Address, active))
		w.eventually("the switch to "+active, func() error {
			if resp := w.mustDo(checkout); resp.body != active {
				return fmt.Errorf("answered by %q", resp.body)
			}
			return nil
		})
	}
	l.end(t)
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
