package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

const shadowMark = "X-Weir-Shadow"

// mirrored is a service whose requests go to v1, mirrored as said, with more in its spec and in its only rule.
func mirrored(v1, v2, mirror, spec, rule string) string {
	return shop(v1, v2, 1, 0) + "      mirror: " + mirror + "\n" + rule + strings.Replace(spec, "SPEC", "", 1)
}

// TestMirrorShare: each mirror has its share of the copies, which are marked and otherwise what the service is sent.
func TestMirrorShare(t *testing.T) {
	v1, v2, audit := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2"), envoytest.Upstream(t, "audit")
	var wrong atomic.Pointer[string]
	watch := func(copies bool) func(http.ResponseWriter, *http.Request) bool {
		return func(_ http.ResponseWriter, r *http.Request) bool {
			if (r.Header.Get(shadowMark) == "true") != copies || r.Host != checkout.host || r.Header.Get("X-Rule") != "mirrored" ||
				r.Header.Get("X-Envoy-Upstream-Rq-Timeout-Ms")+r.Header.Get("X-Envoy-Upstream-Stream-Duration-Ms") != "" {
				text := fmt.Sprint(r.Host, r.Header)
				wrong.CompareAndSwap(nil, &text)
			}
			return false
		}
	}
	v1.Handle, v2.Handle, audit.Handle = watch(false), watch(true), watch(true)
	w := newWorld(t, mirrored(v1.Address, v2.Address, "[{version: v2, percent: 10}, {service: audit, percent: 2.5}]", "",
		"      requestHeaders: {set: {x-rule: mirrored}}\n")+service("audit", audit.Address, ""))
	mirrors := []*share{{up: v1, of: 1}, {up: v2, of: 0.1}, {up: audit, of: 0.025}}
	w.sample(mirrors)
	// Of right shares one in a thousand is outside all the same, so that what is gets a second sample, which knows nothing of the
	// first. That both are is one in a million; a share that is wrong by as much as one sample tells is wrong in both.
	if off := slices.DeleteFunc(mirrors, (*share).right); len(off) > 0 {
		w.sample(off)
		for _, s := range off {
			if !s.right() {
				t.Errorf("%s, twice", s)
			}
		}
	}
	if text := wrong.Load(); text != nil {
		t.Errorf("a request arrives as %s", *text)
	}
}

const sampled = 50_000 // requests

// share is the part of all requests that a server is to get, and what it got of the last sample.
type share struct {
	up  *envoytest.Server
	of  float64
	got int64
}

// right is whether it got its share within 3.29 standard errors, which is chi-square at p = 0.001.
func (s *share) right() bool {
	return math.Abs(float64(s.got)/sampled-s.of) <= 3.29*math.Sqrt(s.of*(1-s.of)/sampled)
}

func (s *share) String() string {
	return fmt.Sprintf("%s: %.4f of %d requests, want %.4f", s.up.Name, float64(s.got)/sampled, sampled, s.of)
}

// sample sends requests, and counts what the servers get until no more comes: nobody waits for copies.
func (w *world) sample(shares []*share) {
	before := make([]int64, len(shares))
	for i, s := range shares {
		before[i] = s.up.Requests.Load()
	}
	const workers = 8
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range sampled / workers {
				// A stranger can't pass a request for a copy.
				resp, err := w.do(w.t.Context(), request{host: checkout.host, path: "/", headers: map[string]string{shadowMark: "true"}})
				if err != nil || resp.status != 200 || resp.body != "v1" {
					w.t.Errorf("request: %v %d %s", err, resp.status, resp.body)
					return
				}
			}
		})
	}
	group.Wait()
	for more := true; more; {
		time.Sleep(2 * time.Second)
		more = false
		for i, s := range shares {
			got := s.up.Requests.Load() - before[i]
			more = more || got != s.got
			s.got = got
		}
	}
	for _, s := range shares {
		w.t.Log(s)
	}
}

