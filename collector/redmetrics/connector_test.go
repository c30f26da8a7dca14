package redmetrics

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/sampling"
)

func TestConfig(t *testing.T) {
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	wrong := &Config{SeriesExpiration: -1, Exemplars: -1, Dimensions: []string{"", "span.name", "a", "a"}}
	err := wrong.Validate()
	for _, place := range []string{
		"namespace", "flush_interval", "max_series", "series_expiration", "max_buckets", "exemplars",
		"dimensions[0]", "dimensions[1]: span.name is", "dimensions[3]: a is there twice",
	} {
		if err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("nothing is said of %s: %v", place, err)
		}
	}
}

// start makes a connector whose metrics the sink gets.
func start(t *testing.T, next consumer.Metrics, change func(*Config)) connector.Traces {
	t.Helper()
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	c, err := NewFactory().CreateTracesToMetrics(t.Context(), connectortest.NewNopSettings(typ), cfg, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	return c
}

func stop(t *testing.T, c connector.Traces) {
	t.Helper()
	if err := c.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func consume(t *testing.T, c consumer.Traces, td ptrace.Traces) {
	t.Helper()
	if err := c.ConsumeTraces(t.Context(), td); err != nil {
		t.Error(err)
	}
}

// resource appends spans' room for a service's version.
func resource(td ptrace.Traces, namespace, name, version string) ptrace.SpanSlice {
	rs := td.ResourceSpans().AppendEmpty()
	for key, value := range map[string]string{serviceNamespace: namespace, serviceName: name, serviceVersion: version} {
		if value != "" {
			rs.Resource().Attributes().PutStr(key, value)
		}
	}
	return rs.ScopeSpans().AppendEmpty().Spans()
}

func span(spans ptrace.SpanSlice, name string, trace uint64, took time.Duration) ptrace.Span {
	s := spans.AppendEmpty()
	s.SetName(name)
	s.SetKind(ptrace.SpanKindServer)
	var id pcommon.TraceID
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], trace)
	s.SetTraceID(id)
	s.SetSpanID(pcommon.SpanID{1})
	s.SetStartTimestamp(1_000_000_000)
	s.SetEndTimestamp(pcommon.Timestamp(1_000_000_000 + took))
	return s
}

// told is what the last metrics say, by the values of a series.
func told(md pmetric.Metrics) (calls map[string]float64, durations map[string]pmetric.ExponentialHistogramDataPoint) {
	calls, durations = map[string]float64{}, map[string]pmetric.ExponentialHistogramDataPoint{}
	metrics := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	for _, p := range metrics.At(0).Sum().DataPoints().All() {
		calls[name(p.Attributes())] = p.DoubleValue()
	}
	for _, p := range metrics.At(1).ExponentialHistogram().DataPoints().All() {
		durations[name(p.Attributes())] = p
	}
	return calls, durations
}

func name(attributes pcommon.Map) string {
	var parts []string
	for _, a := range []string{serviceNamespace, serviceName, serviceVersion, spanName, spanKind, statusCode, "tenant", overflow} {
		if v, ok := attributes.Get(a); ok {
			value := v.AsString()
			value = strings.TrimPrefix(strings.TrimPrefix(value, "SPAN_KIND_"), "STATUS_CODE_")
			parts = append(parts, value)
		}
	}
	return strings.Join(parts, " ")
}

func last(t *testing.T, sink *consumertest.MetricsSink) pmetric.Metrics {
	t.Helper()
	all := sink.AllMetrics()
	if len(all) == 0 {
		t.Fatal("there are no metrics")
	}
	return all[len(all)-1]
}

