// Package sampling compares what judging whole traces costs: Weir's adaptive_sampling and contrib's tail_sampling, on the
// same spans with the same rules.
package sampling

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/machinenativeops/weir/processors/adaptivesampling"
)

const policy = `
kind: Sampling
metadata: {name: default}
spec:
  classes: {default: 50}
  keep: {errors: true, slowerThan: 1s}
  wait: 1s
`

// BenchmarkWholeTraces judges traces whole, half of them kept. "none" is a processor that does nothing: what is left is the
// garbage that spans which come in are in the end.
func BenchmarkWholeTraces(b *testing.B) {
	file := filepath.Join(b.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Run("weir", func(b *testing.B) {
		run(b, adaptivesampling.NewFactory(), map[string]any{"policy": []any{file}})
	})
	b.Run("tail_sampling", func(b *testing.B) {
		run(b, tailsamplingprocessor.NewFactory(), map[string]any{
			"decision_wait": "1s", "num_traces": 1_000_000,
			"policies": []any{
				map[string]any{"name": "errors", "type": "status_code", "status_code": map[string]any{"status_codes": []any{"ERROR"}}},
				map[string]any{"name": "slow", "type": "latency", "latency": map[string]any{"threshold_ms": 1000}},
				map[string]any{"name": "rate", "type": "probabilistic", "probabilistic": map[string]any{"sampling_percentage": 50}},
			},
		})
	})
	b.Run("none", func(b *testing.B) { run(b, nothing(), nil) })
}

// run sends batches of 1,000 spans of ten services, eight spans to a trace. cpu-ns/span is all of the process but the
// making of spans, and includes what collecting their garbage costs.
func run(b *testing.B, factory processor.Factory, settings map[string]any) {
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		b.Fatal(err)
	}
	p := create(b, factory, cfg)
	random := rand.New(rand.NewPCG(1, 2))
	runtime.LockOSThread() // so that making can be told apart
	defer runtime.UnlockOSThread()
	var making time.Duration
	b.ReportAllocs()
	before := cpu(b, syscall.RUSAGE_SELF)
	for b.Loop() {
		began := cpu(b, rusageThread)
		td := batch(random)
		making += cpu(b, rusageThread) - began
		if err := p.ConsumeTraces(b.Context(), td); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(3 * time.Second) // until all waits are over
	if err := p.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpu(b, syscall.RUSAGE_SELF)-before-making)/float64(b.N)/1000, "cpu-ns/span")
}

func create(b *testing.B, factory processor.Factory, cfg component.Config) processor.Traces {
	p, err := factory.CreateTraces(b.Context(), processortest.NewNopSettings(factory.Type()), cfg, consumertest.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Start(b.Context(), componenttest.NewNopHost()); err != nil {
		b.Fatal(err)
	}
	return p
}

func batch(random *rand.Rand) ptrace.Traces {
	td := ptrace.NewTraces()
	var ids [125]pcommon.TraceID
	for i := range ids {
		binary.BigEndian.PutUint64(ids[i][:], random.Uint64())
		binary.BigEndian.PutUint64(ids[i][8:], random.Uint64())
	}
	for i := range 10 {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", fmt.Sprintf("s%d", i))
		spans := rs.ScopeSpans().AppendEmpty().Spans()
		for k := range 100 {
			span := spans.AppendEmpty()
			span.SetName("GET /cart")
			span.SetTraceID(ids[(i*100+k)%len(ids)])
			span.SetSpanID(pcommon.SpanID{byte(i + 1), byte(k + 1)})
			span.SetStartTimestamp(1e9)
			span.SetEndTimestamp(1e9 + pcommon.Timestamp(random.Uint64N(1e7)))
			if i > 0 {
				span.SetParentSpanID(pcommon.SpanID{1})
			}
		}
	}
	return td
}

const rusageThread = 1 // the thread that asks

func cpu(b *testing.B, who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
