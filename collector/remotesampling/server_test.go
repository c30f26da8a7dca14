package remotesampling

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger-idl/proto-gen/api_v2"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/contrib/samplers/jaegerremote"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/processors/adaptivesampling"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/fleet"
	"github.com/machinenativeops/weir/sampling/proxies"
)

func TestConfig(t *testing.T) {
	if err := defaultConfig().Validate(); err == nil {
		t.Error("a configuration that asks for no protocol is taken")
	}
	cfg := defaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"http": nil, "grpc": map[string]any{}}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	for _, interval := range []string{"99ms", "11s"} {
		cfg := defaultConfig()
		if err := confmap.NewFromStringMap(map[string]any{"report": map[string]any{"interval": interval}}).Unmarshal(cfg); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "report.interval: ") {
			t.Errorf("an interval of %s gives %v", interval, err)
		}
	}
	for others, want := range map[string]string{
		"weir-1:18002": "report.others[0]: want http://HOST:PORT", "http://127.0.0.1:18002": "is told already",
		"http://weir-1:18002": "", "https://weir-1": "",
	} {
		cfg := defaultConfig()
		if err := confmap.NewFromStringMap(map[string]any{"report": map[string]any{"others": []any{others}}}).Unmarshal(cfg); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("others: [%s] gives %v, want %q", others, err, want)
		}
	}
	if got := cfg.HTTP.Get().NetAddr.Endpoint + " " + cfg.GRPC.Get().NetAddr.Endpoint; got != "127.0.0.1:5778 127.0.0.1:5779" {
		t.Errorf("it listens on %s", got)
	}
}

// host has one extension.
type host struct{ extension component.Component }

func (h host) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{component.NewID(typ): h.extension}
}

// world is the extension and a processor beside it, as a collector would run them.
type world struct {
	*testing.T
	policy    string // file
	http      string // of the extension
	grpc      string
	extension *server
}

func (w *world) write(text string) {
	w.Helper()
	tmp := filepath.Join(w.TempDir(), "new")
	if err := os.WriteFile(tmp, []byte("kind: Sampling\nmetadata: {name: default}\nspec:\n"+text), 0o600); err != nil {
		w.Fatal(err)
	}
	if err := os.Rename(tmp, w.policy); err != nil {
		w.Fatal(err)
	}
}

func address(t *testing.T) string {
	t.Helper()
	address, err := servers.FreeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// newWorld starts one without a processor.
func newWorld(t *testing.T, report ...map[string]any) *world {
	t.Helper()
	w := &world{T: t, policy: filepath.Join(t.TempDir(), "policy.yaml"), http: address(t), grpc: address(t)}
	cfg := defaultConfig()
	endpoint := func(at string) map[string]any { return map[string]any{"endpoint": at} }
	written := map[string]any{"http": endpoint(w.http), "grpc": endpoint(w.grpc)}
	if len(report) > 0 {
		written["report"] = report[0]
	}
	if err := confmap.NewFromStringMap(written).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	e, err := NewFactory().Create(t.Context(), extensiontest.NewNopSettings(typ), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	w.extension = e.(*server)
	return w
}

// processor starts one beside the extension.
func (w *world) processor(text string) {
	w.Helper()
	w.write(text)
	cfg := adaptivesampling.NewFactory().CreateDefaultConfig().(*adaptivesampling.Config)
	cfg.Policy = []string{w.policy}
	p, err := adaptivesampling.NewFactory().CreateTraces(w.Context(), processortest.NewNopSettings(adaptivesampling.NewFactory().Type()), cfg, consumertest.NewNop())
	if err != nil {
		w.Fatal(err)
	}
	if err := p.Start(w.Context(), host{w.extension}); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			w.Error(err)
		}
	})
}

