package sampling

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/connector/spanmetricsconnector"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/redmetrics"
)

// BenchmarkSpanMetrics has metrics made of spans, by what is usual: calls and an exponential histogram by service,
// version, operation, kind and status, with exemplars. Spans are not sampled, or one of 1.5 was kept.
func BenchmarkSpanMetrics(b *testing.B) {
	for _, tracestate := range []string{"", "ot=th:5555"} {
		name := "unsampled"
		if tracestate != "" {
			name = "sampled"
		}
		b.Run("weir/"+name, func(b *testing.B) {
			measure(b, redmetrics.NewFactory(), map[string]any{}, tracestate)
		})
		b.Run("span_metrics/"+name, func(b *testing.B) {
			measure(b, spanmetricsconnector.NewFactory(), map[string]any{
				"histogram":  map[string]any{"unit": "s", "exponential": map[string]any{}},
				"dimensions": []any{map[string]any{"name": "service.version"}, map[string]any{"name": "service.namespace"}},
				"exemplars":  map[string]any{"enabled": true}, "aggregation_cardinality_limit": 20_000,
				"metrics_flush_interval": "15s",
			}, tracestate)
		})
	}
}

func measure(b *testing.B, factory connector.Factory, settings map[string]any, tracestate string) {
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		b.Fatal(err)
	}
	c, err := factory.CreateTracesToMetrics(b.Context(), connectortest.NewNopSettings(factory.Type()), cfg, consumertest.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(b.Context(), componenttest.NewNopHost()); err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	batches := make([]ptrace.Traces, 64) // of 1,000 spans, and read only
	for i := range batches {
		batches[i] = batch(random)
		for _, rs := range batches[i].ResourceSpans().All() {
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				s.TraceState().FromRaw(tracestate)
				id := s.TraceID()
				id[9] |= 0x80 // so that thresholds are true
				s.SetTraceID(id)
			}
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := c.ConsumeTraces(b.Context(), batches[i%len(batches)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/span")
	b.StopTimer()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Shutdown(ctx); err != nil {
		b.Fatal(err)
	}
}
