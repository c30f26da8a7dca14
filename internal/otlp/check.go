package otlp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrOld says that a request is well formed as far as it was looked at, and has what only pdata knows how to read: scopes as
// they were before OTLP 0.15, or groups.
var ErrOld = errors.New("the request has fields that are no longer in use")

// maxDepth is how deep values may be in others.
const maxDepth = 100

// Check says how many spans an export request has. What is well formed to it is so to pdata; the rest of the package reads
// nothing else.
func Check(request []byte) (spans int, err error) {
	c := checker{}
	if err := c.message(request, exportRequest, 0); err != nil {
		return 0, err
	}
	return c.spans, nil
}

// kind is what a field has to be.
type kind uint8

const (
	unknown kind = iota // whatever it is
	wrong               // of another wire type than it has to be
	varint
	fixed32
	fixed64
	text
	traceID
	spanID
	attribute
	value
	message
)

// shape is which fields a message has.
type shape struct {
	name   string
	kinds  [256]kind // by tag, of those that are numbered up to 31
	shapes [16]*shape
}

// Wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	startGroup  = 3
	endGroup    = 4
	wireFixed32 = 5
)

// newShape makes one of the kinds of its fields, by number, and of what is in those that are messages, in order.
func newShape(name string, kinds map[int]kind, messages ...*shape) *shape {
	s := &shape{name: name}
	for number := range 32 {
		k, known := kinds[number]
		if !known {
			continue
		}
		for wire := range 8 {
			s.kinds[number<<3|wire] = wrong
		}
		wire := wireBytes
		switch k {
		case varint:
			wire = wireVarint
		case fixed32:
			wire = wireFixed32
		case fixed64:
			wire = wireFixed64
		case message:
			s.shapes[number], messages = messages[0], messages[1:]
		}
		s.kinds[number<<3|wire] = k
	}
	return s
}

var (
	status = newShape("Status", map[int]kind{2: text, 3: varint})
	event  = newShape("Event", map[int]kind{1: fixed64, 2: text, 3: attribute, 4: varint})
	link   = newShape("Link", map[int]kind{1: traceID, 2: spanID, 3: text, 4: attribute, 5: varint, 6: fixed32})
	span   = newShape("Span", map[int]kind{
		1: traceID, 2: spanID, 3: text, 4: spanID, 5: text, 6: varint, 7: fixed64, 8: fixed64, 9: attribute, 10: varint,
		11: message, 12: varint, 13: message, 14: varint, 15: message, 16: fixed32,
	}, event, link, status)
	scope         = newShape("InstrumentationScope", map[int]kind{1: text, 2: text, 3: attribute, 4: varint})
	scopeSpans    = newShape("ScopeSpans", map[int]kind{1: message, 2: message, 3: text}, scope, span)
	entityRef     = newShape("EntityRef", map[int]kind{1: text, 2: text, 3: text, 4: text})
	resource      = newShape("Resource", map[int]kind{1: attribute, 2: varint, 3: message}, entityRef)
	resourceSpans = newShape("ResourceSpans", map[int]kind{1: message, 2: message, 3: text}, resource, scopeSpans)
	exportRequest = newShape("ExportTraceServiceRequest", map[int]kind{1: message}, resourceSpans)
	keyValueList  = newShape("KeyValueList", map[int]kind{1: attribute})
	valueList     = newShape("ArrayValue", map[int]kind{1: value})
	keyValue      = newShape("KeyValue", map[int]kind{1: text, 2: value, 3: varint})
	anyValue      = newShape("AnyValue", map[int]kind{1: text, 2: varint, 3: varint, 4: fixed64, 5: message, 6: message, 7: text, 8: varint}, valueList, keyValueList)
)

type checker struct{ spans int }