func (w *world) get(query string) (int, string) {
	w.Helper()
	resp, err := http.Get("http://" + w.http + "/sampling" + query)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

// TestSDKFollowsWithinOnePoll: the sampler of the OpenTelemetry Go SDK takes over what new documents say the next time
// that it asks.
func TestSDKFollowsWithinOnePoll(t *testing.T) {
	w := newWorld(t)
	w.processor("  classes: {default: 40}\n  operations: [{operation: GET /all, percent: 100}]\n")
	// The service is known by its spans; before, it is to make everything. Of one that comes while documents are read, the next will do.
	w.eventually("the service is known", func() bool {
		w.extension.all[0].rates().Service(ref("checkout"), "").Threshold("GET /")
		_, body := w.get("?service=checkout")
		return strings.Contains(body, `"defaultSamplingProbability":0.39`)
	})
	sampler := jaegerremote.New("checkout",
		jaegerremote.WithSamplingServerURL("http://"+w.http+"/sampling"), jaegerremote.WithSamplingRefreshInterval(time.Hour))
	defer sampler.Close()
	check := func(operation string, want float64) {
		t.Helper()
		if got := sampled(sampler, operation); math.Abs(got-want) > 0.02 {
			t.Errorf("%s: %v of the traces are sampled, want %v", operation, got, want)
		}
	}
	w.eventually("the sampler has asked", func() bool { return sampled(sampler, "GET /all") == 1 })
	check("GET /", 0.4)

	before := w.extension.all[0].rates()
	w.write("  classes: {default: 10}\n  operations: [{operation: GET /all, percent: 70}]\n")
	w.eventually("the documents are in force", func() bool { return w.extension.all[0].rates() != before })
	check("GET /", 0.4)
	sampler.UpdateSampler() // one poll
	check("GET /", 0.1)
	check("GET /all", 0.7)
}

// sampled is the share of many traces that a sampler keeps.
func sampled(s trace.Sampler, operation string) float64 {
	random := rand.New(rand.NewPCG(1, 2))
	const n = 20_000
	kept := 0
	for range n {
		p := trace.SamplingParameters{Name: operation}
		for i := range p.TraceID {
			p.TraceID[i] = byte(random.Uint32())
		}
		if s.ShouldSample(p).Decision == trace.RecordAndSample {
			kept++
		}
	}
	return float64(kept) / n
}

func (w *world) eventually(what string, is func() bool) {
	w.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.Fatalf("not within 20 s: %s", what)
}

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	if code, body := w.get("?service=x"); code != http.StatusServiceUnavailable {
		t.Errorf("without a processor: %d %s", code, body)
	}
	conn, err := grpc.NewClient(w.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ask := func(service string) (*api_v2.SamplingStrategyResponse, error) {
		return api_v2.NewSamplingManagerClient(conn).GetSamplingStrategy(t.Context(), &api_v2.SamplingStrategyParameters{ServiceName: service})
	}
	if _, err := ask("x"); status.Code(err) != codes.Unavailable {
		t.Errorf("without a processor: %v", err)
	}
	w.processor("  classes: {default: 20}\n  operations: [{service: shop/x, operation: GET /a, percent: 50}]\n")
	if code, body := w.get(""); code != http.StatusBadRequest {
		t.Errorf("without a service: %d %s", code, body)
	}
	if _, err := ask(""); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a service: %v", err)
	}
	w.extension.all[0].rates().Service(ref("x"), "").Threshold("GET /b")
	w.extension.all[0].made = time.Time{}
	const want = `{"strategyType":"PROBABILISTIC","probabilisticSampling":{"samplingRate":0.5},` +
		`"operationSampling":{"defaultSamplingProbability":0.1999969482421875,"defaultLowerBoundTracesPerSecond":0,"perOperationStrategies":[` +
		`{"operation":"GET /a","probabilisticSampling":{"samplingRate":0.5}},{"operation":"GET /b","probabilisticSampling":{"samplingRate":0.1999969482421875}}]}}`
	if code, body := w.get("?service=" + url.QueryEscape("shop/x")); code != http.StatusOK || body != want {
		t.Errorf("got %d %s\nwant %s", code, body, want)
	}
	got, err := ask("x")
	if err != nil {
		t.Fatal(err)
	}
	s := got.OperationSampling
	if len(s.PerOperationStrategies) != 2 || s.PerOperationStrategies[0].Operation != "GET /a" || s.PerOperationStrategies[0].ProbabilisticSampling.SamplingRate != 0.5 {
		t.Errorf("got %v", got)
	}
}

// TestReports: Weir is told, by PUT of JSON, what is worth making of each route by which spans have come, and again after it
// was away.
func TestReports(t *testing.T) {
	var taken, away, asked atomic.Int64
	var answer atomic.Pointer[proxies.Answer]
	answer.Store(&proxies.Answer{})
	var last atomic.Pointer[proxies.Report]
	weir := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if away.Load() > 0 {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		var report proxies.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil || report.Validate() != nil || r.Method != http.MethodPut ||
			r.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(r.URL.Path, "/api/v1/sampling/collectors/") {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		last.Store(&report)
		taken.Add(1)
		if err := json.NewEncoder(w).Encode(answer.Load()); err != nil {
			t.Error(err)
		}
	}))
	defer weir.Close()
	w := newWorld(t, map[string]any{"endpoint": weir.URL, "interval": "100ms"})
	w.processor("  adaptive: {spansPerSecond: 10, window: 1s}\n")
	flood := func() {
		rates := w.extension.all[0].rates() // those in force, which a second look at the documents may put in place of the first
		operation := rates.Service(ref("edge"), "").Operation("GET /flood")
		for range 1000 {
			operation.Came(1, 1)
		}
		operation.Placed("shop/a/flood")
		rates.Step(time.Now().UnixNano())
	}
	w.eventually("the flood is reported", func() bool {
		flood()
		r := last.Load()
		return r != nil && len(r.Routes) == 1 && r.Routes[0].Name == "shop/a/flood" && r.Routes[0].Percent < 50
	})
	if b := last.Load().Budget; b == nil || b.Needs.Mesh == 0 {
		t.Errorf("of the budget, it is reported that %+v is needed", b)
	}
	rates := func() *sampling.Rates { return w.extension.all[0].rates() }
	budget := func() float64 { b, _ := rates().Budget(); return b }
	answer.Store(&proxies.Answer{Budget: &fleet.Answer{Shares: sampling.Parts{Mesh: 0.1}}})
	w.eventually("the collector has the share that it is told", func() bool { return budget() == 1 })

	// What makes no sense changes nothing, and neither does it that nobody answers.
	before := taken.Load()
	answer.Store(&proxies.Answer{Budget: &fleet.Answer{Shares: sampling.Parts{Mesh: 7}}})
	w.eventually("it is reported again", func() bool { return taken.Load() > before+1 })
	away.Store(1)
	before = asked.Load()
	w.eventually("it is tried again", func() bool { return asked.Load() > before+1 })
	if got := budget(); got != 1 {
		t.Errorf("nobody says so, but its budget is %v", got)
	}
	before = taken.Load()
	away.Store(0)
	w.eventually("it is reported again", func() bool { return taken.Load() > before })
}

