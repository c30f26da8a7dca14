package e2e_test

import (
	"context"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// shop is a service with two versions and a route that sends w1 to v1 and w2 to v2.
func shop(v1, v2 string, w1, w2 int) string {
	return fmt.Sprintf(`
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  hosts: [checkout.example.com]
  versions: [{name: v1}, {name: v2}]
  endpoints:
    static:
      - {address: 127.0.0.1, port: %s, labels: {version: v1}}
      - {address: 127.0.0.1, port: %s, labels: {version: v2}}
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - name: default
      to: [{version: v1, weight: %d}, {version: v2, weight: %d}]
`, port(v1), port(v2), w1, w2)
}

var checkout = request{host: "checkout.example.com", path: "/"}

// load sends requests from a few workers until stopped, and counts.
type load struct {
	total, failed atomic.Int64
	firstFailure  atomic.Pointer[string]
	stop          context.CancelFunc
	done          sync.WaitGroup
}

func (w *world) load(workers int) *load {
	ctx, cancel := context.WithCancel(w.t.Context())
	l := &load{stop: cancel}
	for range workers {
		l.done.Go(func() {
			for ctx.Err() == nil {
				resp, err := w.do(context.WithoutCancel(ctx), checkout)
				l.total.Add(1)
				if err != nil || resp.status != 200 {
					l.failed.Add(1)
					text := fmt.Sprintf("%v %d %s", err, resp.status, resp.body)
					l.firstFailure.CompareAndSwap(nil, &text)
				}
			}
		})
	}
	w.t.Cleanup(func() { cancel(); l.done.Wait() })
	return l
}

// end stops the load and fails the test if a request failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", n, l.total.Load(), *l.firstFailure.Load())
	}
	t.Logf("%d requests under load, %d failed", l.total.Load(), l.failed.Load())
}

func TestCanaryShare(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, shop(v1.Address, v2.Address, 90, 10))
	const n, workers, share = 20_000, 8, 0.1
	var canary atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range n / workers {
				resp, err := w.do(t.Context(), checkout)
				if err != nil || resp.status != 200 {
					t.Errorf("request: %v %d %s", err, resp.status, resp.body)
					return
				}
				if resp.body == "v2" {
					canary.Add(1)
				}
			}
		})
	}
	group.Wait()
	got := float64(canary.Load()) / n
	standardError := math.Sqrt(share * (1 - share) / n)
	t.Logf("%d requests: %.2f %% to the canary, %.1f standard errors off", n, 100*got, (got-share)/standardError)
	if math.Abs(got-share) > 4*standardError {
		t.Errorf("the canary's share is %.4f, want %.2f within 4 standard errors of %.4f", got, share, standardError)
	}
}

func TestWeightFlipsUnderLoad(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, shop(v1.Address, v2.Address, 100, 0))
	l := w.load(4)
	var slowest, sum time.Duration
	const flips = 100
	for i := range flips {
		weight, want := 0, "v2"
		if i%2 == 1 {
			weight, want = 100, "v1"
		}
		saved := time.Now()
		w.write("mesh.yaml", shop(v1.Address, v2.Address, weight, 100-weight))
		w.eventually("new weights", func() error {
			if resp := w.mustDo(checkout); resp.body != want {
				return fmt.Errorf("answered by %q, want %q", resp.body, want)
			}
			return nil
		})
		took := time.Since(saved)
		sum += took
		slowest = max(slowest, took)
	}
	l.end(t)
	t.Logf("from saving to the first request on new weights: mean %s, slowest %s", sum/flips, slowest)
	if slowest > 500*time.Millisecond {
		t.Errorf("a change took %s from saving to the first request on the new weights, want under 500 ms", slowest)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// updates are what Envoy counts of what it is sent.
var updates = []string{
	"cluster_manager.cds.update_success", "listener_manager.lds.update_success",
	"http.gateway/edge/http.rds.gateway/edge/http.update_success", "cluster.shop/checkout/v1.update_success",
}

func TestWeirKilledUnderLoad(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, shop(v1.Address, v2.Address, 90, 10))
	l := w.load(4)
	before := w.envoyUpdates()
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	w.eventually("Envoy notices", func() error { return w.connected(0) })
	w.startWeir()
	w.eventually("Envoy is back", func() error { return w.connected(1) })
	// The new weir's answer to something that did change shows that it has had its chance to resend the rest.
	w.write("more.yaml", strings.ReplaceAll(shop(v1.Address, v2.Address, 1, 1), "checkout", "another"))
	w.eventually("another service answers", func() error {
		if resp := w.mustDo(request{host: "another.example.com", path: "/"}); resp.status != 200 {
			return fmt.Errorf("status %d", resp.status)
		}
		return nil
	})
	l.end(t)
	after := w.envoyUpdates()
	if got, want := after["cluster.shop/checkout/v1.update_success"], before["cluster.shop/checkout/v1.update_success"]; got != want {
		t.Errorf("unchanged endpoints were sent again: %v updates, were %v", got, want)
	}
	if got, want := after["listener_manager.lds.update_success"], before["listener_manager.lds.update_success"]; got != want {
		t.Errorf("unchanged listeners were sent again: %v updates, were %v", got, want)
	}
	t.Logf("updates before %v, after %v", before, after)
}