func TestSpansAreCounted(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, func(c *Config) { c.Dimensions = []string{"tenant"} })
	td := ptrace.NewTraces()
	spans := resource(td, "shop", "checkout", "v1")
	span(spans, "GET /cart", 1, 10*time.Millisecond)
	span(spans, "GET /cart", 2, 30*time.Millisecond).TraceState().FromRaw("vendor=x,ot=th:c") // one of four
	failed := span(spans, "GET /cart", 3, time.Second)
	failed.Status().SetCode(ptrace.StatusCodeError)
	failed.TraceState().FromRaw("ot=th:8")                                         // says less than its trace id: not true
	span(spans, "POST /pay", 4, time.Second).Attributes().PutStr("tenant", "gold") // of the span
	spans = resource(td, "shop", "checkout", "v2")
	td.ResourceSpans().At(1).Resource().Attributes().PutStr("tenant", "all") // of the resource
	span(spans, "GET /cart", 5, -time.Second)                                // clocks
	span(resource(td, "", "", ""), "GET /cart", 6, 0)
	for _, s := range []ptrace.Span{td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(1)} {
		id := s.TraceID()
		id[9] = 0xff // so that its threshold is true
		s.SetTraceID(id)
	}
	consume(t, c, td)
	stop(t, c)
	calls, durations := told(last(t, sink))
	for series, want := range map[string]float64{
		"shop checkout v1 GET /cart SERVER UNSET":      5,
		"shop checkout v1 GET /cart SERVER ERROR":      1,
		"shop checkout v1 POST /pay SERVER UNSET gold": 1,
		"shop checkout v2 GET /cart SERVER UNSET all":  1,
		"GET /cart SERVER UNSET":                       1,
	} {
		if calls[series] != want || float64(durations[series].Count()) != want {
			t.Errorf("%s: %v calls, %d durations, want %v", series, calls[series], durations[series].Count(), want)
		}
		delete(calls, series)
	}
	if len(calls) > 0 {
		t.Errorf("besides there are %v", calls)
	}
	if sum := durations["shop checkout v1 GET /cart SERVER UNSET"].Sum(); math.Abs(sum-0.130) > 1e-9 {
		t.Errorf("they took %v s", sum)
	}
	if p := durations["shop checkout v2 GET /cart SERVER UNSET all"]; p.ZeroCount() != 1 {
		t.Errorf("a span that ended before it began is not told as 0: %v", p.Positive().BucketCounts().AsRaw())
	}
}

// Exemplars are those with the most randomness, whoever comes first, and of one flush only.
func TestExemplarsAreThoseThatSamplersKeep(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, func(c *Config) { c.Exemplars = 3 }).(*counter)
	td := ptrace.NewTraces()
	spans := resource(td, "", "a", "")
	for _, i := range rand.New(rand.NewPCG(5, 6)).Perm(100) {
		span(spans, "b", uint64(i), time.Millisecond)
	}
	consume(t, c, td)
	c.flush(t.Context(), time.Now())
	_, durations := told(last(t, sink))
	exemplars := durations["a b SERVER UNSET"].Exemplars()
	if exemplars.Len() != 3 {
		t.Fatalf("%d exemplars", exemplars.Len())
	}
	for i, want := range []uint64{99, 98, 97} {
		id := exemplars.At(i).TraceID()
		if got := binary.BigEndian.Uint64(id[8:]); got != want || exemplars.At(i).DoubleValue() != 0.001 {
			t.Errorf("exemplar %d is of trace %d, %v s", i, got, exemplars.At(i).DoubleValue())
		}
	}
	stop(t, c)
	if _, durations = told(last(t, sink)); durations["a b SERVER UNSET"].Exemplars().Len() != 0 || durations["a b SERVER UNSET"].Count() != 100 {
		t.Error("exemplars are told twice, or spans are not")
	}
}

// What there is no room for is counted together, by service where there is room for that.
func TestSeriesAreBounded(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, func(c *Config) { c.MaxSeries = 2 }).(*counter)
	td := ptrace.NewTraces()
	spans := resource(td, "", "a", "")
	for i := range 1000 {
		span(spans, fmt.Sprint("op", i), uint64(i), time.Millisecond)
	}
	for i := range 10 {
		span(resource(td, "", fmt.Sprint("invented", i), ""), "op", 1, time.Millisecond)
	}
	consume(t, c, td)
	stop(t, c)
	calls, _ := told(last(t, sink))
	if len(calls) != 4 || calls["a op0 SERVER UNSET"] != 1 || calls["a op1 SERVER UNSET"] != 1 || calls["a true"] != 998 || calls["true"] != 10 {
		t.Errorf("got %v", calls)
	}
	if c.series.overflown.Load() != 1008 {
		t.Errorf("%d spans are told of as too many", c.series.overflown.Load())
	}
}

func TestSeriesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(consumertest.MetricsSink)
		c := start(t, sink, func(c *Config) { c.SeriesExpiration, c.FlushInterval, c.MaxSeries = time.Minute, 10*time.Second, 3 })
		defer stop(t, c)
		add := func(service, operation string) {
			td := ptrace.NewTraces()
			span(resource(td, "", service, ""), operation, 1, time.Millisecond)
			consume(t, c, td)
		}
		add("a", "old")
		add("b", "old")
		for range 9 {
			time.Sleep(10 * time.Second)
			add("a", "new")
		}
		synctest.Wait()
		calls, _ := told(last(t, sink))
		if len(calls) != 1 || calls["a new SERVER UNSET"] < 8 {
			t.Errorf("after 90 s there are %v", calls)
		}
		add("b", "new") // there is room again
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if calls, _ = told(last(t, sink)); calls["b new SERVER UNSET"] != 1 {
			t.Errorf("one that comes back is not counted anew: %v", calls)
		}
	})
}

