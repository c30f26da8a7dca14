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
// nothing else. It refuses two things that pdata takes: values that are more than 100 deep in each other, since those could fill
// the stack, and fields with numbers that protobuf does not have, of which pdata looks at 32 bits.
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
	flags // a fixed32 whose tag has two bytes
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
		case fixed32, flags:
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
		11: message, 12: varint, 13: message, 14: varint, 15: message, 16: flags,
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
	for at := 0; at < len(b); {
		size := 0
		if at+1 < len(b) { // fields as they usually are
			switch second := int(b[at+1]); m.kinds[b[at]] {
			case varint:
				if second < 0x80 {
					size = 2
				}
			case fixed32:
				size = 5
			case fixed64:
				size = 9
			case flags:
				if second == 1 {
					size = 6
				}
			case text:
				if second < 0x80 {
					size = 2 + second
				}
			case traceID:
				if second == 16 || second == 0 {
					size = 2 + second
				}
			case spanID:
				if second == 8 || second == 0 {
					size = 2 + second
				}
			case attribute:
				size = plain(b[at:])
			case message:
				if second == 0 && m == span {
					size = 2
				}
			}
		}
		if size == 0 || size > len(b)-at {
			var err error
			if size, err = c.field(b[at:], m, depth); err != nil {
				return err
			}
		}
		at += size
	}
	return nil
}

// field checks the first field, whatever it is, and says how long it is.
func (c *checker) field(b []byte, m *shape, depth int) (size int, err error) {
	tag, n := uvarint(b)
	number, wire := tag>>3, tag&7
	switch {
	case n == 0 || number == 0:
		return 0, malformed(m, "a field has no number")
	case tag >= 1<<32:
		return 0, malformed(m, "the number of a field is over 536870911")
	}
	k := unknown
	if tag < uint64(len(m.kinds)) {
		k = m.kinds[tag]
	}
	switch {
	case k == wrong:
		return 0, malformed(m, "field %d is of wire type %d", number, wire)
	case k == unknown && (wire == startGroup || wire == endGroup || number == 1000 && m == resourceSpans):
		return 0, ErrOld
	}
	body, size := take(b[n:], wire)
	if size < 0 {
		return 0, malformed(m, "field %d has no end", number)
	}
	switch k {
	case traceID, spanID:
		if len(body) != 0 && len(body) != idSize(k) {
			err = malformed(m, "the id of field %d has %d bytes", number, len(body))
		}
	case attribute:
		err = c.message(body, keyValue, depth)
	case value:
		err = c.message(body, anyValue, depth)
	case message:
		if m == anyValue {
			depth++
		}
		err = c.message(body, m.shapes[number], depth)
	}
	return n + size, err
}

func idSize(k kind) int {
	if k == traceID {
		return 16
	}
	return 8
}

// plain says how many bytes are fields with the tag of the first that are attributes of less than 128 bytes: a key and a value
// that has no others in it, in whatever order, since SDKs write the key first, and collectors the value.
func plain(b []byte) (size int) {
	for tag := b[0]; len(b) >= 6 && b[0] == tag && b[1] < 0x80; {
		end, second := 2+int(b[1]), 4+int(b[3])
		if end > len(b) || second+2 > end || second+2+int(b[second+1]) != end {
			break
		}
		v := b[4:second]
		if b[2] == keyField<<3|wireBytes && b[second] == valueField<<3|wireBytes {
			v = b[second+2 : end]
		} else if b[2] != valueField<<3|wireBytes || b[second] != keyField<<3|wireBytes {
			break
		}
		if !scalar(v) {
			break
		}
		b = b[end:]
		size += end
	}
	return size
}

// scalar says whether a value of less than 128 bytes is a text, a number or a bool.
func scalar(v []byte) bool {
	if len(v) < 2 {
		return false
	}
	switch v[0] {
	case valueText<<3 | wireBytes:
		return int(v[1]) == len(v)-2
	case valueBool<<3 | wireVarint, valueInt<<3 | wireVarint:
		_, n := uvarint(v[1:])
		return n == len(v)-1
	case valueDouble<<3 | wireFixed64:
		return len(v) == 9
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
