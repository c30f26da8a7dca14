package adaptivesampling

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// moody is a consumer that refuses with an error, as long as there is one.
type moody struct {
	consumertest.TracesSink

	mu  sync.Mutex
	err error
}

func (m *moody) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (m *moody) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		td.ResourceSpans().RemoveIf(func(ptrace.ResourceSpans) bool { return true }) // as who may change it does
		return m.err
	}
	return m.TracesSink.ConsumeTraces(ctx, td)
}

// soothe has it take what comes from now on.
func (m *moody) soothe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = nil
}

func TestRefusedIsSentAgain(t *testing.T) {
	next := &moody{err: errors.New("full")}
	p, _ := startWhole(t, config(t, rates+held), next)
	for i := range uint64(5) {
		spanOf(t, p, string(rune('a'+i)), traceID(i), true, fail)
	}
	next.soothe()
	eventually(t, func() bool { return next.SpanCount() == 5 })
	if got := came(&next.TracesSink); why(got["a"]) != "ot=th:0 error 1" {
		t.Errorf("it comes as %q", why(got["a"]))
	}
}

func TestRefusedForGoodIsLost(t *testing.T) {
	next := &moody{err: consumererror.NewPermanent(errors.New("malformed"))}
	p, end := startWhole(t, config(t, rates+held), next)
	spanOf(t, p, "root", traceID(0), true, fail)
	next.soothe()
	spanOf(t, p, "late", traceID(0), false, nil)
	end()
	if got := came(&next.TracesSink); len(got) != 1 || got["late"] == (ptrace.Span{}) {
		t.Errorf("came %v, want what came after the refusal", got)
	}
}

// TestBackpressure holds that when the next component takes nothing, what is held is bounded and senders are told to keep
// their spans; and that later everything arrives for which they were not.
func TestBackpressure(t *testing.T) { bothWays(t, testBackpressure) }

func testBackpressure(t *testing.T) {
	next := &moody{err: errors.New("full")}
	cfg := config(t, rates+held)
	cfg.Whole.MaxBytes = 1 << 20
	p, _ := startWhole(t, cfg, next)
	taken, refused := 0, 0
	for i := uint64(0); refused < 10; i++ {
		td := ptrace.NewTraces()
		spans := resource(td, "checkout", "")
		for k := range uint64(100) {
			span := spans.AppendEmpty()
			span.SetTraceID(traceID(i<<16 | k<<8))
			span.SetName("GET /a/path/of/some/length")
			fail(span)
		}
		if err := p.ConsumeTraces(t.Context(), td); err == nil {
			taken += 100
		} else if refused++; consumererror.IsPermanent(err) {
			t.Fatal("senders are told to give up")
		}
		if taken > 1_000_000 {
			t.Fatal("there is no end of it")
		}
	}
	next.soothe()
	eventually(t, func() bool { return next.SpanCount() == taken })
}

// TestSpansStayWhatTheyAre sends spans with everything that they may have through, and holds that they come out as they
// went in, where they belong, but for the tracestate: whether they are held, or go as they came, or are refused then.
func TestSpansStayWhatTheyAre(t *testing.T) { bothWays(t, testSpansStayWhatTheyAre) }

func testSpansStayWhatTheyAre(t *testing.T) {
	for _, tt := range []struct {
		name, keep string
		err        error
	}{{"held", "errors: true", nil}, {"as they came", "slowestPercent: 1", nil}, {"refused", "slowestPercent: 1", errors.New("full")}} {
		t.Run(tt.name, func(t *testing.T) { spansStay(t, tt.keep, &moody{err: tt.err}) })
	}
}

func spansStay(t *testing.T, keep string, sink *moody) {
	cfg := config(t, "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 100}, keep: {"+keep+"}, wait: 10m}\n")
	cfg.Why = ""
	p, end := startWhole(t, cfg, sink)
	random := rand.New(rand.NewPCG(1, 2))
	want, sent := map[pcommon.SpanID]string{}, 0
	for range 50 {
		td := everything(random)
		sent += td.SpanCount()
		collect(t, td, want)
		if err := p.ConsumeTraces(t.Context(), td); err != nil {
			t.Fatal(err)
		}
	}
	sink.soothe()
	end()
	got := map[pcommon.SpanID]string{}
	for _, td := range sink.AllTraces() {
		collect(t, td, got)
	}
	if sink.SpanCount() != sent || len(got) != len(want) {
		t.Fatalf("%d spans came out of %d", sink.SpanCount(), sent)
	}
	for id, w := range want {
		if got[id] != w {
			t.Fatalf("span %s came out as\n%q, went in as\n%q", id, got[id], w)
		}
	}
}

