package otlp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/machinenativeops/weir/internal/otlp"
)

// TestWherePdataDiffers is of all that Check and pdata (1.67) see differently. Whatever pdata refuses is refused, or said to be
// old, and then it is pdata that refuses it.
func TestWherePdataDiffers(t *testing.T) {
	const over, old, no = "the number of a field is over 536870911", "no longer in use", ""
	inSpans := func(field []byte) []byte { return bodies(field, otlp.RequestResourceSpans) }
	begin := protowire.AppendTag(nil, 100, protowire.StartGroupType)
	end := protowire.AppendTag(nil, 100, protowire.EndGroupType)
	field := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7)
	group := func(parts ...[]byte) []byte { return inSpans(bytes.Join(parts, nil)) }
	empty := bodies(nil, 1000)
	for name, c := range map[string]struct {
		data  []byte
		want  string // in the error
		pdata bool   // takes it
	}{
		// Protobuf has no such numbers. Pdata looks at 32 bits of them: the second is a ResourceSpans to it.
		"number over 2^29":        {protowire.AppendVarint(protowire.AppendVarint(nil, 1<<32), 5), over, true},
		"number that wraps":       {append(protowire.AppendVarint(nil, 1<<35|1<<3|2), 0), over, true},
		"number that is negative": {append(protowire.AppendVarint(nil, 1<<34), 0), over, false},
		// What is deep could fill the stack.
		"deep": {marshal(t, deepValue(1000)), "more than 100 deep", true},
		// Groups are skipped by pdata as far as their first field, and what follows is taken to be outside, where no end may be.
		"group":                          {group(begin, field, end), old, false},
		"group of two fields":            {group(begin, field, field, end), old, false},
		"empty group":                    {group(begin, end, field), old, true},
		"empty group with nothing after": {group(begin, end), old, false},
		"group without an end":           {group(begin, field), old, true},
		"end without a group":            {group(end, field), old, false},
		"known field as a group":         {[]byte{1<<3 | 3, 1<<3 | 4}, "is of wire type 3", false},
		// Scopes as they were before OTLP 0.15.
		"old scopes":                     {inSpans(empty), old, true},
		"old scopes of another type":     {inSpans(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)), old, false},
		"field 1000 of something else":   {empty, no, true},
		"old scopes that have no length": {inSpans(empty[:2]), old, false},
	} {
		_, err := otlp.Check(c.data)
		_, theirs := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(c.data)
		if (err == nil) != (c.want == no) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if (theirs == nil) != c.pdata {
			t.Errorf("%s: pdata says %v", name, theirs)
		}
		if errors.Is(err, otlp.ErrOld) != (c.want == old) {
			t.Errorf("%s: is it old: %v", name, err)
		}
		_ = hold(t, c.data)
	}
}

