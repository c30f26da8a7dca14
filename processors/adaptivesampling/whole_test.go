package adaptivesampling

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/machinenativeops/weir/sampling"
)

const held = "  keep: {errors: true, slowerThan: 1s, marked: [debug]}\n  wait: 10m\n"

// startWhole starts a processor and gives what ends it, which may be called twice.
func startWhole(tb testing.TB, cfg *Config, next consumer.Traces) (processor.Traces, func()) {
	tb.Helper()
	p, err := NewFactory().CreateTraces(tb.Context(), processortest.NewNopSettings(typ), cfg, next)
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.Start(tb.Context(), componenttest.NewNopHost()); err != nil {
		tb.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(end)
	return inItsWay(tb, p), end
}

// spanOf sends one span of a trace.
func spanOf(t *testing.T, p processor.Traces, name string, id pcommon.TraceID, root bool, edit func(ptrace.Span)) {
	t.Helper()
	td := ptrace.NewTraces()
	span := resource(td, "checkout", "").AppendEmpty()
	span.SetName(name)
	span.SetTraceID(id)
	if !root {
		span.SetParentSpanID(pcommon.SpanID{1})
	}
	if edit != nil {
		edit(span)
	}
	if err := p.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
}

// came gives the spans that came out, by name.
func came(sink *consumertest.TracesSink) map[string]ptrace.Span {
	got := map[string]ptrace.Span{}
	for _, td := range sink.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, span := range ss.Spans().All() {
					if v, _ := rs.Resource().Attributes().Get("service.name"); v.AsString() == "checkout" {
						got[span.Name()] = span
					}
				}
			}
		}
	}
	return got
}

func why(span ptrace.Span) string {
	rule, _ := span.Attributes().Get("weir.sampling.rule")
	rate, ok := span.Attributes().Get("weir.sampling.rate")
	if !ok {
		return span.TraceState().AsRaw()
	}
	return span.TraceState().AsRaw() + " " + rule.AsString() + " " + rate.AsString()
}

func TestTracesAreKeptWhole(t *testing.T) { bothWays(t, testTracesAreKeptWhole) }

func testTracesAreKeptWhole(t *testing.T) {
	low, high := traceID(0x10000000000000), traceID(0xf0000000000000) // below and above the rate of 50 %
	fail := func(s ptrace.Span) { s.Status().SetCode(ptrace.StatusCodeError) }
	slow := func(s ptrace.Span) { s.SetStartTimestamp(1e9); s.SetEndTimestamp(2e9 + 1) }
	mark := func(s ptrace.Span) { s.Attributes().PutBool("debug", true) }
	unmark := func(s ptrace.Span) { s.Attributes().PutBool("debug", false) }
	before := func(s ptrace.Span) { s.TraceState().FromRaw("ot=th:08") } // at some 97 %
	for _, tt := range []struct {
		name              string
		id                pcommon.TraceID
		edit              func(ptrace.Span)
		early             bool
		root, child, late string // "" is dropped
	}{
		{"failed", low, fail, true, "ot=th:0 error 1", "ot=th:0", "ot=th:0"},
		{"slow", low, slow, true, "ot=th:0 slow 1", "ot=th:0", "ot=th:0"},
		{"marked", low, mark, true, "ot=th:0 marked 1", "ot=th:0", "ot=th:0"},
		{"marked false", low, unmark, false, "", "", ""},
		{"by its rate", high, nil, false, "ot=th:8 rate 0.5", "ot=th:8", "ot=th:8"},
		{"not by its rate", low, nil, false, "", "", ""},
		{"sampled before", low, func(s ptrace.Span) { before(s); fail(s) }, true, "ot=th:0 error 1", "ot=th:08", "ot=th:0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sink := new(consumertest.TracesSink)
			p, end := startWhole(t, config(t, rates+held), sink)
			spanOf(t, p, "root", tt.id, true, nil)
			if len(sink.AllTraces()) != 0 {
				t.Fatal("a trace is not held")
			}
			spanOf(t, p, "child", tt.id, false, tt.edit)
			if early := len(came(sink)) == 2; early != tt.early {
				t.Fatalf("sent on at once: %v", early)
			}
			spanOf(t, p, "late", tt.id, false, nil)
			end()
			got := came(sink)
			for name, want := range map[string]string{"root": tt.root, "child": tt.child, "late": tt.late} {
				if span, ok := got[name]; ok != (want != "") || ok && why(span) != want {
					t.Errorf("%s: came %v, %q; want %q", name, ok, why(span), want)
				}
			}
		})
	}
}

