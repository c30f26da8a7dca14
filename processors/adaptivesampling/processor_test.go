package adaptivesampling

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/machinenativeops/weir/sampling"
)

const rates = `
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  class: api
  endpoints: {static: [{address: 127.0.0.1, port: 9}]}
---
kind: Sampling
metadata: {name: default}
spec:
  classes: {main: 20, api: 50, health: 0, default: 100}
  operations:
    - {service: shop/checkout, operation: "POST /pay", percent: 100}
    - {operation: "GET /secret*", percent: 0}
`

func TestConfig(t *testing.T) {
	if err := (&Config{}).Validate(); err == nil {
		t.Error("a configuration without documents is taken")
	}
	if err := (&Config{Policy: []string{"x"}, Replicas: 1, Whole: defaultConfig().(*Config).Whole}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestLifecycle(t *testing.T) {
	all := "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 100}}\n"
	processortest.VerifyShutdown(t, NewFactory(), config(t, all))
}

func TestStartWithoutDocumentsIsRefused(t *testing.T) {
	p, err := NewFactory().CreateTraces(t.Context(), processortest.NewNopSettings(typ),
		&Config{Policy: []string{filepath.Join(t.TempDir(), "none.yaml")}}, consumertest.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), componenttest.NewNopHost()); err == nil {
		t.Error("it starts without documents")
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestJudgement(t *testing.T) { bothWays(t, testJudgement) }

func testJudgement(t *testing.T) {
	low, high := traceID(0x10000000000000), traceID(0xf0000000000000)
	for _, tt := range []struct {
		name                   string
		service, class, span   string
		id                     pcommon.TraceID
		tracestate, wantStates string // "dropped", or the tracestate
	}{
		{"its document's class", "checkout", "main", "GET /", high, "", "ot=th:8"},
		{"below its rate", "checkout", "", "GET /", low, "", "dropped"},
		{"an operation's rate", "checkout", "", "POST /pay", low, "", "ot=th:0"},
		{"only of its service", "other", "health", "POST /pay", high, "", "dropped"},
		{"an operation of any service", "checkout", "", "GET /secret/x", high, "", "dropped"},
		{"the class it claims", "other", "main", "GET /", high, "", "ot=th:cccd"},
		{"no class at all", "other", "", "GET /", low, "", "ot=th:0"},
		{"others' state stays", "other", "", "GET /", low, "a=b,ot=x:y", "ot=th:0;x:y,a=b"},
		{"sampled before at less", "other", "main", "GET /", high, "ot=th:e", "ot=th:e"},
		{"sampled before at more", "other", "main", "GET /", high, "ot=th:8", "ot=th:cccd"},
		{"explicit randomness", "checkout", "", "GET /", low, "ot=rv:f0000000000000", "ot=th:8;rv:f0000000000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			td := ptrace.NewTraces()
			span := resource(td, tt.service, tt.class).AppendEmpty()
			span.SetName(tt.span)
			span.SetTraceID(tt.id)
			span.TraceState().FromRaw(tt.tracestate)
			got := "dropped"
			if out := consume(t, td); len(out) > 0 {
				got = out[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceState().AsRaw()
			}
			if got != tt.wantStates {
				t.Errorf("got %q, want %q", got, tt.wantStates)
			}
		})
	}
}

// TestTogetherAsAlone: what becomes of a span does not depend on those that it came with.
func TestTogetherAsAlone(t *testing.T) { bothWays(t, testTogetherAsAlone) }

func testTogetherAsAlone(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	states := []string{"", "vendor=x", "ot=th:8", "ot=th:c,vendor=x", "ot=rv:f0000000000000", "ot=th:8;rv:a0000000000000"}
	all := ptrace.NewTraces()
	together := resource(all, "checkout", "")
	want := map[string]string{}
	for i := range 1000 {
		alone := ptrace.NewTraces()
		span := resource(alone, "checkout", "").AppendEmpty()
		span.SetName([]string{"GET /", "POST /pay"}[random.IntN(2)])
		span.SetTraceID(traceID(random.Uint64() >> 8))
		span.TraceState().FromRaw(states[random.IntN(len(states))])
		span.Attributes().PutStr("number", fmt.Sprint(i))
		span.CopyTo(together.AppendEmpty())
		maps.Copy(want, written(consume(t, alone)))
	}
	if got := written(consume(t, all)); !maps.Equal(got, want) {
		t.Errorf("of those that came together %d are kept, %d of those that came alone, or not alike", len(got), len(want))
	}
}

// written is the tracestates of spans that were kept, by their numbers.
func written(kept []ptrace.Traces) map[string]string {
	states := map[string]string{}
	for _, td := range kept {
		for _, span := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			number, _ := span.Attributes().Get("number")
			states[number.Str()] = span.TraceState().AsRaw()
		}
	}
	return states
}

// TestRootsSayHowTheyWereChosen: what SDKs and proxies have sampled by chance is counted, and not sampled twice.
func TestRootsSayHowTheyWereChosen(t *testing.T) { bothWays(t, testRootsSayHowTheyWereChosen) }

func testRootsSayHowTheyWereChosen(t *testing.T) {
	for _, tt := range []struct {
		name       string
		class      string
		attributes map[string]any
		child      bool
		want       string // threshold
	}{
		{"an SDK at half of our rate", "main", map[string]any{"jaeger.sampler.type": "probabilistic", "jaeger.sampler.param": 0.125}, false, "e"},
		{"as text", "main", map[string]any{"sampler.type": "probabilistic", "sampler.param": "0.125"}, false, "e"},
		{"an SDK at all", "", map[string]any{"jaeger.sampler.type": "probabilistic", "jaeger.sampler.param": 1.0}, false, "0"},
		{"so many a second", "", map[string]any{"jaeger.sampler.type": "ratelimiting", "jaeger.sampler.param": 0.5}, false, "0"},
		{"a proxy", "main", map[string]any{"weir.sampling.threshold": "e"}, false, "e"},
		{"a proxy that was made to", "", map[string]any{"weir.sampling.threshold": "e", "guid:x-client-trace-id": "1"}, false, "0"},
		{"not the root", "", map[string]any{"weir.sampling.threshold": "e"}, true, "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			td := ptrace.NewTraces()
			span := resource(td, "other", tt.class).AppendEmpty()
			span.SetName("GET /")
			span.SetTraceID(traceID(1)) // the lowest randomness of all
			if tt.child {
				span.SetParentSpanID([8]byte{1})
			}
			if err := span.Attributes().FromRaw(tt.attributes); err != nil {
				t.Fatal(err)
			}
			out := consume(t, td)
			if len(out) == 0 {
				t.Fatal("it is dropped")
			}
			state := sampling.ParseState(out[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceState().AsRaw())
			if state.Threshold.String() != tt.want || state.HasRandomness != (tt.want != "0") || !state.Threshold.Keep(state.RandomnessOf(span.TraceID())) {
				t.Errorf("got %+v, want %s", state, tt.want)
			}
		})
	}
}

func TestEmptiedPartsGo(t *testing.T) { bothWays(t, testEmptiedPartsGo) }

func testEmptiedPartsGo(t *testing.T) {
	td := ptrace.NewTraces()
	for _, class := range []string{"health", "", "health"} {
		spans := resource(td, "other", class)
		spans.AppendEmpty().SetTraceID(traceID(1))
		spans.AppendEmpty().SetTraceID(traceID(2))
	}
	out := consume(t, td)
	if len(out) != 1 || out[0].ResourceSpans().Len() != 1 || out[0].SpanCount() != 2 {
		t.Errorf("got %d batches", len(out))
	}
}

func TestSpansAreCounted(t *testing.T) { bothWays(t, testSpansAreCounted) }

func testSpansAreCounted(t *testing.T) {
	telemetry := componenttest.NewTelemetry()
	set := processortest.NewNopSettings(typ)
	set.TelemetrySettings = telemetry.NewTelemetrySettings()
	td := ptrace.NewTraces()
	for range 2 {
		spans := resource(td, "checkout", "")
		spans.AppendEmpty().SetTraceID(traceID(0x10000000000000))
		spans.AppendEmpty().SetTraceID(traceID(0xf0000000000000))
	}
	resource(td, "other", "invented").AppendEmpty()
	p := start(t, rates, set, consumertest.NewNop())
	if err := p.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	m, err := telemetry.GetMetric("otelcol_weir_sampling_spans")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
		class, _ := point.Attributes.Value(attribute.Key("class"))
		decision, _ := point.Attributes.Value(attribute.Key("decision"))
		got[class.AsString()+" "+decision.AsString()] = point.Value
	}
	want := map[string]int64{"api kept": 2, "api dropped": 2, "default kept": 1, "default dropped": 0}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := telemetry.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// BenchmarkConsumeTraces is the sampler on batches of 1,000 spans of 50 services, a fifth of which is kept. ns/span is what
// counts: 80 without a tracestate, 200 with one. The one of "vendor=%d" has another tracestate for each span.
func BenchmarkConsumeTraces(b *testing.B) {
	for _, tracestate := range []string{"", "vendor=x", "ot=th:8,vendor=x", "vendor=%d"} {
		b.Run(cmp.Or(tracestate, "none"), func(b *testing.B) { benchmarkConsume(b, rates, tracestate) })
	}
	b.Run("adaptive", func(b *testing.B) { benchmarkConsume(b, rates+"  adaptive: {spansPerSecond: 100000}\n", "") })
}

func benchmarkConsume(b *testing.B, documents, tracestate string) {
	const services, spans = 50, 20
	random := rand.New(rand.NewPCG(1, 2))
	batch := ptrace.NewTraces()
	for i := range services {
		ss := resource(batch, fmt.Sprintf("s%d", i), "main")
		for range spans {
			span := ss.AppendEmpty()
			span.SetName("GET /cart")
			span.SetTraceID(traceID(random.Uint64() >> 8))
			span.TraceState().FromRaw(strings.ReplaceAll(tracestate, "%d", fmt.Sprint(random.Uint32())))
		}
	}
	p := start(b, documents, processortest.NewNopSettings(typ), consumertest.NewNop())
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		td := ptrace.NewTraces()
		batch.CopyTo(td)
		b.StartTimer()
		if err := p.ConsumeTraces(b.Context(), td); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(services*spans), "ns/span")
}

// consume runs one batch through a processor of its own and gives what comes out.
func consume(t *testing.T, td ptrace.Traces) []ptrace.Traces {
	t.Helper()
	sink := new(consumertest.TracesSink)
	if err := start(t, rates, processortest.NewNopSettings(typ), sink).ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	return sink.AllTraces()
}

func start(tb testing.TB, documents string, set processor.Settings, next consumer.Traces) processor.Traces {
	tb.Helper()
	p, err := NewFactory().CreateTraces(tb.Context(), set, config(tb, documents), next)
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.Start(tb.Context(), componenttest.NewNopHost()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return inItsWay(tb, p)
}

func config(tb testing.TB, text string) *Config {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	cfg := defaultConfig().(*Config)
	cfg.Policy = []string{file}
	return cfg
}

func resource(td ptrace.Traces, service, class string) ptrace.SpanSlice {
	rs := td.ResourceSpans().AppendEmpty()
	attributes := rs.Resource().Attributes()
	attributes.PutStr("service.name", service)
	attributes.PutStr("service.namespace", "shop")
	if class != "" {
		attributes.PutStr(sampling.ClassAttribute, class)
	}
	return rs.ScopeSpans().AppendEmpty().Spans()
}

// traceID is one of that randomness.
func traceID(randomness uint64) (id pcommon.TraceID) {
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], randomness)
	return id
}

