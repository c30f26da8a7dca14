package e2e_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// loadTested is a service whose marked load goes to v2, with more in that rule and after it.
func loadTested(v1, v2, loadTest, more string) string {
	return strings.Replace(shop(v1, v2, 1, 0), "  rules:\n", `  rules:
    - name: load-test
      match: {headers: [{name: x-load-test, present: true}]}
      to: [{version: v2}]
      loadTest: `+loadTest+"\n"+more, 1)
}

var marked = request{host: checkout.host, path: "/", headers: map[string]string{"X-Load-Test": "7"}}

// TestLoadTest: marked load goes to a version of its own, through a cluster of its own, with the mark in its baggage,
// by which the next hop knows it.
func TestLoadTest(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	var baggage atomic.Pointer[[]string]
	v2.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		all := r.Header.Values("Baggage")
		baggage.Store(&all)
		if r.URL.Path == "/fail" {
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	document := loadTested(v1.Address, v2.Address, "{until: 2126-11-30T18:00:00Z}", `      rateLimit: {requests: 40, per: hour}
    - {name: v2, match: {headers: [{name: x-v2, present: true}]}, to: [{version: v2}]}
`)
	w := newWorld(t, strings.Replace(document, "  versions:",
		"  outlierDetection: {consecutive5xx: 2, interval: 50ms, ejectFor: 1h, maxEjected: 100}\n  versions:", 1))
	for _, c := range []struct {
		sent []string
		want string
	}{
		{nil, "weir.load-test=1"},
		{[]string{""}, "weir.load-test=1"},
		{[]string{"user=7"}, "user=7,weir.load-test=1"},
		{[]string{"user=7;p=1, b=%20x"}, "user=7;p=1, b=%20x,weir.load-test=1"},
		{[]string{"user=7", "b=c"}, "user=7,b=c,weir.load-test=1"},
		{[]string{"weir.load-test=10,x.weir.load-test=1"}, "weir.load-test=10,x.weir.load-test=1,weir.load-test=1"},
		{[]string{"weir.load-test=1"}, "weir.load-test=1"},
		{[]string{"a=b, weir.load-test = 1 ;p, c=d"}, "a=b, weir.load-test = 1 ;p, c=d"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = checkout.host
		req.Header.Set("X-Load-Test", "7")
		req.Header["Baggage"] = c.sent
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := *baggage.Load(); resp.StatusCode != http.StatusOK || len(got) != 1 || got[0] != c.want {
			t.Errorf("baggage %q arrives as %q (%d), want %q", c.sent, got, resp.StatusCode, c.want)
		}
	}
	// The mark alone, as at a later hop.
	for sent, want := range map[string]string{
		"weir.load-test=1": "v2", "a=b,weir.load-test=1;c": "v2", "weir.load-test=10": "v1", "xweir.load-test=1": "v1",
		"a=weir.load-test=1": "v1", "weirXload-test=1": "v1", "": "v1",
	} {
		if got := w.mustDo(request{host: checkout.host, path: "/", headers: map[string]string{"Baggage": sent}}); got.body != want {
			t.Errorf("baggage %q is answered by %q, want %q", sent, got.body, want)
		}
	}

	// The statistics and the outlier detection of real requests to the same version don't count load.
	failing := marked
	failing.path = "/fail"
	for range 10 {
		w.mustDo(failing)
	}
	const own, apart = "cluster.shop/checkout/v2.", "cluster.shop/checkout/v2@loadtest."
	w.eventually("load that fails ejects the endpoint for load", func() error {
		if n := w.envoy.Stat(apart + "outlier_detection.ejections_active"); n != 1 {
			return fmt.Errorf("%v ejections", n)
		}
		return nil
	})
	if n := w.envoy.Stat(own+"upstream_rq_total") + w.envoy.Stat(own+"outlier_detection.ejections_active"); n > 0 {
		t.Errorf("%v requests and ejections are counted as real", n)
	}
	if got := w.mustDo(request{host: checkout.host, path: "/", headers: map[string]string{"X-V2": "1"}}); got.body != "v2" {
		t.Errorf("a real request to the same version: %d %s", got.status, got.body)
	}
	refused := 0
	for range 40 {
		if w.mustDo(marked).status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 || w.mustDo(checkout).body != "v1" {
		t.Errorf("%d of 40 are over the rule's limit", refused)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// TestLoadTestIsOver: when its time is over, marked requests go where the other rules say, without an edit; and none is
// lost.
func TestLoadTestIsOver(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	until := time.Now().Add(3 * time.Second).Truncate(time.Second)
	w := newWorld(t, loadTested(v1.Address, v2.Address, "{until: "+until.UTC().Format(time.RFC3339)+"}", ""))
	if n := w.metric("weir_policy_applied_total"); n != 1 && time.Now().Before(until) {
		t.Errorf("the documents were applied %v times", n)
	}
	l := w.load(2)
	w.eventually("the load test is over", func() error {
		got := w.mustDo(marked)
		switch answered := time.Now(); {
		case got.status != http.StatusOK:
			t.Fatalf("%d %s", got.status, got.body)
		case got.body == "v2":
			return fmt.Errorf("at %s", answered)
		case answered.Before(until):
			t.Fatalf("the load test is over at %s, want %s", answered, until)
		default:
			t.Logf("over %s after its time", answered.Sub(until))
		}
		return nil
	})
	l.end(t)
	w.eventually("the cluster of the load test is gone", func() error {
		if strings.Contains(w.envoy.Get("/clusters"), "@loadtest") {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	if out, err := w.command("render", w.dir, "--gateway", "edge"); err != nil || strings.Contains(out, "@loadtest") {
		t.Errorf("render has it still: %v\n%s", err, out)
	}
}

// TestLoadTestIsCounted: over two proxies, as many requests pass as the document says, and then none.
func TestLoadTestIsCounted(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, loadTested(v1.Address, v2.Address, "{requests: 500}", ""))
	// A second proxy of the same gateway shares its port.
	bootstrap, err := exec.Command(weirBinary, "bootstrap", "--gateway", "edge", "--xds", w.args[4], "--admin", freePorts(t, 1)[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	second := envoytest.Start(t, bootstrap)
	const stat = "cluster.shop/checkout/v2@loadtest.upstream_rq_total"
	var passed, refused atomic.Int64
	send := func(n int) {
		w.client.CloseIdleConnections()
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for range n / 4 {
					resp, err := w.do(t.Context(), marked)
					switch {
					case err != nil:
						t.Error(err)
					case resp.status == http.StatusOK && resp.body == "v2":
						passed.Add(1)
					case resp.status == http.StatusTooManyRequests:
						refused.Add(1)
					default:
						t.Errorf("%d %s", resp.status, resp.body)
					}
				}
			})
		}
		group.Wait()
	}
	w.eventually("both proxies send load", func() error {
		send(4)
		if w.envoy.Stat(stat) == 0 || second.Stat(stat) == 0 {
			return fmt.Errorf("%v and %v", w.envoy.Stat(stat), second.Stat(stat))
		}
		return nil
	})
	send(800)
	if passed.Load() != 500 || refused.Load() == 0 {
		t.Errorf("%d pass and %d are refused, want 500", passed.Load(), refused.Load())
	}
	if got := w.mustDo(checkout); got.body != "v1" {
		t.Errorf("a real request: %d %s", got.status, got.body)
	}
	t.Logf("%v through one proxy, %v through the other", w.envoy.Stat(stat), second.Stat(stat))
	// With nobody to count, none passes.
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := w.mustDo(marked); got.status != http.StatusServiceUnavailable {
		t.Errorf("without anybody to count it: %d", got.status)
	}
	if got := w.mustDo(checkout); got.body != "v1" {
		t.Errorf("a real request: %d %s", got.status, got.body)
	}
}