// TestSeveralWeirs: all are told, and the lowest share that is said holds, also while one of them is away.
func TestSeveralWeirs(t *testing.T) {
	type saying struct {
		away  atomic.Bool
		asked atomic.Int64
		names sync.Map
	}
	say := func(share float64) (*saying, string) {
		s := new(saying)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.asked.Add(1)
			s.names.Store(r.URL.Path, true)
			if s.away.Load() {
				http.Error(w, "away", http.StatusServiceUnavailable)
				return
			}
			if err := json.NewEncoder(w).Encode(proxies.Answer{Budget: &fleet.Answer{Shares: sampling.Parts{Mesh: share}}}); err != nil {
				t.Error(err)
			}
		}))
		t.Cleanup(server.Close)
		return s, server.URL
	}
	knows, knowsAt := say(0.1)
	cut, cutAt := say(0.4) // it hears of fewer
	w := newWorld(t, map[string]any{"endpoint": cutAt, "others": []any{knowsAt}, "interval": "100ms"})
	w.processor("  adaptive: {spansPerSecond: 10, window: 1s}\n")
	has := func(want float64) func() bool {
		return func() bool { b, _ := w.extension.all[0].rates().Budget(); return math.Abs(b-want) < 1e-9 }
	}
	w.eventually("it has the lower share", has(1))
	cut.away.Store(true)
	before := cut.asked.Load()
	w.eventually("the one that is away is asked", func() bool { return cut.asked.Load() > before+2 })
	w.eventually("it has the lower share", has(1))
	cut.away.Store(false)
	knows.away.Store(true)
	w.eventually("it has what the only one says", has(4))
	for _, s := range []*saying{knows, cut} {
		names := 0
		s.names.Range(func(any, any) bool { names++; return true })
		if names != 1 {
			t.Errorf("a Weir knows the collector by %d names", names)
		}
	}
}

// TestLeaves: a collector that ends gives its share of the budget back, and what it has found worth making stays.
func TestLeaves(t *testing.T) {
	reports := make(chan proxies.Report, 1000)
	weir := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var report proxies.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			t.Error(err)
		}
		reports <- report
		_, _ = io.WriteString(w, "{}")
	}))
	defer weir.Close()
	t.Run("collector", func(t *testing.T) { // which ends with it
		w := newWorld(t, map[string]any{"endpoint": weir.URL, "interval": "10s"})
		w.processor("  adaptive: {spansPerSecond: 10, window: 1s}\n")
		if first := <-reports; first.Budget == nil || !first.Budget.New { // at once, not after 10 s
			t.Errorf("it reports %+v at first", first)
		}
	})
	var last proxies.Report
	for len(reports) > 0 {
		last = <-reports
	}
	if last.Budget != nil || last.Routes == nil {
		t.Errorf("it reports %+v at last", last)
	}
}

// TestNoShare: a collector that is to leave the budget alone has what replicas gives it.
func TestNoShare(t *testing.T) {
	var asked atomic.Int64
	weir := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var report proxies.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil || report.Budget != nil {
			t.Errorf("%v %+v", err, report)
		}
		asked.Add(1)
		_, _ = io.WriteString(w, `{"budget": {"shares": {"mesh": 0.5}}}`)
	}))
	defer weir.Close()
	w := newWorld(t, map[string]any{"endpoint": weir.URL, "interval": "100ms", "budget": false})
	w.processor("  adaptive: {spansPerSecond: 10, window: 1s}\n")
	w.eventually("it has reported", func() bool { return asked.Load() > 2 })
	if got, _ := w.extension.all[0].rates().Budget(); got != 10 {
		t.Errorf("it has a budget of %v", got)
	}
}

func TestTakenPort(t *testing.T) {
	w := newWorld(t)
	cfg := defaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"http": map[string]any{"endpoint": address(t)}, "grpc": map[string]any{"endpoint": w.grpc}}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	e, err := NewFactory().Create(t.Context(), extensiontest.NewNopSettings(typ), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err == nil || !strings.Contains(err.Error(), "grpc: ") {
		t.Errorf("it starts on a taken port: %v", err)
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func ref(name string) policy.Ref { return policy.Ref{Namespace: "shop", Name: name} }