// TestBudget sends far more than the budget until the rate gives way, and is told as a metric.
func TestBudget(t *testing.T) { bothWays(t, testBudget) }

func testBudget(t *testing.T) {
	telemetry := componenttest.NewTelemetry()
	set := processortest.NewNopSettings(typ)
	set.TelemetrySettings = telemetry.NewTelemetrySettings()
	cfg := config(t, rates+"  adaptive: {spansPerSecond: 100, window: 1s}\n")
	p, err := NewFactory().CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Shutdown(context.WithoutCancel(t.Context())) }()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		td := ptrace.NewTraces()
		spans := resource(td, "checkout", "")
		for range 1000 {
			s := spans.AppendEmpty()
			s.SetName("GET /cart")
			s.SetTraceID(traceID(rand.Uint64() >> 8))
		}
		if err := p.ConsumeTraces(t.Context(), td); err != nil {
			t.Fatal(err)
		}
		m, err := telemetry.GetMetric("otelcol_weir_sampling_rate")
		if err != nil {
			continue
		}
		for _, point := range m.Data.(metricdata.Gauge[float64]).DataPoints {
			if operation, _ := point.Attributes.Value("operation"); operation.AsString() == "GET /cart" && point.Value < 0.05 {
				return
			}
		}
	}
	t.Error("the rate of a flood stays")
}
