package e2e_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/samplers/jaegerremote"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/sampling"
)

// tracedWorld is a world whose proxies send spans to a real weir-collector, which samples them by the same documents and
// sends them on to kept.
type tracedWorld struct {
	*world
	collector *collector
	sdks      string // where remote sampling is
	kept      *envoytest.Collector
}

func newTracedWorld(t *testing.T, documents string) *tracedWorld {
	t.Helper()
	kept := envoytest.NewCollector(t)
	c := newCollector(t, "later", nil)
	more := filepath.Join(t.TempDir(), "kept.yaml")
	text := fmt.Sprintf("exporters: {otlp_grpc/kept: {endpoint: %q, tls: {insecure: true}}}\nservice: {pipelines: {traces: {exporters: [otlp_grpc/kept]}}}\n", kept.Address)
	if err := os.WriteFile(more, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, strings.ReplaceAll(documents, "COLLECTOR", c.otlp))
	sdks := freePorts(t, 1)[0]
	c.command.Args = append(c.command.Args, "--config", more)
	c.command.Env = append(c.command.Env, "WEIR_POLICY="+w.dir, "WEIR_HTTP="+w.http, "WEIR_SAMPLING_HTTP="+sdks)
	c.start(t)
	return &tracedWorld{w, c, "http://" + sdks + "/sampling", kept}
}

// ask sends a request, and says whether the proxy has begun a trace of it.
func (w *tracedWorld) ask(t *testing.T, host, path string) bool {
	resp, err := w.do(t.Context(), request{host: host, path: path})
	if err != nil {
		if t.Context().Err() == nil {
			t.Error(err)
		}
		return false
	}
	return strings.HasSuffix(resp.header.Get("Echo-Traceparent"), "-01")
}

