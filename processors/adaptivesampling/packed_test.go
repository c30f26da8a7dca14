package adaptivesampling

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/internal/otlp"
)

// TestPackedHasEverything sets whatever a span, its events and links have to be set, also what there may be in times to come,
// and holds that it is unpacked as it was.
func TestPackedHasEverything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	want := ptrace.NewSpan()
	set(t, random, want)
	want.SetKind(ptrace.SpanKindConsumer)
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
	message := messages(t, want)[0]
	var p packer
	for range 5 { // the first times it is not in the dictionary
		p.begin()
		roundTrip(t, &p, message)
	}
	if len(p.out) > 300 {
		t.Errorf("it still takes %d bytes", len(p.out))
	}
	want.SetKind(1 << 30)
	roundTrip(t, &p, messages(t, want)[0])
}

// messages gives spans as they are on the wire.
func messages(tb testing.TB, spans ...ptrace.Span) (all [][]byte) {
	tb.Helper()
	td := ptrace.NewTraces()
	for _, span := range spans {
		span.CopyTo(td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty())
	}
	data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		tb.Fatal(err)
	}
	return messagesOf(data)
}

func messagesOf(request []byte) (all [][]byte) {
	for rs := otlp.FieldsOf(request); rs.Next(); {
		for ss := otlp.FieldsOf(rs.Body); rs.Number == otlp.RequestResourceSpans && ss.Next(); {
			for span := otlp.FieldsOf(ss.Body); ss.Number == otlp.ResourceSpansScopeSpans && span.Next(); {
				if span.Number == otlp.ScopeSpansSpans {
					all = append(all, span.Body)
				}
			}
		}
	}
	return all
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
		if _, err := otlp.Check(data); err != nil {
			return
		}
		var p packer
		for range 4 {
			p.begin()
			for _, message := range messagesOf(data) {
				roundTrip(t, &p, message)
			}
		}
	})
}

func roundTrip(t *testing.T, p *packer, message []byte) {
	t.Helper()
	from := len(p.out)
	p.span(message)
	u := unpacker{data: string(p.out[from:]), dictionary: p.dictionary.text.String()}
	if got, want := read(t, u.span(nil)), read(t, withoutID(message)); !bytes.Equal(got, want) {
		t.Fatalf("got\n%q, want\n%q", got, want)
	}
	if u.at != len(u.data) {
		t.Errorf("%d of %d bytes are read", u.at, len(u.data))
	}
}

// read gives a request with a span as pdata writes it when it has read it.
func read(t *testing.T, span []byte) []byte {
	t.Helper()
	request, resource := otlp.Begin(nil, otlp.RequestResourceSpans)
	request, scope := otlp.Begin(request, otlp.ResourceSpansScopeSpans)
	request = otlp.AppendBytes(request, otlp.ScopeSpansSpans, span)
	otlp.End(request, scope)
	otlp.End(request, resource)
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(request)
	if err != nil {
		t.Fatalf("%q: %v", span, err)
	}
	out, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func withoutID(message []byte) (rest []byte) {
	for f := otlp.FieldsOf(message); f.Next(); {
		if f.Number != otlp.SpanTraceID {
			rest = append(rest, f.Whole...)
		}
	}
	return rest
}

// TestDictionariesAreRenewed packs more than a dictionary has room for, and unpacks it when others have taken its place.
func TestDictionariesAreRenewed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var p packer
	type packed struct {
		unpacker
		want []byte
	}
	var all []packed
	size, plain, used := 0, 0, map[uint64]bool{}
	for range 300 {
		span := ptrace.NewSpan()
		for i := range 100 {
			value := fmt.Sprint("a value of some length, number ", int(random.ExpFloat64()*10)) // few often, many seldom
			span.Attributes().PutStr(fmt.Sprint("key ", i), value)
		}
		message := messages(t, span)[0]
		plain += len(message)
		p.begin()
		p.span(message)
		all = append(all, packed{unpacker{data: string(p.out), dictionary: p.dictionary.text.String()}, withoutID(message)})
		size += len(p.out) + p.dictionary.grown()
		used[p.dictionary.number] = true
	}
	for i := range all {
		if got := all[i].span(nil); !bytes.Equal(read(t, got), read(t, all[i].want)) {
			t.Fatalf("%d: got %q, want %q", i, got, all[i].want)
		}
	}
	if len(used) < 2 {
		t.Errorf("%d dictionaries were used: this proves nothing", len(used))
	}
	if size > plain*4/5 {
		t.Errorf("what was %d bytes takes %d", plain, size)
	}
}

// BenchmarkPack packs batches of spans with five attributes, of which one is another for each span, as collectors and as SDKs
// write them. ns/span and bytes/span are what counts.
func BenchmarkPack(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	var spans []ptrace.Span
	for n := range 500 {
		span := ptrace.NewSpan()
		span.SetTraceID(pcommon.TraceID{byte(n), 1})
		span.SetSpanID(pcommon.SpanID{byte(n), 1})
		span.SetParentSpanID(pcommon.SpanID{byte(n), 2})
		span.SetName(fmt.Sprintf("GET /items/%d", n%10))
		span.SetKind(ptrace.SpanKindServer)
		span.SetStartTimestamp(1_790_000_000_000_000_000)
		span.SetEndTimestamp(span.StartTimestamp() + pcommon.Timestamp(random.Uint64N(200_000_000)))
		a := span.Attributes()
		a.PutStr("http.request.method", "GET")
		a.PutStr("url.path", "/items/of/some/kind")
		a.PutInt("http.response.status_code", 200)
		a.PutStr("server.address", "checkout.shop")
		a.PutStr("user.id", "??????")
		spans = append(spans, span)
	}
	written := messages(b, spans...)
	b.Run("collector", func(b *testing.B) { benchmarkPack(b, random, written) })
	for i := range written {
		written[i] = ascending(written[i], true)
	}
	b.Run("SDK", func(b *testing.B) { benchmarkPack(b, random, written) })
}

func benchmarkPack(b *testing.B, random *rand.Rand, all [][]byte) {
	var places []int
	for _, message := range all {
		places = append(places, bytes.Index(message, []byte("?")))
	}
	var p packer
	size := 0
	b.ReportAllocs()
	for b.Loop() {
		p.begin()
		for i, message := range all {
			strconv.AppendInt(message[:places[i]], int64(100_000+random.IntN(900_000)), 10)
			p.span(message)
		}
		size += len(p.out) + p.dictionary.grown()
	}
	for i, message := range all {
		copy(message[places[i]:], "??????")
	}
	n := float64(b.N * len(all))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/span")
	b.ReportMetric(float64(size)/n, "bytes/span")
}

// ascending puts a message's fields in order, and those of its attributes.
func ascending(message []byte, attributes bool) []byte {
	var fields [][]byte
	for f := otlp.FieldsOf(message); f.Next(); {
		field := f.Whole
		if attributes && f.Number == otlp.SpanAttributes {
			field = otlp.AppendBytes(nil, f.Number, ascending(f.Body, false))
		}
		fields = append(fields, field)
	}
	slices.SortStableFunc(fields, func(a, b []byte) int { return cmp.Compare(a[0], b[0]) })
	return slices.Concat(fields...)
}