func TestTheWaitEnds(t *testing.T) {
	sink := new(consumertest.TracesSink)
	p, _ := startWhole(t, config(t, rates+"  keep: {}\n  wait: 100ms\n"), sink)
	spanOf(t, p, "root", traceID(0xf0000000000000), true, nil)
	eventually(t, func() bool { return sink.SpanCount() == 1 })
}

func TestReloadLosesNothing(t *testing.T) {
	for name, now := range map[string]string{
		"another rule":  "  keep: {}\n  wait: 100ms\n",
		"held no more":  "",
		"another class": "  keep: {errors: true}\n  wait: 200ms\n",
	} {
		t.Run(name, func(t *testing.T) {
			sink := new(consumertest.TracesSink)
			cfg := config(t, rates+held)
			p, _ := startWhole(t, cfg, sink)
			spanOf(t, p, "root", traceID(0xf0000000000000), true, nil)
			if err := os.WriteFile(cfg.Policy[0], []byte(rates+now), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return sink.SpanCount() == 1 })
		})
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// TestDryRunDropsNothing, also where spans are judged one by one.
func TestDryRunDropsNothing(t *testing.T) { bothWays(t, testDryRunDropsNothing) }

func testDryRunDropsNothing(t *testing.T) {
	for name, text := range map[string]string{"whole traces": rates + held, "span by span": rates} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, text)
			cfg.DryRun = true
			sink := new(consumertest.TracesSink)
			p, end := startWhole(t, cfg, sink)
			spanOf(t, p, "dropped", traceID(0x10000000000000), true, nil)
			spanOf(t, p, "kept", traceID(0xf0000000000000), true, nil)
			end()
			got := came(sink)
			for name, want := range map[string]bool{"dropped": false, "kept": true} {
				span, ok := got[name]
				if !ok {
					t.Fatalf("%s is dropped", name)
				}
				if v, ok := span.Attributes().Get("weir.sampling.keep"); !ok || v.Bool() != want || span.TraceState().AsRaw() != "" {
					t.Errorf("%s: marked %v, tracestate %q", name, v.AsString(), span.TraceState().AsRaw())
				}
			}
		})
	}
}

func TestWhatCameTogetherGoesTogether(t *testing.T) { bothWays(t, testWhatCameTogetherGoesTogether) }

func testWhatCameTogetherGoesTogether(t *testing.T) {
	sink := new(consumertest.TracesSink)
	p, end := startWhole(t, config(t, rates+held), sink)
	td := ptrace.NewTraces()
	for range 2 {
		spans := resource(td, "checkout", "")
		for i := range uint64(3) {
			spans.AppendEmpty().SetTraceID(traceID(0xf0000000000000 + i<<8)) // of one shard
		}
	}
	if err := p.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	end()
	if out := sink.AllTraces(); len(out) != 1 || out[0].ResourceSpans().Len() != 2 || out[0].SpanCount() != 6 {
		t.Errorf("got %d batches, %d spans", len(out), sink.SpanCount())
	}
}

func TestRefusedIsNotTheSendersError(t *testing.T) {
	p, end := startWhole(t, config(t, rates+held), consumertest.NewErr(errors.New("full")))
	spanOf(t, p, "root", traceID(0), true, func(s ptrace.Span) { s.Status().SetCode(ptrace.StatusCodeError) })
	end()
}

// TestStressKeepsWhatMatters sends many more spans than there is room for, from many senders: what is held stays
// within the bound, every failed trace comes out, and so do as many of the others as adjusted counts say.
func TestStressKeepsWhatMatters(t *testing.T) {
	const senders, batches, size = 4, 50, 200
	cfg := config(t, rates+held)
	cfg.Whole.MaxSpans = 1024
	sink := new(consumertest.TracesSink)
	p, end := startWhole(t, cfg, sink)
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range batches {
				td := ptrace.NewTraces()
				spans := resource(td, "checkout", "")
				for k := range size {
					span := spans.AppendEmpty()
					span.SetName("GET /")
					span.SetTraceID(traceID(r.Uint64() >> 8))
					if k%20 == 0 {
						span.SetName("failed")
						span.Status().SetCode(ptrace.StatusCodeError)
					}
				}
				if err := p.ConsumeTraces(t.Context(), td); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	counts := map[string]float64{}
	rest := senders*batches*size - sink.SpanCount() // and dropped
	end()
	for _, td := range sink.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			for _, span := range rs.ScopeSpans().At(0).Spans().All() {
				counts[span.Name()] += sampling.ParseState(span.TraceState().AsRaw()).Threshold.AdjustedCount()
			}
		}
	}
	const all = senders * batches * size
	if counts["failed"] != all/20 {
		t.Errorf("%v failed spans came out, want %d", counts["failed"], all/20)
	}
	if rest := counts["GET /"]; rest < all*0.95*0.97 || rest > all*0.95*1.03 { // 3 % is six standard deviations
		t.Errorf("what came out stands for %v, want some %v", rest, all*0.95)
	}
	if rest < 1024 {
		t.Errorf("%d were held or dropped: nothing was shed", rest)
	}
}