// TestMirrorBodies: copies have their bodies whole, also large ones.
func TestMirrorBodies(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	sums := make(chan string, 64)
	v2.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		sums <- fmt.Sprintf("%d %x %v", n, h.Sum(nil), err)
		return false
	}
	v1.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		return false
	}
	w := newWorld(t, mirrored(v1.Address, v2.Address, "[{version: v2}]", "", ""))
	for _, size := range []int{0, 1, 64 << 10, 1<<20 + 1, 8 << 20} {
		body := bytes.Repeat([]byte("weir "), size/5+1)[:size]
		for _, length := range []int64{int64(size), -1} { // with a length, and in chunks
			if err := w.post(body, length); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			select {
			case got := <-sums:
				if want := fmt.Sprintf("%d %x <nil>", size, sha256.Sum256(body)); got != want {
					t.Errorf("the copy of %d bytes is %s, want %s", size, got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no copy of %d bytes", size)
			}
		}
	}
}

func (w *world) post(body []byte, length int64) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.gateway, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return err
	}
	req.Host, req.ContentLength = checkout.host, length
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// deaf takes connections and never reads from them.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// TestMirrorsDontDisturb: whatever a mirror does, callers get the same answers as fast, even where it is the very
// endpoint that answers them, and neither the breakers nor the outlier detection of real requests count copies.
func TestMirrorsDontDisturb(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get(shadowMark) == "" {
			_, _ = io.Copy(io.Discard, r.Body)
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	}
	refusing, silent := freePorts(t, 1)[0], deaf(t)
	tight := `
  circuitBreaker: {maxConnections: 8, maxPending: 8, maxRequests: 8}
  outlierDetection: {consecutive5xx: 2, interval: 50ms, ejectFor: 1h, maxEjected: 100}
`
	w := newWorld(t, service("checkout", up.Address, tight)+service("refusing", refusing, tight)+service("silent", silent, tight)+checkoutRoute+`    - {name: itself, match: {path: {prefix: /hang}}, mirror: [{timeout: 1h}], timeout: 2s}
    - {name: failing, match: {path: {prefix: /fail}}, mirror: [{}], timeout: 2s}
    - {name: refusing, match: {path: {prefix: /refuse}}, mirror: [{service: refusing}], timeout: 2s}
    - {name: silent, match: {path: {prefix: /silent}}, mirror: [{service: silent, timeout: 1h}], timeout: 2s}
    - {name: plain, match: {path: {prefix: /plain}}, timeout: 2s}
`)
	times := make(map[string][]time.Duration)
	paths := []string{"/plain", "/hang", "/fail", "/refuse", "/silent"}
	const rounds = 1000
	for range rounds { // paired and in any order, so that what disturbs the machine disturbs all alike
		rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
		for _, path := range paths {
			began := time.Now()
			if got := w.mustDo(request{host: checkout.host, path: path}); got.status != http.StatusOK || got.body != "up" {
				t.Fatalf("%s: %d %s", path, got.status, got.body)
			}
			times[path] = append(times[path], time.Since(began))
		}
	}
	for path, all := range times {
		slices.Sort(all)
		t.Logf("%s: p50 %s, p99 %s", path, all[len(all)/2], all[len(all)*99/100])
	}
	for _, path := range []string{"/hang", "/fail", "/refuse", "/silent"} {
		// Of the slowest hundredth of both, as many are of each, but for chance, and for the work of making and answering
		// copies, which this machine has to do too.
		pair := slices.Sorted(slices.Values(slices.Concat(times["/plain"], times[path])))
		p99, slow := pair[len(pair)*99/100-1], 0
		for _, took := range times[path] {
			if took > p99 {
				slow++
			}
		}
		t.Logf("%s: %d of the slowest %d", path, slow, len(pair)/100)
		if slow > 19 { // of 20: one of a million times by chance
			t.Errorf("with the mirror %s, p99 is higher: %d of the slowest 20 requests are its", path, slow)
		}
	}
	service := "cluster.shop/checkout."
	for _, stat := range []string{
		"upstream_rq_pending_overflow", "upstream_cx_overflow", "outlier_detection.ejections_active", "outlier_detection.ejections_enforced_total",
		"upstream_rq_5xx", "upstream_rq_timeout",
	} {
		if n := w.envoy.Stat(service + stat); n > 0 {
			t.Errorf("%s%s is %v", service, stat, n)
		}
	}
	if n := w.envoy.Stat("cluster.shop/checkout@shadow.outlier_detection.ejections_active"); n == 0 {
		t.Error("nothing has come of the copies' failures, so that this shows nothing")
	}
	if n := w.envoy.Stat("cluster.shop/silent@shadow.upstream_rq_pending_overflow"); n == 0 {
		t.Error("the silent mirror's bounds were not reached, so that this shows nothing")
	}
}

