package otlp_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/internal/otlp"
)

// FuzzCheck holds against pdata what is well formed, and what is read of it.
func FuzzCheck(f *testing.F) {
	for _, td := range []ptrace.Traces{ptrace.NewTraces(), sample(0), sample(3)} {
		f.Add(marshal(f, td))
		f.Add(ascending(f, marshal(f, td)))
	}
	f.Add([]byte("\x0a\x02\x12\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { _ = hold(t, data) })
}

// hold holds against pdata whether a request is well formed, and what is read of it, also once pdata has written it again. It
// says what Check says.
func hold(t *testing.T, data []byte) error {
	t.Helper()
	spans, err := otlp.Check(data)
	td, theirs := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data)
	switch {
	case err == nil && theirs != nil:
		t.Fatalf("%x: pdata refuses it: %v", data, theirs)
	case err != nil && theirs == nil && !errors.Is(err, otlp.ErrOld) && !stricter(err):
		t.Fatalf("%x: pdata takes it: %v", data, err)
	case err == nil && td.SpanCount() != spans:
		t.Fatalf("%x: %d spans, want %d", data, spans, td.SpanCount())
	case err == nil:
		compare(t, data, td)
	}
	if theirs == nil {
		again := marshal(t, td)
		if _, err := otlp.Check(again); err != nil && !errors.Is(err, otlp.ErrOld) && !deep(err) {
			t.Fatalf("%x: what pdata writes of it: %v", data, err)
		}
		compare(t, again, td)
	}
	return err
}

// stricter says whether it is refused for what pdata does not refuse.
func stricter(err error) bool { return deep(err) || strings.Contains(err.Error(), "is over 536870911") }

func deep(err error) bool { return strings.Contains(err.Error(), "more than 100 deep") }

func TestReadsWhatPdataReads(t *testing.T) {
	for seed := range uint64(50) {
		data := marshal(t, sample(seed))
		for _, data := range [][]byte{data, ascending(t, data)} {
			if err := hold(t, data); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCutAndChanged cuts and changes requests: whatever pdata reads is well formed or said to be old, and nothing else is.
func TestCutAndChanged(t *testing.T) {
	data := marshal(t, sample(7))
	r := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 20_000 {
		changed := slices.Clone(data[:1+r.IntN(len(data))])
		for range r.IntN(3) {
			changed[r.IntN(len(changed))] = byte(r.Uint32())
		}
		if hold(t, changed) == nil {
			accepted++
		}
	}
	if accepted == 0 {
		t.Error("none was well formed")
	}
}

func compare(t *testing.T, data []byte, td ptrace.Traces) {
	t.Helper()
	i := 0
	for f := otlp.FieldsOf(data); f.Next(); {
		if f.Number != otlp.RequestResourceSpans {
			continue
		}
		rs := td.ResourceSpans().At(i)
		i++
		compareAttributes(t, otlp.ResourceOf(f.Body).Attributes(), rs.Resource().Attributes())
		n := 0
		for g := otlp.FieldsOf(f.Body); g.Next(); {
			if g.Number == otlp.ResourceSpansScopeSpans {
				compareScope(t, g.Body, rs.ScopeSpans().At(n))
				n++
			}
		}
	}
}

func compareScope(t *testing.T, data []byte, ss ptrace.ScopeSpans) {
	t.Helper()
	var s otlp.Span
	n := 0
	for f := otlp.FieldsOf(data); f.Next(); {
		if f.Number != otlp.ScopeSpansSpans {
			continue
		}
		want := ss.Spans().At(n)
		n++
		s.Read(f.Body)
		got := fmt.Sprint(s.TraceID, s.SpanID, s.ParentID, s.Root(), s.TraceState, s.Name, s.Start, s.End, s.Kind, s.Status)
		w := fmt.Sprint([16]byte(want.TraceID()), [8]byte(want.SpanID()), [8]byte(want.ParentSpanID()), want.ParentSpanID().IsEmpty(), want.TraceState().AsRaw(),
			want.Name(), uint64(want.StartTimestamp()), uint64(want.EndTimestamp()), int32(want.Kind()), int32(want.Status().Code()))
		if got != w {
			t.Fatalf("got  %s\nwant %s", got, w)
		}
		compareAttributes(t, s.Attributes(), want.Attributes())
		compareEvents(t, s.Message(), want.Events())
	}
}

func compareEvents(t *testing.T, span []byte, want ptrace.SpanEventSlice) {
	t.Helper()
	n := 0
	for f := otlp.FieldsOf(span); f.Next(); {
		if f.Number == otlp.SpanEvents {
			compareAttributes(t, otlp.AttributesOf(f.Body, otlp.EventAttributes), want.At(n).Attributes())
			n++
		}
	}
	if n != want.Len() {
		t.Fatalf("%d events, want %d", n, want.Len())
	}
}

func compareAttributes(t *testing.T, a otlp.Attributes, want pcommon.Map) {
	t.Helper()
	first := a
	n := 0
	for key, v := range want.All() {
		if !a.Next() || a.Key != key {
			t.Fatalf("attribute %d is %q, want %q", n, a.Key, key)
		}
		n++
		got, _ := first.Get(key)
		v, _ = want.Get(key)
		if got.Type() != v.Type() || got.AsString() != v.AsString() || got.Str() != v.Str() || got.Bool() != v.Bool() ||
			fmt.Sprint(got.Double()) != fmt.Sprint(v.Double()) || !bytes.Equal(written(t, got.Decode()), written(t, v)) {
			t.Fatalf("%s: %s %s, want %s %s", key, got.Type(), got.AsString(), v.Type(), v.AsString())
		}
	}
	if a.Next() {
		t.Fatalf("attribute %q is there too", a.Key)
	}
}

// written is a value as pdata writes it, which says whether two are the same even if they are no numbers.
func written(t *testing.T, v pcommon.Value) []byte {
	t.Helper()
	td := ptrace.NewTraces()
	v.CopyTo(td.ResourceSpans().AppendEmpty().Resource().Attributes().PutEmpty("v"))
	return marshal(t, td)
}

// sample is a few spans of everything, of which some repeats.
func sample(seed uint64) ptrace.Traces {
	r := rand.New(rand.NewPCG(seed, 2))
	td := ptrace.NewTraces()
	for range 1 + r.IntN(3) {
		rs := td.ResourceSpans().AppendEmpty()
		rs.SetSchemaUrl("s")
		attributes(r, rs.Resource().Attributes())
		for range r.IntN(3) {
			ss := rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName("scope")
			attributes(r, ss.Scope().Attributes())
			for range r.IntN(4) {
				span(r, ss.Spans().AppendEmpty())
			}
		}
	}
	return td
}

func span(r *rand.Rand, s ptrace.Span) {
	s.SetTraceID(pcommon.TraceID{byte(r.Uint32()), 1})
	s.SetSpanID(pcommon.SpanID{byte(r.Uint32()), 2})
	if r.IntN(2) == 0 {
		s.SetParentSpanID(pcommon.SpanID{byte(r.Uint32()), 3})
		s.TraceState().FromRaw("ot=th:8")
		s.Status().SetMessage("m")
		s.Status().SetCode(ptrace.StatusCode(r.IntN(3)))
	}
	s.SetName(fmt.Sprint("name", r.IntN(3)))
	s.SetKind(ptrace.SpanKind(r.IntN(6)))
	s.SetStartTimestamp(pcommon.Timestamp(r.Uint64()))
	s.SetEndTimestamp(pcommon.Timestamp(r.Uint64()))
	s.SetFlags(r.Uint32N(1000))
	s.SetDroppedAttributesCount(r.Uint32N(2))
	attributes(r, s.Attributes())
	for range r.IntN(3) {
		e := s.Events().AppendEmpty()
		e.SetName("event")
		e.SetTimestamp(5)
		attributes(r, e.Attributes())
		l := s.Links().AppendEmpty()
		l.SetTraceID(pcommon.TraceID{9})
		l.TraceState().FromRaw("a=b")
		attributes(r, l.Attributes())
	}
}

func attributes(r *rand.Rand, m pcommon.Map) {
	all := map[string]any{
		"s": "x", "long": string(make([]byte, 200)), "i": r.Int64N(1000) - 500, "b": true, "n": false, "d": r.Float64(), "e": nil,
		"y": []byte{0, 1}, "l": []any{"x", []any{}, map[string]any{"s": "x"}}, "m": map[string]any{"a": map[string]any{}},
	}
	for key := range all {
		if r.IntN(3) == 0 {
			delete(all, key)
		}
	}
	_ = m.FromRaw(all)
}

func marshal(tb testing.TB, td ptrace.Traces) []byte {
	tb.Helper()
	data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestMalformedSaysWhere(t *testing.T) {
	for data, want := range map[string]string{
		"\x0a\x05":                 "the request is malformed: in ExportTraceServiceRequest: field 1 has no end",
		"\x0a\x02\x10\x00":         "the request is malformed: in ResourceSpans: field 2 is of wire type 0",
		"\x0a\x04\x12\x02\x12\x01": "the request is malformed: in ScopeSpans: field 2 has no end",
		"\x0a\x02\x4b\x4c":         otlp.ErrOld.Error(),
		"\x0a\x03\xc2\x3e\x00":     otlp.ErrOld.Error(),
		"\x0a\x09\x12\x07\x12\x05\x0a\x03\x01\x02\x03": "the request is malformed: in Span: the id of field 1 has 3 bytes",
		"\x00": "the request is malformed: in ExportTraceServiceRequest: a field has no number",
	} {
		if _, err := otlp.Check([]byte(data)); err == nil || err.Error() != want {
			t.Errorf("%x: %v, want %s", data, err, want)
		}
	}
}

func TestDepthIsBounded(t *testing.T) {
	for depth, ok := range map[int]bool{90: true, 1000: false} {
		td := ptrace.NewTraces()
		v := td.ResourceSpans().AppendEmpty().Resource().Attributes().PutEmpty("a")
		for range depth {
			v = v.SetEmptySlice().AppendEmpty()
		}
		if _, err := otlp.Check(marshal(t, td)); (err == nil) != ok {
			t.Errorf("%d: %v", depth, err)
		}
	}
}

func TestWritten(t *testing.T) {
	td := sample(3)
	out, at := otlp.Begin(nil, otlp.RequestResourceSpans)
	out = otlp.AppendBytes(out, 3, "s")
	otlp.End(out, at)
	out = append(out, marshal(t, td)...)
	got, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(out)
	if err != nil || got.ResourceSpans().Len() != td.ResourceSpans().Len()+1 || got.ResourceSpans().At(0).SchemaUrl() != "s" {
		t.Fatalf("%d, %v", got.ResourceSpans().Len(), err)
	}
	if _, err := otlp.Check(out); err != nil {
		t.Error(err)
	}
}

// TestRepeatedIsCopiedOnce: what is said in very many parts is put together in no more memory than a few times its own.
func TestRepeatedIsCopiedOnce(t *testing.T) {
	const parts = 100_000
	resources := append(bytes.Repeat([]byte{otlp.ResourceSpansResource<<3 | 2, 2, 0x10, 1}, parts), 0x12, 2, 0x12, 0)
	values := bytes.Repeat([]byte{2<<3 | 2, 2, 0x18, 1}, parts)
	for name, read := range map[string]func(){
		"resource": func() { otlp.ResourceOf(resources) },
		"value":    func() { otlp.KeyValue(values) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		read()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 20*4*parts {
			t.Errorf("%s: %d MB for %d KB", name, n>>20, 4*parts>>10)
		}
	}
}
