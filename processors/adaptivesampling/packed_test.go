package adaptivesampling

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// TestPackedHasEverything sets whatever a span, its events and links have to be set, also what there may be in times to come,
// and holds that it is unpacked as it was.
func TestPackedHasEverything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	want := ptrace.NewSpan()
	set(t, random, want)
	want.TraceState().FromRaw("ot=th:8")
	set(t, random, want.Status())
	set(t, random, want.Events().AppendEmpty())
	link := want.Links().AppendEmpty()
	set(t, random, link)
	link.TraceState().FromRaw("a=b")
	for _, m := range []pcommon.Map{want.Attributes(), want.Events().At(0).Attributes(), link.Attributes()} {
		err := m.FromRaw(map[string]any{"s": "x", "i": int64(-7), "b": true, "n": false, "d": 0.5, "e": nil, "y": []byte{0, 1}, "l": []any{"x", []any{}, map[string]any{"s": "x"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	var p packer
	for range 5 { // the first times it is not in the dictionary
		p.begin()
		p.span(want)
		got := ptrace.NewSpan()
		u := unpacker{data: string(p.out), dictionary: p.dictionary.text.String()}
		u.span(got)
		if u.at != len(u.data) {
			t.Errorf("%d of %d bytes are read", u.at, len(u.data))
		}
		got.SetTraceID(want.TraceID())
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%#v, want\n%#v", asJSON(t, got), asJSON(t, want))
		}
	}
	if len(p.out) > 300 {
		t.Errorf("it still takes %d bytes", len(p.out))
	}
}

// set calls every setter with something that is not zero.
func set(t *testing.T, random *rand.Rand, of any) {
	t.Helper()
	v := reflect.ValueOf(of)
	for i := range v.NumMethod() {
		method := v.Method(i)
		if !strings.HasPrefix(v.Type().Method(i).Name, "Set") || method.Type().NumIn() != 1 {
			continue
		}
		value := reflect.New(method.Type().In(0)).Elem()
		switch value.Kind() {
		case reflect.String:
			value.SetString(fmt.Sprint(random.Uint64()))
		case reflect.Uint32, reflect.Uint64:
			value.SetUint(random.Uint64() | 1)
		case reflect.Int32:
			value.SetInt(int64(random.Int32() | 1))
		case reflect.Array:
			for i := range value.Len() {
				value.Index(i).SetUint(1 + random.Uint64N(255))
			}
		default:
			t.Fatalf("%s: how to make a %s?", v.Type().Method(i).Name, value.Type())
		}
		method.Call([]reflect.Value{value})
	}
}

func asJSON(t *testing.T, span ptrace.Span) string {
	t.Helper()
	td := ptrace.NewTraces()
	span.CopyTo(td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty())
	text, err := new(ptrace.JSONMarshaler).MarshalTraces(td)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// FuzzPacked packs the spans of whatever is OTLP, some as often as it takes to have their attributes in the dictionary, and holds
// that they are unpacked as they were.
func FuzzPacked(f *testing.F) {
	td := ptrace.NewTraces()
	span := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	for range 2 {
		data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		span.SetName("a")
		span.TraceState().FromRaw("ot=th:8")
		span.Status().SetMessage("b")
		span.Events().AppendEmpty().SetName("c")
		span.Links().AppendEmpty().TraceState().FromRaw("d=e")
		if err := span.Attributes().FromRaw(map[string]any{"s": "x", "i": int64(-7), "b": true, "d": 0.5, "e": nil, "y": []byte{0}, "l": []any{"x", map[string]any{"s": "x"}}}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data)
		if err != nil {
			return
		}
		var p packer
		for range 4 {
			p.begin()
			for _, rs := range td.ResourceSpans().All() {
				for _, ss := range rs.ScopeSpans().All() {
					for _, want := range ss.Spans().All() {
						roundTrip(t, &p, want)
					}
				}
			}
		}
	})
}

func roundTrip(t *testing.T, p *packer, want ptrace.Span) {
	t.Helper()
	from := len(p.out)
	p.span(want)
	got := ptrace.NewSpan()
	u := unpacker{data: string(p.out[from:]), dictionary: p.dictionary.text.String()}
	u.span(got)
	if u.at != len(u.data) {
		t.Errorf("%d of %d bytes are read", u.at, len(u.data))
	}
	if got, want := plain(got), plain(want); got != want {
		t.Fatalf("got\n%s, want\n%s", got, want)
	}
}

// plain is all that a span says, but for its trace's id. Of a key that is there twice, which OTLP forbids, it is the last.
func plain(s ptrace.Span) string {
	all := []any{
		s.SpanID(), s.ParentSpanID(), s.Name(), s.Kind(), s.TraceState().AsRaw(), s.Flags(), s.StartTimestamp(), s.EndTimestamp(),
		s.Status().Code(), s.Status().Message(), s.Attributes().AsRaw(),
		s.DroppedAttributesCount(), s.DroppedEventsCount(), s.DroppedLinksCount(),
	}
	for _, e := range s.Events().All() {
		all = append(all, e.Name(), e.Timestamp(), e.Attributes().AsRaw(), e.DroppedAttributesCount())
	}
	for _, l := range s.Links().All() {
		all = append(all, l.TraceID(), l.SpanID(), l.TraceState().AsRaw(), l.Flags(), l.Attributes().AsRaw(), l.DroppedAttributesCount())
	}
	return fmt.Sprintf("%q", all)
}

// TestDictionariesAreRenewed packs more than a dictionary has room for, and unpacks it when others have taken its place.
func TestDictionariesAreRenewed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var p packer
	type packed struct {
		unpacker
		want pcommon.Map
	}
	var all []packed
	bytes, plain, used := 0, 0, map[uint64]bool{}
	for range 300 {
		m := pcommon.NewMap()
		for i := range 100 {
			value := fmt.Sprint("a value of some length, number ", int(random.ExpFloat64()*10)) // few often, many seldom
			m.PutStr(fmt.Sprint("key ", i), value)
			plain += len("key 00") + len(value)
		}
		p.begin()
		p.attributes(m)
		all = append(all, packed{unpacker{data: string(p.out), dictionary: p.dictionary.text.String()}, m})
		bytes += len(p.out) + p.dictionary.grown()
		used[p.dictionary.number] = true
	}
	for i := range all {
		got := pcommon.NewMap()
		all[i].attributes(got)
		if !got.Equal(all[i].want) {
			t.Fatalf("%d: got %v, want %v", i, got.AsRaw(), all[i].want.AsRaw())
		}
	}
	if len(used) < 2 {
		t.Errorf("%d dictionaries were used: this proves nothing", len(used))
	}
	if bytes > plain*4/5 {
		t.Errorf("what was %d bytes takes %d", plain, bytes)
	}
}

// BenchmarkPack packs batches of spans with five attributes, of which one is another for each span. ns/span and bytes/span are
// what counts.
func BenchmarkPack(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	spans := ptrace.NewSpanSlice()
	for n := range 500 {
		span := spans.AppendEmpty()
		span.SetName(fmt.Sprintf("GET /items/%d", n%10))
		a := span.Attributes()
		a.PutStr("http.request.method", "GET")
		a.PutStr("url.path", "/items/of/some/kind")
		a.PutInt("http.response.status_code", 200)
		a.PutStr("server.address", "checkout.shop")
		a.PutStr("user.id", "")
	}
	var p packer
	bytes := 0
	b.ReportAllocs()
	for b.Loop() {
		p.begin()
		for _, span := range spans.All() {
			id, _ := span.Attributes().Get("user.id")
			id.SetStr(strconv.Itoa(random.IntN(1e6)))
			p.span(span)
		}
		bytes += len(p.out) + p.dictionary.grown()
	}
	n := float64(b.N * spans.Len())
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/span")
	b.ReportMetric(float64(bytes)/n, "bytes/span")
}