// What the next component refuses is told the next time.
func TestRefusedMetricsAreToldAgain(t *testing.T) {
	sink, refuse := new(consumertest.MetricsSink), true
	next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		if refuse {
			return errors.New("not now")
		}
		return sink.ConsumeMetrics(ctx, md)
	})
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, next, nil).(*counter)
	td := ptrace.NewTraces()
	span(resource(td, "", "a", ""), "b", 1, time.Millisecond)
	consume(t, c, td)
	c.flush(t.Context(), time.Now())
	refuse = false
	stop(t, c)
	if calls, _ := told(last(t, sink)); calls["a b SERVER UNSET"] != 1 {
		t.Errorf("got %v", calls)
	}
}

// All spans are counted while series come and go and metrics are told.
func TestManyGoroutines(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, func(c *Config) { c.FlushInterval = time.Millisecond })
	var tasks sync.WaitGroup
	for range 8 {
		tasks.Go(func() {
			for i := range 200 {
				td := ptrace.NewTraces()
				for j := range 5 {
					span(resource(td, "", fmt.Sprint("s", (i+j)%7), ""), fmt.Sprint("op", i%3), uint64(i), time.Millisecond)
				}
				consume(t, c, td)
			}
		})
	}
	tasks.Wait()
	stop(t, c)
	calls, durations := told(last(t, sink))
	sum, count := 0.0, uint64(0)
	for series, n := range calls {
		sum += n
		count += durations[series].Count()
	}
	if sum != 8*200*5 || count != 8*200*5 {
		t.Errorf("%v calls and %d durations of %d spans", sum, count, 8*200*5)
	}
}

// Metrics of what a sampler has kept are those of all there was: an operation's sum is off by chance alone, and not by
// rounding. At one of 1.5 each batch that is rounded as a whole would be off by a third.
func TestSampledSpansCountForAll(t *testing.T) {
	const all, batch = 300_000, 500
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, nil)
	threshold := sampling.FromPercent(100 / 1.5)
	rng := rand.New(rand.NewPCG(7, 8))
	td, kept := ptrace.NewTraces(), 0
	spans := resource(td, "", "a", "")
	for range all {
		trace := rng.Uint64()
		if !threshold.Keep(sampling.Randomness(trace & (1<<56 - 1))) {
			continue
		}
		kept++
		span(spans, "b", trace, time.Millisecond).TraceState().FromRaw(sampling.WithThreshold("", threshold))
		if spans.Len() == batch {
			consume(t, c, td)
			td = ptrace.NewTraces()
			spans = resource(td, "", "a", "")
		}
	}
	consume(t, c, td)
	stop(t, c)
	calls, durations := told(last(t, sink))
	want := float64(kept) * threshold.AdjustedCount()
	got := calls["a b SERVER UNSET"]
	if math.Abs(got-want) > 1e-3 || math.Abs(float64(durations["a b SERVER UNSET"].Count())-want) > 0.5 {
		t.Errorf("%d kept spans count for %v, want %v", kept, got, want)
	}
	if off := math.Abs(got-all) / all; off > 0.01 {
		t.Errorf("%v of %d: %.2f %% off", got, all, 100*off)
	}
}

// TestRootsThatWereChosenCountForAll: what SDKs and proxies did not make is counted before the sampler as it is behind.
func TestRootsThatWereChosenCountForAll(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := start(t, sink, nil)
	td := ptrace.NewTraces()
	spans := resource(td, "", "a", "")
	for _, tt := range []struct {
		name       string
		attributes map[string]any
		tracestate string
	}{
		{"an SDK's", map[string]any{"jaeger.sampler.type": "probabilistic", "jaeger.sampler.param": 0.25}, ""},
		{"a proxy's", map[string]any{"weir.sampling.threshold": "e"}, "vendor=x"},
		{"sampled since", map[string]any{"weir.sampling.threshold": "e"}, "ot=th:f;rv:ffffffffffffff"},
		{"another", map[string]any{"jaeger.sampler.type": "ratelimiting", "jaeger.sampler.param": 0.25}, ""},
	} {
		s := span(spans, tt.name, 1, time.Millisecond)
		if err := s.Attributes().FromRaw(tt.attributes); err != nil {
			t.Fatal(err)
		}
		s.TraceState().FromRaw(tt.tracestate)
	}
	consume(t, c, td)
	stop(t, c)
	calls, _ := told(last(t, sink))
	for name, want := range map[string]float64{"an SDK's": 4, "a proxy's": 8, "sampled since": 16, "another": 1} {
		if got := calls["a "+name+" SERVER UNSET"]; got != want {
			t.Errorf("%s counts for %v, want %v", name, got, want)
		}
	}
}