// everything is a batch with resources, scopes and spans that have all there is, or nothing.
func everything(random *rand.Rand) ptrace.Traces {
	td := ptrace.NewTraces()
	for range random.IntN(4) {
		rs := td.ResourceSpans().AppendEmpty()
		fill := func(m pcommon.Map) {
			for i := range random.IntN(3) {
				m.PutStr(string(rune('a'+i)), string(make([]byte, random.IntN(300))))
				m.PutInt(string(rune('k'+i)), random.Int64())
				m.PutEmptySlice(string(rune('p'+i))).AppendEmpty().SetEmptyMap().PutBool("x", true)
			}
		}
		fill(rs.Resource().Attributes())
		if random.IntN(2) == 0 {
			rs.Resource().Attributes().PutInt("service.name", 7)
			rs.SetSchemaUrl("https://example.com/r")
		}
		for range random.IntN(4) {
			ss := rs.ScopeSpans().AppendEmpty()
			if random.IntN(2) == 0 {
				ss.Scope().SetName("scope")
				fill(ss.Scope().Attributes())
				ss.SetSchemaUrl("https://example.com/s")
			}
			for range random.IntN(20) {
				span := ss.Spans().AppendEmpty()
				span.SetTraceID(traceID(random.Uint64N(10)))
				span.SetSpanID(pcommon.SpanID{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), 1})
				fill(span.Attributes())
				if random.IntN(2) == 0 {
					span.SetName("GET /")
					span.SetParentSpanID(pcommon.SpanID{1})
					span.SetStartTimestamp(pcommon.Timestamp(random.Uint64()))
					span.SetEndTimestamp(pcommon.Timestamp(random.Uint64()))
					span.SetFlags(random.Uint32())
					span.SetKind(ptrace.SpanKindClient)
					span.SetDroppedEventsCount(3)
					fill(span.Events().AppendEmpty().Attributes())
					fill(span.Links().AppendEmpty().Attributes())
					span.Status().SetMessage("hm")
				}
			}
		}
	}
	return td
}

// collect gives each span as JSON with its resource and scope, without its tracestate.
func collect(t *testing.T, td ptrace.Traces, to map[pcommon.SpanID]string) {
	t.Helper()
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				one := ptrace.NewTraces()
				r := one.ResourceSpans().AppendEmpty()
				rs.Resource().CopyTo(r.Resource())
				r.SetSchemaUrl(rs.SchemaUrl())
				s := r.ScopeSpans().AppendEmpty()
				ss.Scope().CopyTo(s.Scope())
				s.SetSchemaUrl(ss.SchemaUrl())
				copied := s.Spans().AppendEmpty()
				span.CopyTo(copied)
				copied.TraceState().FromRaw("")
				text, err := new(ptrace.JSONMarshaler).MarshalTraces(one)
				if err != nil {
					t.Fatal(err)
				}
				to[span.SpanID()] = string(text)
			}
		}
	}
}

// TestParcelsAreBounded: what goes on at once is bounded by what it is unpacked, however little is held of it.
func TestParcelsAreBounded(t *testing.T) {
	sink := new(consumertest.TracesSink)
	p, end := startWhole(t, config(t, rates+held), sink)
	const batches, spans = 100, 20
	text := strings.Repeat("at com.example.Some.method\n", 100)
	for i := range uint64(batches) {
		td := ptrace.NewTraces()
		for k := range uint64(spans) {
			span := resource(td, "checkout", "").AppendEmpty()
			span.SetTraceID(traceID(0xf0000000000000 + i*spans + k))
			span.Attributes().PutStr("stack", text)
		}
		if err := p.ConsumeTraces(t.Context(), td); err != nil {
			t.Fatal(err)
		}
	}
	end()
	if sink.SpanCount() != batches*spans {
		t.Fatalf("%d spans came", sink.SpanCount())
	}
	for _, td := range sink.AllTraces() {
		if size := new(ptrace.ProtoMarshaler).TracesSize(td); size > 2*maxParcel {
			t.Errorf("%d bytes go on at once", size)
		}
	}
}
