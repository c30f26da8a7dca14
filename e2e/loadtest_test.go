package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
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

// traffic sends one request again and again until the test ends, and counts.
type traffic struct{ total, failed atomic.Int64 }

func (w *world) traffic(r request) *traffic {
	ctx, cancel := context.WithCancel(w.t.Context())
	one := &traffic{}
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			resp, err := w.do(ctx, r)
			if one.total.Add(1); err != nil || resp.status != http.StatusOK {
				one.failed.Add(1)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	w.t.Cleanup(func() { cancel(); done.Wait() })
	return one
}

// loadTestStatus is what weir's status says of a load test.
type loadTestStatus struct {
	State, Why string
	Real       struct {
		Requests, Failed   uint64
		MeanLatencySeconds float64
		Proxies, Reporting int
	}
}

// loadTest gives the status of the only load test.
func (w *world) loadTest() loadTestStatus {
	w.t.Helper()
	resp, err := w.client.Get(w.http + "/api/v1/status")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var s struct{ LoadTests []loadTestStatus }
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || len(s.LoadTests) != 1 {
		w.t.Fatalf("%d load tests, %v", len(s.LoadTests), err)
	}
	return s.LoadTests[0]
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

// failing has an upstream answer 500 while it is to.
func failing(s *envoytest.Server) *atomic.Bool {
	fails := new(atomic.Bool)
	s.Handle = func(rw http.ResponseWriter, _ *http.Request) bool {
		if fails.Load() {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		return fails.Load()
	}
	return fails
}

// isStopped waits until marked requests are refused.
func (w *world) isStopped() {
	w.t.Helper()
	began := time.Now()
	w.eventually("the load test stops", func() error {
		if got := w.mustDo(marked); got.status != http.StatusTooManyRequests || !strings.Contains(got.body, "stopped") {
			return fmt.Errorf("%d %s, %+v", got.status, got.body, w.loadTest())
		}
		return nil
	})
	w.t.Logf("stopped within %s", time.Since(began))
	if got := w.mustDo(request{host: checkout.host, path: "/", headers: map[string]string{"Baggage": "weir.load-test=1"}}); got.status != http.StatusTooManyRequests {
		w.t.Errorf("load with the mark of an earlier hop: %d %s", got.status, got.body)
	}
}

// TestLoadTestStops: a load test stops when real requests fail, and not when load does, and stays so over a restart until
// its rule is edited.
func TestLoadTestStops(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	fails, loadFails := failing(v1), failing(v2)
	rule := "{until: 2126-11-30T18:00:00Z, stopWhen: {errors: 20, window: 5s, minRequests: 50}}"
	w := newWorld(t, loadTested(v1.Address, v2.Address, rule, ""))
	w.weir.Stop()
	w.args = append(w.args, "--state", t.TempDir())
	w.startWeir()
	w.traffic(checkout)
	load := w.traffic(marked)

	loadFails.Store(true)
	w.eventually("real requests are known of for longer than the window, while load fails", func() error {
		s := w.loadTest()
		if s.State != "running" {
			t.Fatalf("the load test ended: %+v", s)
		}
		if load.failed.Load() < 100 || s.Real.Requests < 100 || s.Real.Failed > 0 || s.Real.Reporting != 1 || w.metric("weir_load_reports_total") < 14 {
			return fmt.Errorf("%d of %d of the load failed, %+v", load.failed.Load(), load.total.Load(), s.Real)
		}
		return nil
	})
	loadFails.Store(false)

	fails.Store(true)
	w.isStopped()
	const why = " % of "
	if s := w.loadTest(); s.State != "stopped" || !strings.Contains(s.Why, why) || !strings.HasSuffix(s.Why, "real requests failed within 5s, and more than 20 % stops it") {
		t.Errorf("status: %+v", s)
	}
	if out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://")); err != nil || !strings.Contains(out, "shop/checkout load-test  stopped at ") {
		t.Errorf("weir status: %v\n%s", err, out)
	}
	if n := w.metric("weir_load_test_stops_total"); n != 1 {
		t.Errorf("%v stops are counted", n)
	}
	if log, err := os.ReadFile(w.weir.Log); err != nil || strings.Count(string(log), "a load test has stopped") != 1 {
		t.Errorf("the log does not tell it once: %v\n%s", err, log)
	}
	// The load is nobody's: neither its own version's nor, worse, that of real requests.
	w.eventually("the load's own cluster is gone", func() error {
		if strings.Contains(w.envoy.Get("/clusters"), "@loadtest") {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	before := v2.Requests.Load()
	for range 20 {
		w.mustDo(marked)
	}
	if n := v2.Requests.Load() - before; n > 0 {
		t.Errorf("%d marked requests reached the load's version", n)
	}

	// Real requests fare well again, Weir starts anew, and another rule is edited: it stays stopped.
	fails.Store(false)
	w.weir.Stop()
	w.startWeir()
	w.write("mesh.yaml", loadTested(v1.Address, v2.Address, rule, "    - {name: new, match: {path: {exact: /new}}, to: [{version: v2}]}\n"))
	w.eventually("the edit is in force", func() error {
		if got := w.mustDo(request{host: checkout.host, path: "/new"}); got.body != "v2" {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	if got, s := w.mustDo(marked), w.loadTest(); got.status != http.StatusTooManyRequests || s.State != "stopped" || !strings.Contains(s.Why, why) {
		t.Errorf("after a restart: %d %s, %+v", got.status, got.body, s)
	}
	w.write("mesh.yaml", loadTested(v1.Address, v2.Address, strings.Replace(rule, "2126", "2127", 1), ""))
	w.eventually("the edited load test runs", func() error {
		if got := w.mustDo(marked); got.body != "v2" {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	if s := w.loadTest(); s.State != "running" {
		t.Errorf("status: %+v", s)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// TestLoadTestStopsWhenSlow: a load test stops when real requests become slow, and not when load is.
func TestLoadTestStopsWhenSlow(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	var slow atomic.Bool
	v1.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		if slow.Load() {
			pause(r.Context(), time.Second)
		}
		return false
	}
	v2.Handle = func(_ http.ResponseWriter, r *http.Request) bool { pause(r.Context(), 2*time.Second); return false }
	w := newWorld(t, loadTested(v1.Address, v2.Address, "{until: 2126-11-30T18:00:00Z, stopWhen: {meanLatency: 400ms, window: 5s, minRequests: 30}}", ""))
	for range 20 {
		w.traffic(checkout)
		w.traffic(marked)
	}
	w.eventually("real requests are known of for longer than the window, while load is slow", func() error {
		s := w.loadTest()
		if s.State != "running" {
			t.Fatalf("the load test ended: %+v", s)
		}
		if w.envoy.Stat("cluster.shop/checkout/v2@loadtest.upstream_rq_total") < 30 || s.Real.Requests < 100 || w.metric("weir_load_reports_total") < 7 {
			return fmt.Errorf("%+v", s.Real)
		}
		return nil
	})
	slow.Store(true)
	w.isStopped()
	if s := w.loadTest(); s.State != "stopped" || !strings.HasSuffix(s.Why, "on average within 5s, and more than 400ms stops it") {
		t.Errorf("status: %+v", s)
	} else {
		t.Log(s.Why)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// TestWhatFailsCounts: each try that fails, those that are retried among them, what the circuit breaker refuses and what
// times out; and nothing that the caller is to blame for, or that Envoy answers by itself.
func TestWhatFailsCounts(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	var tries atomic.Int64
	held, hold := make(chan struct{}, 1), make(chan struct{})
	v1.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/retried" && tries.Add(1)%2 == 1:
			rw.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/absent":
			rw.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/held":
			held <- struct{}{}
			<-hold
		case r.URL.Path == "/late":
			pause(r.Context(), time.Minute)
		default:
			return false
		}
		return true
	}
	document := loadTested(v1.Address, v2.Address, "{requests: 1000, stopWhen: {errors: 50, window: 10m, minRequests: 1000}}", `    - {name: own, match: {path: {exact: /own}}, directResponse: {status: 500}}
    - {name: late, match: {path: {exact: /late}}, to: [{version: v1}], timeout: 100ms}
`)
	document = strings.Replace(document, "  versions:", "  circuitBreaker: {maxRequests: 1}\n  retries: {attempts: 1, on: [5xx]}\n  versions:", 1)
	w := newWorld(t, document)
	w.eventually("reports come", func() error {
		if s := w.loadTest(); w.mustDo(checkout).status != http.StatusOK || s.Real.Requests == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	before := w.loadTest().Real
	for path, status := range map[string]int{"/": 200, "/retried": 200, "/absent": 404, "/own": 500, "/late": 504} {
		for range 10 {
			if got := w.mustDo(request{host: checkout.host, path: path}); got.status != status {
				t.Errorf("%s: %d %s", path, got.status, got.body)
			}
		}
	}
	var all sync.WaitGroup
	all.Go(func() { w.mustDo(request{host: checkout.host, path: "/held"}) })
	<-held
	for range 10 {
		if got := w.mustDo(request{host: checkout.host, path: "/over", headers: map[string]string{"X-Envoy-Max-Retries": "0"}}); got.status != http.StatusServiceUnavailable {
			t.Errorf("over the circuit breaker: %d %s", got.status, got.body)
		}
	}
	close(hold)
	all.Wait()
	const ended, failed = 10 + 20 + 10 + 10 + 1 + 10, 10 + 10 + 10
	w.eventually("all is reported", func() error {
		s := w.loadTest().Real
		if s.Requests < before.Requests+ended {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	reports := w.metric("weir_load_reports_total")
	w.eventually("nothing more comes", func() error {
		if n := w.metric("weir_load_reports_total"); n < reports+6 {
			return fmt.Errorf("%v reports", n)
		}
		return nil
	})
	if s := w.loadTest().Real; s.Failed-before.Failed != failed || s.Requests-before.Requests < ended {
		t.Errorf("%d of %d failed, want %d of %d", s.Failed-before.Failed, s.Requests-before.Requests, failed, ended)
	}
}