// TestMirrorsThatDontRead: large bodies arrive while a mirror reads none of its copies.
func TestMirrorsThatDontRead(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	up.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		return false
	}
	for _, protocol := range []string{"http", "http2"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t, service("checkout", up.Address, "")+service("silent", deaf(t), "  protocol: "+protocol)+`
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec: {service: checkout, rules: [{mirror: [{service: silent, timeout: 1h}]}]}
`)
			for n := range 3 {
				if err := w.post(make([]byte, 12<<20), -1); err != nil {
					t.Fatal(err)
				}
				if active := w.envoy.Stat("cluster.shop/silent@shadow.upstream_rq_active"); active != float64(n+1) {
					t.Errorf("%v copies are on their way after %d requests", active, n+1)
				}
			}
		})
	}
}

// TestMirrorTimeout: a copy has its own time, which is neither the rule's nor less for that.
func TestMirrorTimeout(t *testing.T) {
	up, slow, hanging := envoytest.Upstream(t, "up"), envoytest.Upstream(t, "slow"), envoytest.Upstream(t, "hanging")
	up.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		return false
	}
	answer := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(answer) })
	defer letGo()
	slow.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		return false
	}
	hanging.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return true
	}
	w := newWorld(t, service("checkout", up.Address, "")+service("slow", slow.Address, "")+service("hanging", hanging.Address, "")+
		service("silent", deaf(t), "")+checkoutRoute+`    - name: default
      timeout: 250ms
      mirror: [{service: slow, timeout: 1m}, {service: hanging, timeout: 2s}, {service: silent, timeout: 500ms}]
`)
	if err := w.post(make([]byte, 24<<20), -1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hanging", "silent"} {
		w.eventually("the copy to "+name+" is ended", func() error {
			cluster := "cluster.shop/" + name + "@shadow."
			if sent, active := w.envoy.Stat(cluster+"upstream_rq_total"), w.envoy.Stat(cluster+"upstream_rq_active"); sent != 1 || active > 0 {
				return fmt.Errorf("%v sent, %v active", sent, active)
			}
			return nil
		})
	}
	// By now the rule's own time is long over.
	if n := w.envoy.Stat("cluster.shop/slow@shadow.upstream_rq_active"); n != 1 {
		t.Errorf("%v copies are on their way to the slow mirror, want 1", n)
	}
	letGo()
	w.eventually("the slow mirror's answer is taken", func() error {
		if n := w.envoy.Stat("cluster.shop/slow@shadow.upstream_rq_200"); n != 1 {
			return fmt.Errorf("%v answers", n)
		}
		return nil
	})
}

// TestMirrorsAndLimits: copies don't count.
func TestMirrorsAndLimits(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, "")+`
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec: {service: checkout, rules: [{mirror: [{}, {}], rateLimit: {requests: 10, per: hour}}]}
---
kind: RateLimit
metadata: {name: checkout, namespace: shop}
spec: {service: checkout, scope: local, limits: [{requests: 10, per: hour}]}
`)
	passed := 0
	for range 20 {
		if w.mustDo(checkout).status == http.StatusOK {
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d of 20 pass, want 10", passed)
	}
	w.eventually("the copies arrive", func() error {
		if n := up.Requests.Load(); n != 30 {
			return fmt.Errorf("%d requests, want 30", n)
		}
		return nil
	})
}

// TestMirrorsComeAndGo: a mirror that is added to a running Envoy finds the endpoints that are there already.
func TestMirrorsComeAndGo(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	with := mirrored(v1.Address, v2.Address, "[{version: v2}]", "", "")
	without := shop(v1.Address, v2.Address, 1, 0)
	w := newWorld(t, without)
	l := w.load(2)
	for range 5 {
		w.write("mesh.yaml", with)
		w.eventually("copies arrive", func() error {
			if v2.Requests.Load() == 0 {
				return fmt.Errorf("no copy yet, after %d requests", l.total.Load())
			}
			return nil
		})
		// Without its endpoints, Envoy would have begun with what it remembers of them, after 15 s.
		if n := w.envoy.Stat("cluster.shop/checkout/v2@shadow.init_fetch_timeout"); n > 0 {
			t.Error("the mirror's cluster was not sent its endpoints")
		}
		w.write("mesh.yaml", without)
		w.eventually("the mirror's cluster is gone", func() error {
			if strings.Contains(w.envoy.Get("/clusters"), "@shadow") {
				return fmt.Errorf("it is there")
			}
			return nil
		})
		v2.Requests.Store(0)
	}
	l.end(t)
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
