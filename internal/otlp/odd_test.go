package otlp_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/machinenativeops/weir/internal/otlp"
)

// FuzzOdd holds against pdata requests as protobuf lets them be and as nobody writes them.
func FuzzOdd(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(choices(seed))
	}
	f.Fuzz(func(t *testing.T, choices []byte) { _ = hold(t, oddRequest(choices)) })
}

func TestOddRequests(t *testing.T) {
	accepted, old, refused := 0, 0, 0
	for seed := range uint64(3000) {
		switch err := hold(t, oddRequest(choices(seed))); {
		case err == nil:
			accepted++
		case errors.Is(err, otlp.ErrOld):
			old++
		default:
			refused++
		}
	}
	if min(accepted, old, refused) < 300 {
		t.Errorf("%d accepted, %d old, %d refused", accepted, old, refused)
	}
}

// choices is a random source of them.
func choices(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 3))
	out := make([]byte, r.IntN(1000))
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

// odd writes messages of any of the fields that OTLP has for them, as often and in whatever order it comes, with some that it
// does not have.
type odd struct {
	choices     []byte
	old, broken bool
}

func oddRequest(choices []byte) []byte {
	o := odd{choices: choices}
	o.old, o.broken = o.n(2) == 1, o.n(2) == 1
	return o.message(new(tracepb.TracesData).ProtoReflect().Descriptor())
}

// n is the next choice, which is below k, and 0 when there are no more.
func (o *odd) n(k int) int {
	if len(o.choices) == 0 {
		return 0
	}
	c := int(o.choices[0])
	o.choices = o.choices[1:]
	return c % k
}

func (o *odd) message(m protoreflect.MessageDescriptor) (b []byte) {
	for o.n(12) > 0 {
		switch c := o.n(32); {
		case c == 0:
			b = o.unknown(b)
		case c == 1 && o.old:
			b = o.oldField(b)
		case c == 2 && o.broken:
			b = o.brokenField(b, m)
		default:
			b = o.field(b, m.Fields().Get(o.n(m.Fields().Len())))
		}
	}
	return b
}

func (o *odd) field(b []byte, f protoreflect.FieldDescriptor) []byte {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return o.body(b, f.Number(), o.message(f.Message()))
	case protoreflect.StringKind, protoreflect.BytesKind:
		return o.body(b, f.Number(), o.bytes(f))
	case protoreflect.Fixed32Kind:
		return o.number(b, f.Number(), protowire.Fixed32Type)
	case protoreflect.Fixed64Kind, protoreflect.DoubleKind:
		return o.number(b, f.Number(), protowire.Fixed64Type)
	default:
		return o.number(b, f.Number(), protowire.VarintType)
	}
}

// bytes is a text, or an id, which may be empty.
func (o *odd) bytes(f protoreflect.FieldDescriptor) []byte {
	switch f.Name() {
	case "trace_id":
		return make([]byte, []int{16, 0}[o.n(2)])
	case "span_id", "parent_span_id":
		return binary.LittleEndian.AppendUint64(nil, uint64(o.n(256)))[:[]int{8, 0}[o.n(2)]]
	}
	out := make([]byte, []int{0, 1, 2, 5, 127, 128, 300}[o.n(7)])
	for i := range out {
		out[i] = byte(o.n(256))
	}
	return out
}

// varint is a number, which may be longer than it need be.
func (o *odd) varint(b []byte, v uint64) []byte {
	b = binary.AppendUvarint(b, v)
	if o.n(8) != 7 {
		return b
	}
	for range o.n(11 - protowire.SizeVarint(v)) {
		b[len(b)-1] |= 0x80
		b = append(b, 0)
	}
	return b
}

func (o *odd) tag(b []byte, number protowire.Number, wire protowire.Type) []byte {
	return o.varint(b, protowire.EncodeTag(number, wire))
}

func (o *odd) body(b []byte, number protowire.Number, body []byte) []byte {
	return append(o.varint(o.tag(b, number, protowire.BytesType), uint64(len(body))), body...)
}

func (o *odd) number(b []byte, number protowire.Number, wire protowire.Type) []byte {
	b = o.tag(b, number, wire)
	v := uint64(o.n(256)) << (8 * o.n(8))
	switch wire {
	case protowire.Fixed32Type:
		return binary.LittleEndian.AppendUint32(b, uint32(v))
	case protowire.Fixed64Type:
		return binary.LittleEndian.AppendUint64(b, v)
	}
	if o.n(16) == 15 { // of 70 bits
		return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)
	}
	return o.varint(b, v)
}

var unknownNumbers = []protowire.Number{17, 31, 32, 999, 1001, protowire.MaxValidNumber}

func (o *odd) unknown(b []byte) []byte {
	number := unknownNumbers[o.n(len(unknownNumbers))]
	wire := []protowire.Type{protowire.VarintType, protowire.Fixed32Type, protowire.Fixed64Type, protowire.BytesType}[o.n(4)]
	if wire == protowire.BytesType {
		return o.body(b, number, make([]byte, o.n(200)))
	}
	return o.number(b, number, wire)
}

// oldField is a group, which may have no end or no beginning, or scopes as they were.
func (o *odd) oldField(b []byte) []byte {
	number := unknownNumbers[o.n(len(unknownNumbers))]
	switch o.n(4) {
	case 0:
		return o.tag(b, number, protowire.EndGroupType)
	case 1:
		return o.body(b, 1000, o.message(new(tracepb.ScopeSpans).ProtoReflect().Descriptor()))
	case 2:
		b = o.unknown(o.tag(b, number, protowire.StartGroupType))
		return o.tag(b, number, protowire.EndGroupType)
	}
	return o.unknown(o.tag(b, number, protowire.StartGroupType))
}

func (o *odd) brokenField(b []byte, m protoreflect.MessageDescriptor) []byte {
	f := m.Fields().Get(o.n(m.Fields().Len()))
	tag := protowire.EncodeTag(f.Number(), protowire.BytesType)
	switch o.n(9) {
	case 0: // without a number
		return append(b, byte(o.n(8)), 0)
	case 1: // over 2^29, and of that wire type
		return o.varint(o.varint(b, 1<<32+uint64(o.n(256))<<3|uint64(o.n(8))), 0)
	case 2: // so much over it that 32 bits of it are the field's
		return o.varint(o.varint(b, tag|1<<(35+o.n(29))), 0)
	case 3: // of no wire type, or of another
		return append(o.tag(b, f.Number(), protowire.Type(o.n(8))), 0)
	case 4:
		return append(o.tag(b, 20, protowire.Type(o.n(8))), 0)
	case 5: // of more than there is
		return o.varint(o.varint(b, tag), uint64(o.n(256))<<(8*o.n(8)))
	case 6: // a number of eleven bytes
		return append(b, 0x50, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0)
	case 7: // an id, or a text
		return o.body(b, f.Number(), make([]byte, o.n(20)))
	}
	return b[:len(b)-min(len(b), o.n(12))]
}
