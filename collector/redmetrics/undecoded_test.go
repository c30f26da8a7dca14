package redmetrics

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/otlp"
)

// TestUndecodedCountsTheSame: metrics of requests that nobody has decoded are those of their pdata, also when the requests'
// memory has been used for something else since.
func TestUndecodedCountsTheSame(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		var requests [][]byte
		for range 1 + r.IntN(5) {
			requests = append(requests, marshal(t, randomTraces(r)))
		}
		countsTheSame(t, 5+r.IntN(200), requests...)
	}
}

// FuzzUndecoded is that for whatever is well formed.
func FuzzUndecoded(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(marshal(f, randomTraces(rand.New(rand.NewPCG(seed, 4)))))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		if _, err := otlp.Check(request); err == nil {
			countsTheSame(t, 5, request)
		}
	})
}

func countsTheSame(t *testing.T, maxSeries int, requests ...[]byte) {
	t.Helper()
	change := func(c *Config) { c.Dimensions, c.MaxSeries = []string{"tenant", "zone"}, maxSeries }
	var sinks [2]consumertest.MetricsSink
	decoding, reading := start(t, &sinks[0], change), start(t, &sinks[1], change)
	for _, request := range requests {
		td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(request)
		if err != nil {
			t.Fatal(err)
		}
		consume(t, decoding, td)
		consumeUndecoded(t, reading, slices.Clone(request), td.SpanCount())
	}
	stop(t, decoding)
	stop(t, reading)
	if got, want := lines(&sinks[1]), lines(&sinks[0]); !slices.Equal(got, want) {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if got, want := reading.(*counter).series.overflown.Load(), decoding.(*counter).series.overflown.Load(); got != want {
		t.Fatalf("%d spans are too many, want %d", got, want)
	}
}

// consumeUndecoded hands on a request, and uses its memory for something else.
func consumeUndecoded(t *testing.T, c connector.Traces, request []byte, spans int) {
	t.Helper()
	r := lazy.New(request, spans)
	if err := c.ConsumeTraces(r.In(t.Context()), ptrace.NewTraces()); err != nil || !r.Taken() {
		t.Fatalf("taken: %v, %v", r.Taken(), err)
	}
	for i := range request {
		request[i] = 'x'
	}
}

// lines is all that the metrics say, but for when.
func lines(sink *consumertest.MetricsSink) (out []string) {
	for _, md := range sink.AllMetrics() {
		metrics := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
		for _, p := range metrics.At(0).Sum().DataPoints().All() {
			out = append(out, fmt.Sprintf("%#v %v %v", p.Attributes().AsRaw(), p.DoubleValue(), exemplars(p.Exemplars())))
		}
		for _, p := range metrics.At(1).ExponentialHistogram().DataPoints().All() {
			out = append(out, fmt.Sprintf("%#v %d %v %v %v %d %d %d %v %v", p.Attributes().AsRaw(), p.Count(), p.Sum(), p.Min(), p.Max(),
				p.ZeroCount(), p.Scale(), p.Positive().Offset(), p.Positive().BucketCounts().AsRaw(), exemplars(p.Exemplars())))
		}
	}
	slices.Sort(out)
	return out
}

func exemplars(all pmetric.ExemplarSlice) (out []string) {
	for _, e := range all.All() {
		out = append(out, fmt.Sprint(e.TraceID(), e.SpanID(), e.Timestamp(), e.DoubleValue()))
	}
	return out
}

// randomTraces has all that is counted by, resources without attributes, and one twice.
func randomTraces(r *rand.Rand) ptrace.Traces {
	td := ptrace.NewTraces()
	for range 1 + r.IntN(4) {
		rs := td.ResourceSpans().AppendEmpty()
		randomAttributes(r, rs.Resource().Attributes(), serviceNamespace, serviceName, serviceVersion, "tenant", "zone")
		for range r.IntN(3) {
			spans := rs.ScopeSpans().AppendEmpty().Spans()
			for range r.IntN(8) {
				randomSpan(r, spans.AppendEmpty())
			}
		}
	}
	td.ResourceSpans().At(0).CopyTo(td.ResourceSpans().AppendEmpty())
	return td
}

func randomSpan(r *rand.Rand, s ptrace.Span) {
	states := []string{"", "", "vendor=x", "ot=th:8", "vendor=x,ot=th:c;rv:ffffffffffffff", "ot=th:8;rv:00000000000000", "ot=nonsense"}
	s.SetTraceID(pcommon.TraceID{8: byte(r.Uint32()), 15: byte(r.Uint32())})
	if r.IntN(10) == 0 {
		s.SetTraceID(pcommon.TraceID{})
	}
	s.SetSpanID(pcommon.SpanID{byte(r.Uint32()), 1})
	if r.IntN(3) == 0 {
		s.SetParentSpanID(pcommon.SpanID{1})
	}
	s.TraceState().FromRaw(states[r.IntN(len(states))])
	s.SetName(fmt.Sprint("operation ", r.IntN(3)))
	s.SetKind(ptrace.SpanKind(r.IntN(6)))
	s.Status().SetCode(ptrace.StatusCode(r.IntN(3)))
	s.SetStartTimestamp(pcommon.Timestamp(1e18 + r.IntN(1e9)))
	s.SetEndTimestamp(pcommon.Timestamp(1e18 + r.IntN(5e9)))
	randomAttributes(r, s.Attributes(), "tenant", "zone", "jaeger.sampler.type", "jaeger.sampler.param", "weir.sampling.threshold", "guid:x-client-trace-id")
}

// randomAttributes puts some of them, of all types.
func randomAttributes(r *rand.Rand, to pcommon.Map, names ...string) {
	values := []any{
		"x", "", "e", "probabilistic", "probabilistic", "0.25", int64(7), int64(-7), "7", true, false, 0.5, nil,
		[]byte{1, 2},
		[]any{},
		[]any{"x", int64(1)},
		map[string]any{"a": map[string]any{"b": "c"}},
	}
	for _, name := range names {
		if r.IntN(2) == 0 {
			_ = to.PutEmpty(name).FromRaw(values[r.IntN(len(values))]) // of types that it knows
		}
	}
}

func marshal(tb testing.TB, td ptrace.Traces) []byte {
	tb.Helper()
	data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