// thinned gives per cent by route, as Weir's status tells.
func (w *tracedWorld) thinned() (map[string]float64, error) {
	resp, err := w.client.Get(w.http + "/api/v1/status")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s struct {
		Sampling struct {
			Routes []struct {
				Name    string
				Percent float64
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for _, r := range s.Sampling.Routes {
		all[r.Name] = r.Percent
	}
	return all, nil
}

// TestRatesGoBackToTheProxies: of a flood, the proxies make less, and of other routes all. When nobody reports any more,
// that stays for a while and then goes back to what the documents say.
func TestRatesGoBackToTheProxies(t *testing.T) {
	t.Setenv("WEIR_SAMPLING_FREEZE", "4s")
	t.Setenv("WEIR_SAMPLING_DECAY", "4s")
	up := envoytest.Upstream(t, "up")
	w := newTracedWorld(t, `
kind: Mesh
metadata: {name: mesh}
spec: {tracing: {collector: "COLLECTOR"}}
---
kind: Sampling
metadata: {name: default}
spec: {classes: {default: 100}, adaptive: {spansPerSecond: 20, window: 1s}}
`+service("flood", up.Address, "")+service("calm", up.Address, ""))

	var calm, calmTraced, stop atomic.Int64
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop.Store(1)
	tasks.Go(func() {
		for stop.Load() == 0 {
			calm.Add(1)
			if w.ask(t, "calm.example.com", "/calm") {
				calmTraced.Add(1)
			}
			time.Sleep(300 * time.Millisecond)
		}
	})
	flood := func() float64 { // which part of it is traced
		const n = 200
		traced := 0
		for range n {
			if w.ask(t, "flood.example.com", "/flood?x=1") {
				traced++
			}
		}
		return float64(traced) / n
	}
	if share := flood(); share != 1 {
		t.Errorf("at first, %v of the flood is traced", share)
	}
	began := time.Now()
	w.eventually("the proxies make less of the flood", func() error {
		if share := flood(); share > 0.5 {
			return fmt.Errorf("%v of it is traced", share)
		}
		return nil
	})
	t.Logf("after %s the proxies make less", time.Since(began).Round(100*time.Millisecond))
	routes, err := w.thinned()
	if err != nil {
		t.Fatal(err)
	}
	if len(routes) != 1 || routes["shop/flood/default"] == 0 {
		t.Errorf("less is made of %v", routes)
	}
	if out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://")); err != nil || !strings.Contains(out, "of shop/flood/default, ") {
		t.Errorf("weir status: %v\n%s", err, out)
	}

	// The loop is cut.
	w.collector.process.Stop()
	cut := time.Now()
	if share := flood(); share > 0.7 && time.Since(cut) < 3*time.Second {
		t.Errorf("right after the collector ended, %v of the flood is traced", share)
	}
	w.eventually("all is made again", func() error {
		if routes, err := w.thinned(); err != nil || len(routes) > 0 {
			return fmt.Errorf("%v %w", routes, err)
		}
		if share := flood(); share < 1 {
			return fmt.Errorf("%v of the flood is traced", share)
		}
		return nil
	})
	if after := time.Since(cut); after < 4*time.Second {
		t.Errorf("shares have gone after %s: they were not frozen", after)
	}
	stop.Store(1)
	tasks.Wait()
	if calm.Load() != calmTraced.Load() || calm.Load() == 0 {
		t.Errorf("%d of %d requests of the other route were traced", calmTraced.Load(), calm.Load())
	}
	if out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://")); err != nil {
		t.Errorf("something is refused: %v\n%s", err, out)
	}
}

// TestMarkedByBaggage: a request whose baggage has a member that marks traces is kept whole, where nothing else is.
func TestMarkedByBaggage(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newTracedWorld(t, `
kind: Mesh
metadata: {name: mesh}
spec: {tracing: {collector: "COLLECTOR"}}
---
kind: Sampling
metadata: {name: default}
spec: {classes: {default: 0, api: 0}, keep: {marked: [debug.trace, other]}, wait: 500ms}
---
kind: Route
metadata: {name: shop, namespace: shop}
spec:
  service: shop
  rules:
    - {name: strangers, match: {path: {exact: /stranger}}, requestHeaders: {remove: [baggage]}}
    - {name: all}
`+service("shop", up.Address, ""))
	baggage := map[string]string{
		"/none": "", "/another": "debug-trace=1", "/part": "my.debug.trace=1, a=debug.trace=1", "/false": "debug.trace=false", "/empty": "debug.trace=,b=1",
		"/false-with": "a=1 , debug.trace = false ;p=1", "/marked": "debug.trace=1", "/marked-with": "a=b,\tdebug.trace = yes;p=1 ,other=false", "/marked-falsely": "other=falsely",
		"/stranger": "debug.trace=1",
	}
	for path, value := range baggage {
		r := request{host: "shop.example.com", path: path}
		if value != "" {
			r.headers = map[string]string{"baggage": value}
		}
		if _, err := w.do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	marked := func() map[string]bool {
		all := map[string]bool{}
		for _, span := range w.kept.Spans() {
			if span["weir.sampling.rule"] != "marked" || span["debug.trace"] != "true" && span["other"] != "true" {
				t.Errorf("kept: %v", span)
			}
			all[strings.TrimPrefix(span["name"].(string), "GET ")] = true
		}
		return all
	}
	w.eventually("what is marked is kept", func() error {
		if n := len(marked()); n < 3 {
			return fmt.Errorf("%d are kept", n)
		}
		return nil
	})
	time.Sleep(time.Second) // until all else is judged
	for path := range marked() {
		if !strings.HasPrefix(path, "/marked") {
			t.Errorf("%s is kept, with baggage %q", path, baggage[path])
		}
	}
}

// TestCountsThroughThreeStages: an SDK, a real Envoy and a real collector sample one after the other, each at another
// rate. The sums of adjusted counts agree with what there was, by a chi-square test over all operations at p = 0.001.
func TestCountsThroughThreeStages(t *testing.T) {
	const operations, traces = 6, 6000
	const critical = 32.91 // of chi-square with twelve degrees of freedom
	up := envoytest.Upstream(t, "up")
	documents := `
kind: Mesh
metadata: {name: mesh}
spec: {tracing: {collector: "COLLECTOR", percent: 40}}
---
kind: Sampling
metadata: {name: default}
spec:
  classes: {default: 50, api: 50}
  operations: [{operation: "*/2", percent: 80}, {operation: "*/3", percent: 20}, {operation: "*/4", percent: 30}]
` + service("shop", up.Address, "") + service("client", up.Address, "  class: api")
	w := newTracedWorld(t, documents)

	sampler := jaegerremote.New("shop/client", jaegerremote.WithSamplingServerURL(w.sdks),
		jaegerremote.WithSamplingRefreshInterval(time.Hour), jaegerremote.WithInitialSampler(trace.NeverSample()))
	defer sampler.Close()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpoint(w.collector.otlp), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	provider := trace.NewTracerProvider(trace.WithSampler(trace.ParentBased(sampler)), trace.WithBatcher(exporter, trace.WithMaxQueueSize(2*traces), trace.WithBatchTimeout(time.Second)),
		trace.WithResource(resource.NewSchemaless(attribute.String("service.name", "client"), attribute.String("service.namespace", "shop"))))
	tracer := provider.Tracer("test")
	sampler.UpdateSampler() // 80 %: nobody has seen its operations yet, which may be of the highest rate

	truth := map[string]int{}
	var mu sync.Mutex
	var tasks sync.WaitGroup
	for worker := range 8 {
		tasks.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range traces / 8 {
				path := fmt.Sprint("/", min(random.IntN(operations), random.IntN(operations)))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway+path, http.NoBody)
				if err != nil {
					t.Error(err)
					return
				}
				req.Host = "shop.example.com"
				name, end := "GET "+path, func() {} // the proxy's root
				if random.IntN(2) == 0 {
					name = "call " + path
					ctx, span := tracer.Start(t.Context(), name)
					propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
					end = func() { span.End() }
				}
				mu.Lock()
				truth[name]++
				mu.Unlock()
				resp, err := w.client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				end()
			}
		})
	}
	tasks.Wait()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	last := -1
	w.eventually("all spans have come", func() error {
		n := len(w.kept.Spans())
		time.Sleep(2 * time.Second)
		if before := last; before != n || n == 0 {
			last = n
			return fmt.Errorf("%d", n)
		}
		return nil
	})

	sums, variances, roots := map[string]float64{}, map[string]float64{}, 0
	for _, one := range w.kept.Spans() {
		if name := one["name"].(string); one["root"].(bool) && truth[name] > 0 {
			count := sampling.ParseState(one["tracestate"].(string)).Threshold.AdjustedCount()
			sums[name] += count
			variances[name] += count * (count - 1)
			roots++
		}
	}
	chi := 0.0
	for name, n := range truth {
		off := sums[name] - float64(n)
		chi += off * off / max(variances[name], 1)
		t.Logf("%-8s %5d, counted %8.1f, %+.2f standard errors", name, n, sums[name], off/math.Sqrt(max(variances[name], 1)))
	}
	t.Logf("%d of %d roots are kept; chi-square is %.1f, of %d operations", roots, traces, chi, len(truth))
	if chi > critical || len(truth) != 2*operations {
		t.Errorf("the counts are off: chi-square is %.1f, and would be above %v once in a thousand times", chi, critical)
	}
}