// BenchmarkWhole is the whole-trace path on batches of 1,000 spans of ten services, eight spans to a trace, each
// trace in batches of its own time. cpu-ns/span is what counts: all of the process, flushing and collecting garbage
// included, without the making of spans.
// What collecting the incoming spans' garbage costs is in it, as it is in the same without keep.
func BenchmarkWhole(b *testing.B) {
	b.Run("whole", func(b *testing.B) {
		benchmark(b, "  keep: {errors: true, slowerThan: 1s, slowestPercent: 1, rarerThan: 1m}\n  wait: 1s\n")
	})
	b.Run("span by span", func(b *testing.B) { benchmark(b, "") })
}

func benchmark(b *testing.B, keep string) {
	const services, spans = 10, 100
	p, end := startWhole(b, config(b, rates+keep), consumertest.NewNop())
	random := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	runtime.LockOSThread() // so that making can be told apart
	defer runtime.UnlockOSThread()
	var making time.Duration
	before := cpu(b, syscall.RUSAGE_SELF)
	for b.Loop() {
		began := cpu(b, rusageThread)
		td := ptrace.NewTraces()
		var ids [services * spans / 8]pcommon.TraceID
		for i := range ids {
			ids[i] = traceID(random.Uint64() >> 8)
		}
		for i := range services {
			ss := resource(td, fmt.Sprintf("s%d", i), "main")
			for k := range spans {
				span := ss.AppendEmpty()
				span.SetName("GET /cart")
				span.SetTraceID(ids[(i*spans+k)%len(ids)])
				span.SetStartTimestamp(1e9)
				span.SetEndTimestamp(1e9 + pcommon.Timestamp(random.Uint64N(1e7)))
				if i > 0 {
					span.SetParentSpanID(pcommon.SpanID{1})
				}
			}
		}
		making += cpu(b, rusageThread) - began
		if err := p.ConsumeTraces(b.Context(), td); err != nil {
			b.Fatal(err)
		}
	}
	end()
	b.ReportMetric(float64(cpu(b, syscall.RUSAGE_SELF)-before-making)/float64(b.N)/(services*spans), "cpu-ns/span")
}

const rusageThread = 1 // the thread that asks

// cpu is the time that the process, or the thread, has used.
func cpu(b *testing.B, who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestTracesThatWereSampledByChance: what a root says of how it was sampled holds for all spans of its trace, whatever
// keeps it, and the trace is not sampled twice.
func TestTracesThatWereSampledByChance(t *testing.T) { bothWays(t, testTracesThatWereSampledByChance) }

func testTracesThatWereSampledByChance(t *testing.T) {
	sdk := func(s ptrace.Span) {
		s.Attributes().PutStr("jaeger.sampler.type", "probabilistic")
		s.Attributes().PutDouble("jaeger.sampler.param", 0.25)
	}
	proxy := func(s ptrace.Span) { s.Attributes().PutStr("weir.sampling.threshold", "c") }
	fail := func(s ptrace.Span) { s.Status().SetCode(ptrace.StatusCodeError) }
	for _, tt := range []struct {
		name        string
		root, child func(ptrace.Span)
	}{{"by its rate", sdk, nil}, {"of a proxy", proxy, nil}, {"failed", sdk, fail}} {
		t.Run(tt.name, func(t *testing.T) {
			sink := new(consumertest.TracesSink)
			p, end := startWhole(t, config(t, rates+held), sink)
			id := traceID(1) // the lowest randomness; at 25 % it has been kept, and at 50 % it stays
			spanOf(t, p, "early", id, false, nil)
			spanOf(t, p, "root", id, true, tt.root)
			spanOf(t, p, "child", id, false, tt.child)
			spanOf(t, p, "late", id, false, nil)
			end()
			got := came(sink)
			if len(got) != 4 {
				t.Fatalf("%d spans came", len(got))
			}
			want := got["root"].TraceState().AsRaw()
			if s := sampling.ParseState(want); s.Threshold != sampling.FromPercent(25) || !s.HasRandomness || !s.Threshold.Keep(s.Randomness) {
				t.Errorf("the root says %q", want)
			}
			for name, span := range got {
				if state := span.TraceState().AsRaw(); state != want {
					t.Errorf("%s says %q, and the root %q", name, state, want)
				}
			}
		})
	}
}
