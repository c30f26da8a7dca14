// Package otlp reads export requests of spans (OTLP's ExportTraceServiceRequest as protobuf) where they lie: what is asked for
// is found in the bytes, and nothing is made. It is for whoever throws most of it away. Requests are read only after [Check]
// has found them well formed, or if pdata wrote them; what is read of others may panic.
//
// Texts are parts of the request, and valid for as long as its memory is not used for something else: what is kept longer has
// to be cloned.
package otlp

import (
	"slices"
	"unsafe"
)

// Fields of messages.
const (
	RequestResourceSpans = 1

	ResourceSpansResource   = 1
	ResourceSpansScopeSpans = 2

	ScopeSpansSpans = 2

	SpanTraceID    = 1
	SpanState      = 3
	SpanName       = 5
	SpanAttributes = 9
	SpanEvents     = 11
	SpanStatus     = 15

	ResourceAttributes = 1
	EventName          = 2
	EventAttributes    = 3

	keyField   = 1
	valueField = 2
)

// Fields goes through the fields of a message.
type Fields struct {
	Number int
	Whole  []byte // the field with its tag
	Body   []byte // what is in it: of numbers as they are written
	rest   []byte
}

// FieldsOf begins before the first.
func FieldsOf(message []byte) Fields { return Fields{rest: message} }

// Next goes to the next field, and says whether there is one.
func (f *Fields) Next() bool {
	b := f.rest
	if len(b) == 0 {
		return false
	}
	if len(b) > 1 && b[0] < 0x80 && b[0]&7 == wireBytes && b[1] < 0x80 { // the usual case
		end := 2 + int(b[1])
		f.Number, f.Whole, f.Body, f.rest = int(b[0]>>3), b[:end], b[2:end], b[end:]
		return true
	}
	tag, n := uvarint(b)
	body, size := take(b[n:], tag&7)
	f.Number, f.Whole, f.Body, f.rest = int(tag>>3), b[:n+size], body, b[n+size:]
	return true
}

// Text gives bytes as a text without copying them.
func Text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Resource is what the spans of a ResourceSpans are of.
type Resource struct{ message []byte }

// ResourceOf finds the resource of a ResourceSpans. More than one are one.
func ResourceOf(resourceSpans []byte) (r Resource) {
	found := false
	for f := FieldsOf(resourceSpans); f.Next(); {
		switch {
		case f.Number != ResourceSpansResource:
		case !found:
			found, r.message = true, f.Body
		default:
			r.message = append(slices.Clip(r.message), f.Body...)
		}
	}
	return r
}

// Attributes goes through those of the resource.
func (r Resource) Attributes() Attributes { return AttributesOf(r.message, ResourceAttributes) }

// Attributes goes through attributes.
type Attributes struct {
	Key   string
	Value Value

	rest []byte
	tag  byte
}

// AttributesOf begins before the first of a message, in which they are the fields of that number.
func AttributesOf(message []byte, number int) Attributes {
	return Attributes{rest: message, tag: byte(number<<3 | wireBytes)}
}

// Next goes to the next attribute, and says whether there is one.
func (a *Attributes) Next() bool {
	for b := a.rest; len(b) > 1; {
		if b[0] == a.tag && b[1] < 0x80 { // the usual case
			end := 2 + int(b[1])
			a.rest = b[end:]
			a.Key, a.Value = KeyValue(b[2:end])
			return true
		}
		f := FieldsOf(b)
		f.Next()
		b = f.rest
		if f.Number == int(a.tag>>3) {
			a.rest = b
			a.Key, a.Value = KeyValue(f.Body)
			return true
		}
	}
	a.rest = nil
	return false
}

// Get gives the value of the first that has the key.
func (a Attributes) Get(key string) (v Value, ok bool) {
	for a.Next() {
		if a.Key == key {
			return a.Value, true
		}
	}
	return nil, false
}

// KeyValue takes an attribute apart.
func KeyValue(attribute []byte) (key string, v Value) {
	if b := attribute; len(b) > 3 && b[1] < 0x80 { // the usual case: both, and nothing else
		n := 2 + int(b[1])
		if n+1 < len(b) && b[n+1] < 0x80 && n+2+int(b[n+1]) == len(b) {
			switch {
			case b[0] == keyField<<3|wireBytes && b[n] == valueField<<3|wireBytes:
				return Text(b[2:n]), Value(b[n+2:])
			case b[0] == valueField<<3|wireBytes && b[n] == keyField<<3|wireBytes:
				return Text(b[n+2:]), Value(b[2:n])
			}
		}
	}
	for f := FieldsOf(attribute); f.Next(); {
		switch f.Number {
		case keyField:
			key = Text(f.Body)
		case valueField:
			if v == nil {
				v = f.Body
			} else {
				v = append(slices.Clip(v), f.Body...)
			}
		}
	}
	return key, v
}
