// Package sampling compares what judging whole traces costs: Weir's adaptive_sampling and contrib's tail_sampling, on the
// same spans with the same rules.
package sampling

import (
	"bytes"
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
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/otlp"
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
	b.Run("weir, undecoded", func(b *testing.B) {
		runUndecoded(b, adaptivesampling.NewFactory(), map[string]any{"policy": []any{file}})
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

// run sends batches of 1,000 spans of ten services, eight spans to a trace.
func run(b *testing.B, factory processor.Factory, settings map[string]any) {
	p := started(b, factory, settings)
	random := rand.New(rand.NewPCG(1, 2))
	var td ptrace.Traces
	sendEach(b, p, func() { td = batch(random) }, func() error { return p.ConsumeTraces(b.Context(), td) })
}

// runUndecoded sends them as otlp_lazy does. Checking them is not making.
func runUndecoded(b *testing.B, factory processor.Factory, settings map[string]any) {
	p := started(b, factory, settings)
	random := rand.New(rand.NewPCG(1, 2))
	ids := newIDs(random)
	request, err := new(ptrace.ProtoMarshaler).MarshalTraces(batchOf(ids, random))
	if err != nil {
		b.Fatal(err)
	}
	var places [][]byte // of trace ids, which are random enough to be nothing else
	for _, id := range ids {
		for rest := request; ; {
			at := bytes.Index(rest, id[:])
			if at < 0 {
				break
			}
			places, rest = append(places, rest[at:at+len(id)]), rest[at+len(id):]
		}
	}
	renew := func() { // the ids are others each time
		change := random.Uint64()
		for _, id := range places {
			binary.NativeEndian.PutUint64(id, binary.NativeEndian.Uint64(id)^change)
			binary.NativeEndian.PutUint64(id[8:], binary.NativeEndian.Uint64(id[8:])^change)
		}
	}
	sendEach(b, p, renew, func() error {
		spans, err := otlp.Check(request)
		if err != nil {
			return err
		}
		return p.ConsumeTraces(lazy.New(request, spans).In(b.Context()), ptrace.NewTraces())
	})
}

// sendEach sends what is made. cpu-ns/span is all of the process but the making, and includes what collecting garbage costs.
func sendEach(b *testing.B, p processor.Traces, produce func(), send func() error) {
	runtime.LockOSThread() // so that making can be told apart
	defer runtime.UnlockOSThread()
	var making time.Duration
	b.ReportAllocs()
	before := cpu(b, syscall.RUSAGE_SELF)
	for b.Loop() {
		began := cpu(b, rusageThread)
		produce()
		making += cpu(b, rusageThread) - began
		if err := send(); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(3 * time.Second) // until all waits are over
	if err := p.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpu(b, syscall.RUSAGE_SELF)-before-making)/float64(b.N)/1000, "cpu-ns/span")
}

func batch(random *rand.Rand) ptrace.Traces { return batchOf(newIDs(random), random) }

func newIDs(random *rand.Rand) (ids [125]pcommon.TraceID) {
	for i := range ids {
		binary.BigEndian.PutUint64(ids[i][:], random.Uint64())
		binary.BigEndian.PutUint64(ids[i][8:], random.Uint64())
	}
	return ids
}

func batchOf(ids [125]pcommon.TraceID, random *rand.Rand) ptrace.Traces {
	td := ptrace.NewTraces()
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
