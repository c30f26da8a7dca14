package sampling

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/probabilisticsamplerprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/machinenativeops/weir/processors/adaptivesampling"
)

const ratesOnly = `
kind: Sampling
metadata: {name: default}
spec: {classes: {default: 50}}
`

// BenchmarkSpanBySpan judges each span by itself, half of them kept: batches of 1,000 spans of 50 services, with and without a
// tracestate. "none" is a processor that does nothing, which is what the collector adds to each.
func BenchmarkSpanBySpan(b *testing.B) {
	file := filepath.Join(b.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(ratesOnly), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, tracestate := range []string{"", "vendor=x", "ot=th:8,vendor=x"} {
		for _, p := range []struct {
			name     string
			factory  processor.Factory
			settings map[string]any
		}{
			{"weir", adaptivesampling.NewFactory(), map[string]any{"policy": []any{file}}},
			{"probabilistic_sampler", probabilisticsamplerprocessor.NewFactory(), map[string]any{"sampling_percentage": 50, "mode": "equalizing"}},
			{"none", nothing(), nil},
		} {
			b.Run(fmt.Sprintf("%s/%s", cmp.Or(tracestate, "no tracestate"), p.name), func(b *testing.B) {
				judgeSpans(b, started(b, p.factory, p.settings), tracestate)
			})
		}
	}
}

// nothing is a processor that does nothing.
func nothing() processor.Factory {
	return processor.NewFactory(component.MustNewType("nothing"), func() component.Config { return &struct{}{} },
		processor.WithTraces(func(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			return processorhelper.NewTraces(ctx, set, cfg, next, func(_ context.Context, td ptrace.Traces) (ptrace.Traces, error) { return td, nil })
		}, component.StabilityLevelDevelopment))
}

func judgeSpans(b *testing.B, p processor.Traces, tracestate string) {
	const services, spans = 50, 20
	random := rand.New(rand.NewPCG(1, 2))
	sent := ptrace.NewTraces()
	for i := range services {
		rs := sent.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", fmt.Sprintf("s%d", i))
		all := rs.ScopeSpans().AppendEmpty().Spans()
		for range spans {
			span := all.AppendEmpty()
			span.SetName("GET /cart")
			span.TraceState().FromRaw(tracestate)
			id := pcommon.TraceID{1}
			binary.BigEndian.PutUint64(id[8:], random.Uint64())
			if tracestate == "ot=th:8,vendor=x" { // so that it is true
				id[9] |= 0x80
			}
			span.SetTraceID(id)
		}
	}
	var batches [64]ptrace.Traces
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(batches) == 0 {
			b.StopTimer()
			for k := range batches {
				batches[k] = ptrace.NewTraces()
				sent.CopyTo(batches[k])
			}
			b.StartTimer()
		}
		if err := p.ConsumeTraces(b.Context(), batches[i%len(batches)]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(services*spans), "ns/span")
	b.StopTimer()
	if err := p.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
}
