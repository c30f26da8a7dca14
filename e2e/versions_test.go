package e2e_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestCanaryOfManyVersions: the shares of several versions by chi-square; a version with the weight 0 gets no request,
// and is warm for the edit that gives it one.
func TestCanaryOfManyVersions(t *testing.T) {
	var all []*envoytest.Server
	for i := range 4 {
		all = append(all, envoytest.Upstream(t, fmt.Sprint("v", i+1)))
	}
	document := func(edition string, weights ...int) string {
		to := make([]string, len(weights))
		for i, weight := range weights {
			to[i] = fmt.Sprintf("{version: v%d, weight: %d}", i+1, weight)
		}
		return strings.Replace(sticky(all, "", strings.Join(to, ", "), edition),
			"  endpoints:\n", "  healthCheck: {path: /healthz, interval: 1s}\n  endpoints:\n", 1)
	}
	weights := []int{70, 20, 10, 0}
	w := newWorld(t, document("first", weights...))
	w.editionIs("first")
	const n = 50_000
	var got [4]atomic.Int64
	each(n, func(int) {
		resp, err := w.do(t.Context(), checkout)
		if err != nil || resp.status != 200 {
			t.Errorf("request: %v %d %s", err, resp.status, resp.body)
			return
		}
		got[resp.body[1]-'1'].Add(1)
	})
	var chi2 float64
	for i, weight := range weights[:3] {
		want := float64(n*weight) / 100
		off := float64(got[i].Load()) - want
		chi2 += off * off / want
	}
	t.Logf("%d requests: %d, %d, %d; chi-square %.2f", n, got[0].Load(), got[1].Load(), got[2].Load(), chi2)
	if chi2 > 13.816 { // p = 0.001 with two degrees of freedom
		t.Errorf("chi-square is %.2f", chi2)
	}
	if got[3].Load() != 0 || w.envoy.Stat("cluster.shop/checkout/v4.upstream_rq_total") != 0 {
		t.Errorf("%d requests went to the version with the weight 0", got[3].Load())
	}
	for name, want := range map[string]float64{"membership_healthy": 1, "health_check.healthy": 1} {
		if stat := w.envoy.Stat("cluster.shop/checkout/v4." + name); stat != want {
			t.Errorf("%s of the version with the weight 0 is %v", name, stat)
		}
	}
	if w.envoy.Stat("cluster.shop/checkout/v4.health_check.success") == 0 || all[3].Requests.Load() == 0 {
		t.Error("the version with the weight 0 was not asked for its health")
	}
	l := w.load(4)
	w.write("mesh.yaml", document("second", 0, 0, 0, 1))
	w.editionIs("second")
	w.eventually("v4 has all", func() error {
		if resp := w.mustDo(checkout); resp.body != "v4" {
			return fmt.Errorf("answered by %s", resp.body)
		}
		return nil
	})
	l.end(t)
}