func (c *checker) message(b []byte, m *shape, depth int) error {
	if depth > maxDepth {
		return errors.New("the request has values that are more than 100 deep in each other")
	}
	if m == span {
		c.spans++
	}
	for len(b) > 0 {
		tag := uint64(b[0])
		if tag < 0x80 { // the usual case
			b = b[1:]
		} else {
			var n int
			if tag, n = uvarint(b); n == 0 || tag >= 1<<32 {
				return malformed(m, "a field has no number")
			}
			b = b[n:]
		}
		k := unknown
		if tag < uint64(len(m.kinds)) {
			k = m.kinds[tag]
		}
		size, head := -1, 0 // of what follows the tag, and of the length in that
		switch k {
		case fixed64:
			size = 8
		case fixed32:
			size = 4
		case wrong:
			return malformed(m, "field %d is of wire type %d", tag>>3, tag&7)
		case unknown:
			if err := odd(tag, m); err != nil {
				return err
			}
			_, size = take(b, tag&7)
		case varint:
			_, size = uvarint(b)
			if size == 0 {
				size = -1
			}
		default:
			if len(b) > 0 && b[0] < 0x80 { // the usual case
				size, head = 1+int(b[0]), 1
			} else if body, n := take(b, wireBytes); n > 0 {
				size, head = n, n-len(body)
			}
		}
		if size < 0 || size > len(b) {
			return malformed(m, "field %d has no end", tag>>3)
		}
		if k > text {
			if err := c.body(b[head:size], k, tag>>3, m, depth); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

// odd says what is wrong with a field that is not known.
func odd(tag uint64, m *shape) error {
	switch wire := tag & 7; {
	case tag>>3 == 0:
		return malformed(m, "a field has no number")
	case wire == startGroup || wire == endGroup || tag>>3 == 1000 && m == resourceSpans:
		return ErrOld
	}
	return nil
}

func (c *checker) body(b []byte, k kind, number uint64, m *shape, depth int) error {
	switch k {
	case traceID, spanID:
		if n := len(b); n != 0 && n != idSize(k) {
			return malformed(m, "the id of field %d has %d bytes", number, n)
		}
		return nil
	case attribute:
		if plain(b) { // the usual case
			return nil
		}
		m = keyValue
	case value:
		m = anyValue
	default:
		if m == anyValue {
			depth++
		}
		m = m.shapes[number]
	}
	return c.message(b, m, depth)
}

func idSize(k kind) int {
	if k == traceID {
		return 16
	}
	return 8
}

// plain says whether an attribute is a key and a short text, or a number.
func plain(b []byte) bool {
	if len(b) < 2 || len(b) > 0x7f || b[0] != 1<<3|wireBytes {
		return false
	}
	key := int(b[1])
	if b = b[2:]; key+4 > len(b) {
		return false
	}
	b = b[key:]
	if b[0] != 2<<3|wireBytes || int(b[1]) != len(b)-2 {
		return false
	}
	switch b[2] {
	case 1<<3 | wireBytes:
		return int(b[3]) == len(b)-4
	case 3<<3 | wireVarint:
		_, n := uvarint(b[3:])
		return n == len(b)-3
	}
	return false
}

// take gives the body of a field, and its size with its length, or -1 if it has no end.
func take(b []byte, wire uint64) (body []byte, size int) {
	switch wire {
	case wireVarint:
		if _, size = uvarint(b); size == 0 {
			return nil, -1
		}
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	case wireBytes:
		length, n := uvarint(b)
		if n == 0 || length > uint64(len(b)-n) {
			return nil, -1
		}
		return b[n : n+int(length)], n + int(length)
	default:
		return nil, -1
	}
	if size > len(b) {
		return nil, -1
	}
	return b[:size], size
}

// uvarint reads a number as protobuf has it: of ten bytes at most, of which the last may say too much. The size is 0 if
// there is none.
func uvarint(b []byte) (v uint64, size int) {
	if len(b) > 0 && b[0] < 0x80 { // the usual case
		return uint64(b[0]), 1
	}
	for i, c := range b {
		if i == 10 {
			return 0, 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

func malformed(m *shape, format string, args ...any) error {
	return fmt.Errorf("the request is malformed: in %s: %s", m.name, fmt.Sprintf(format, args...))
}

func fixed(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