func (w *world) envoyUpdates() map[string]float64 {
	w.t.Helper()
	counts := make(map[string]float64)
	for _, name := range updates {
		counts[name] = w.envoy.Stat(name)
	}
	return counts
}

// connected says whether Envoy's gauge of being connected to its control plane is as wanted.
func (w *world) connected(want float64) error {
	if got := w.envoy.Stat("control_plane.connected_state"); got != want {
		return fmt.Errorf("control_plane.connected_state is %v", got)
	}
	return nil
}

func TestTwelveMistakes(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	good := shop(v1.Address, v2.Address, 90, 10)
	w := newWorld(t, good)
	l := w.load(2)
	before := w.envoyUpdates()

	broken := strings.NewReplacer(
		"weight: 90", "wieght: 90",
		"hosts: [checkout.example.com]", "hosts: [checkout.example.com]\n  timeout: soon",
	).Replace(good)
	w.write("mesh.yaml", broken) // 2 mistakes
	w.write("mistakes.yaml", `
kind: Sevrice
metadata: {name: a}
spec: {}
---
kind: Service
metadata: {name: Not_A_Name}
spec: {endpoints: {static: [{address: 127.0.0.1, port: 80}]}}
---
kind: Service
metadata: {name: b}
spec: {endpoints: {static: [{address: nowhere, port: 80}]}}
---
kind: Service
metadata: {name: c}
spec: {endpoints: {static: [{address: 127.0.0.1, port: 99999}]}}
---
kind: Route
metadata: {name: d}
spec: {service: shop/chekout, rules: [{name: all}]}
---
kind: Route
metadata: {name: e, namespace: shop}
spec: {service: checkout, rules: [{name: all, to: [{version: v3}]}]}
---
kind: RateLimit
metadata: {name: f, namespace: shop}
spec: {service: checkout, limits: [{requests: 10, per: fortnight}]}
---
kind: Sampling
metadata: {name: default}
spec: {classes: {main: 120}}
---
kind: Access
metadata: {name: g}
spec: {}
---
kind: Gateway
metadata: {name: h}
spec: {listeners: [{name: https, port: 8443, protocol: https}]}
`) // 10 mistakes
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), weirBinary, "validate", w.dir)
	cmd.Stderr = &out
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("weir validate: %v, want exit code 1", err)
	}
	t.Log("\n" + out.String())
	if got := strings.Count(out.String(), ".yaml:"); got != 12 {
		t.Errorf("%d errors, want 12", got)
	}
	w.eventually("weir reports them", func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		if s.Policy == nil || len(s.Policy.Problems) != 12 {
			return fmt.Errorf("%+v", s.Policy)
		}
		return nil
	})
	l.end(t)
	for name, n := range w.envoyUpdates() {
		if n != before[name] {
			t.Errorf("Envoy noticed: %s went from %v to %v", name, before[name], n)
		}
	}
}