// TestReadAsPdataReads is of what protobuf lets be in more ways than one, where each has to be read as pdata reads it.
func TestReadAsPdataReads(t *testing.T) {
	resource := func(key string) []byte { return bodies(append(text(1, key), value(text(1, "v"))...), 1, 1) }
	id := strings.Repeat("i", 16)
	ff := bytes.Repeat([]byte{0xff}, 9)
	for name, data := range map[string][]byte{
		"nothing":                       {},
		"an empty ResourceSpans":        bodies(nil, 1),
		"an empty ScopeSpans":           bodies(nil, 1, 2),
		"an empty span":                 spanOf(),
		"two resources":                 bodies(append(resource("a"), resource("b")...), 1),
		"two resources, scopes between": bodies(bytes.Join([][]byte{resource("a"), bodies(text(5, "n"), 2, 2), resource("b")}, nil), 1),
		"two statuses":                  spanOf(bodies(number(3, 2), 15), bodies(text(2, "m"), 15)),
		"two codes":                     spanOf(bodies(append(number(3, 2), number(3, 1)...), 15)),
		"two names":                     spanOf(text(5, "a"), text(5, "b")),
		"two ids":                       spanOf(text(1, id), text(1, strings.ToUpper(id)), text(4, id[:8]), text(4, "parentid")),
		"an id, and then an empty one":  spanOf(text(1, id), text(2, id[:8]), text(4, id[:8]), text(1, ""), text(2, ""), text(4, "")),
		"a kind of 64 bits":             spanOf(number(6, 1<<32|3)),
		"a kind below zero":             spanOf(number(6, math.MaxUint64)),
		"a kind of 70 bits":             spanOf(append(append([]byte{6 << 3}, ff...), 0x7f)),
		"a kind of too many bytes":      spanOf([]byte{6 << 3, 0x83, 0x80, 0x80, 0x00}),
		"a tag of too many bytes":       spanOf([]byte{5<<3 | 2 | 0x80, 0x80, 0x00, 1, 'n'}),
		"a length of too many bytes":    spanOf([]byte{5<<3 | 2, 0x81, 0x80, 0x00, 'n'}),
		"no text":                       spanOf([]byte{5<<3 | 2, 1, 0xff}),
		"attributes apart":              spanOf(bodies(text(1, "a"), 9), text(5, "n"), bodies(text(1, "b"), 9)),
		"an empty attribute":            spanOf(attributeOf()),
		"a key without a value":         spanOf(attributeOf(text(1, "k"))),
		"a value without a key":         spanOf(attributeOf(value(text(1, "v")))),
		"a value before its key":        spanOf(attributeOf(value(text(1, "v")), text(1, "k"))),
		"two keys":                      spanOf(attributeOf(text(1, "a"), text(1, "b"))),
		"two keys and a value":          spanOf(attributeOf(text(1, "a"), text(1, "b"), value(text(1, "v")))),
		"two values":                    spanOf(attributeOf(text(1, "k"), value(text(1, "v")), value(number(3, 1)))),
		"two values, one empty":         spanOf(attributeOf(text(1, "k"), value(text(1, "v")), value())),
		"a value of two types":          spanOf(attributeOf(text(1, "k"), value(number(3, 1), text(1, "v")))),
		"a value of an unknown type":    spanOf(attributeOf(text(1, "k"), value(text(1, "v"), text(99, "w")))),
		"two lists, which are not one":  spanOf(attributeOf(text(1, "k"), value(bodies(text(1, "a"), 5, 1), bodies(text(1, "b"), 5, 1)))),
		"an index for a text":           spanOf(attributeOf(text(1, "k"), value(number(8, 1)))),
		"an index for a key":            spanOf(attributeOf(number(3, 1), value(text(1, "v")))),
		"a key twice":                   spanOf(bodies(append(text(1, "k"), value(text(1, "v"))...), 9), bodies(append(text(1, "k"), value(number(3, 1))...), 9)),
		"a bool of two":                 spanOf(attributeOf(text(1, "k"), value(number(2, 2)))),
		"a bool of 70 bits":             spanOf(attributeOf(text(1, "k"), value(append(append([]byte{2 << 3}, ff...), 0x7e)))),
		"bytes that are empty":          spanOf(attributeOf(text(1, "k"), value(text(7, "")))),
		// If its length had one byte, what is in it would be an attribute as it usually is, and what follows nothing at all.
		"a long key that looks like a value": spanOf(attributeOf(text(1, "        \x12\x73\x0a\x71"+strings.Repeat("k", 1200)), value(text(1, strings.Repeat("v", 62))))),
		"a long key":                         spanOf(attributeOf(text(1, strings.Repeat("k", 200)), value(text(1, "v")))),
		"a long value":                       spanOf(attributeOf(text(1, "k"), value(text(1, strings.Repeat("v", 20_000))))),
	} {
		if err := hold(t, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNeitherTakes is of fields of spans that look much like those that are usual.
func TestNeitherTakes(t *testing.T) {
	for name, data := range map[string][]byte{
		"no number, in two bytes":            spanOf([]byte{0x85, 0, 1, 2, 3, 4}),
		"flags cut off":                      spanOf([]byte{0x85, 1, 1, 2, 3}),
		"a kind cut off":                     spanOf([]byte{6 << 3}),
		"a kind of eleven bytes":             spanOf(append([]byte{6 << 3}, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00"...)),
		"a start cut off":                    spanOf([]byte{7<<3 | 1, 1, 2, 3, 4, 5, 6, 7}),
		"an id of 15 bytes":                  spanOf(text(1, strings.Repeat("i", 15))),
		"an id of 8 bytes, and 16 are there": spanOf([]byte{1<<3 | 2, 8}, make([]byte, 16)),
		"a text that ends in another span":   append(spanOf([]byte{5<<3 | 2, 9}), spanOf(text(5, "name"))...),
		"an attribute that does so":          append(spanOf(attributeOf(text(1, "key"), value(text(1, "v")))[:7]), spanOf(text(5, "name"))...),
		"an attribute cut off":               spanOf(attributeOf(text(1, "key"), value(text(1, "v")))[:7]),
		"a text shorter than its value":      spanOf(attributeOf(text(1, "k"), value(append(text(1, "v"), 'w')))),
		"a text longer than its value":       spanOf(attributeOf(text(1, "k"), value([]byte{1<<3 | 2, 3, 'v'}))),
		"a key longer than its attribute":    spanOf(attributeOf([]byte{1<<3 | 2, 9, 'k'}, value(text(1, "v")))),
		"a value longer than its attribute":  spanOf(attributeOf(text(1, "k"), []byte{2<<3 | 2, 9}, text(1, "v"))),
		"a value shorter than it says":       spanOf(attributeOf(text(1, "k"), []byte{2<<3 | 2, 4}, text(1, "v"))),
		"a number longer than its value":     spanOf(attributeOf(text(1, "k"), value([]byte{3 << 3, 0x80}))),
		"a number and half a field":          spanOf(attributeOf(text(1, "k"), value([]byte{3 << 3, 1, 1}))),
		"half a double":                      spanOf(attributeOf(text(1, "k"), value([]byte{4<<3 | 1, 1, 2, 3}))),
		"a text for an index":                spanOf(attributeOf(text(1, "k"), text(3, "\x0a\x01v"))),
		"a text for a bool":                  spanOf(attributeOf(text(1, "k"), value(text(2, "v")))),
	} {
		if err := hold(t, data); err == nil || errors.Is(err, otlp.ErrOld) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func text(number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

func number(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

func spanOf(fields ...[]byte) []byte { return bodies(bytes.Join(fields, nil), 1, 2, 2) }

func attributeOf(fields ...[]byte) []byte {
	return bodies(bytes.Join(fields, nil), otlp.SpanAttributes)
}

func value(fields ...[]byte) []byte { return bodies(bytes.Join(fields, nil), 2) }

// bodies is a body in fields in each other, of which the numbers begin with the outermost.
func bodies(body []byte, numbers ...protowire.Number) []byte {
	for _, n := range slices.Backward(numbers) {
		body = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), body)
	}
	return body
}

func deepValue(depth int) ptrace.Traces {
	td := ptrace.NewTraces()
	v := td.ResourceSpans().AppendEmpty().Resource().Attributes().PutEmpty("deep")
	for i := range depth {
		if i%2 == 0 {
			v = v.SetEmptySlice().AppendEmpty()
		} else {
			v = v.SetEmptyMap().PutEmpty("")
		}
	}
	v.SetStr("x")
	return td
}

// TestWhatPdataWrites is of pdata as its setters let it be: it is read without being checked, and so has always to be well formed.
func TestWhatPdataWrites(t *testing.T) {
	td := ptrace.NewTraces()
	td.ResourceSpans().EnsureCapacity(5)
	td.ResourceSpans().AppendEmpty()
	rs := td.ResourceSpans().AppendEmpty()
	rs.SetSchemaUrl("\xff")
	rs.Resource().SetDroppedAttributesCount(math.MaxUint32)
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Spans().AppendEmpty()
	s := ss.Spans().AppendEmpty()
	s.SetKind(-1)
	s.Status().SetCode(math.MinInt32)
	s.Status().SetMessage("\x00")
	s.TraceState().FromRaw("\xff\xfe")
	s.SetName(strings.Repeat("n", 1<<21))
	s.SetParentSpanID(pcommon.SpanID{7: 1})
	s.SetStartTimestamp(math.MaxUint64)
	s.SetFlags(math.MaxUint32)
	s.SetDroppedEventsCount(math.MaxUint32)
	s.SetDroppedLinksCount(1)
	a := s.Attributes()
	a.PutEmpty("")
	a.PutEmptyBytes("bytes")
	a.PutEmptyMap("map").PutEmptySlice("").AppendEmpty()
	a.PutDouble("double", math.NaN())
	a.PutInt("int", math.MinInt64)
	a.PutBool("\xff", false)
	for _, n := range []int{126, 127, 128, 1 << 14} { // where lengths become longer
		a.PutStr(strings.Repeat("k", n), strings.Repeat("v", n))
	}
	value := a.PutEmptySlice("moved").AppendEmpty()
	value.SetEmptyMap().PutStr("k", "v")
	moved, _ := a.Get("moved")
	moved.MoveTo(moved.Slice().At(0)) // which is its own from then on, and nobody's
	a.PutStr("removed", "")
	a.RemoveIf(func(key string, _ pcommon.Value) bool { return key == "removed" })
	s.Links().AppendEmpty().SetFlags(1)
	s.Links().AppendEmpty().SetDroppedAttributesCount(1)
	a.CopyTo(s.Events().AppendEmpty().Attributes())
	s.CopyTo(ss.Spans().AppendEmpty())
	s.SetTraceID(pcommon.TraceID{15: 1})
	s.MoveTo(ss.Spans().AppendEmpty()) // which leaves an empty one
	if err := hold(t, marshal(t, td)); err != nil {
		t.Error(err)
	}
}

// TestWhatIsDeepIsRead is of what pdata writes and Check refuses: reading does not go down.
func TestWhatIsDeepIsRead(t *testing.T) {
	td := deepValue(10_000)
	compare(t, marshal(t, td), td)
}

// TestOldScopesAreRead is of pdata that was read and not migrated, which writes the old scopes that it never shows.
func TestOldScopesAreRead(t *testing.T) {
	data := bodies(append(bodies(nil, 1000, 2), bodies(nil, 2, 2)...), 1)
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data)
	if err != nil || td.SpanCount() != 1 {
		t.Fatalf("%d spans, %v", td.SpanCount(), err)
	}
	again := marshal(t, td)
	if !bytes.Contains(again, binary.AppendUvarint(nil, 1000<<3|2)) {
		t.Error("they are gone")
	}
	compare(t, again, td)
}

func TestAllocatesNothing(t *testing.T) {
	data := marshal(t, typical(true))
	var s otlp.Span
	if n := testing.AllocsPerRun(10, func() {
		if _, err := otlp.Check(data); err != nil {
			t.Error(err)
		}
		spans(data, func(message []byte) {
			s.Read(message)
			if v, ok := s.Attributes().Get("url.path"); !ok || v.Str() == "" {
				t.Error("there is no path")
			}
		})
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
