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
	if len(f.rest) == 0 {
		return false
	}
	tag, n := uvarint(f.rest)
	body, size := take(f.rest[n:], tag&7)
	f.Number, f.Body = int(tag>>3), body
	f.Whole, f.rest = f.rest[:n+size], f.rest[n+size:]
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
func (r Resource) Attributes() Attributes {
	return Attributes{fields: FieldsOf(r.message), number: ResourceAttributes}
}

// Attributes goes through attributes.
type Attributes struct {
	Key   string
	Value Value

	fields Fields
	number int
}

// Next goes to the next attribute, and says whether there is one.
func (a *Attributes) Next() bool {
	for a.fields.Next() {
		if a.fields.Number == a.number {
			a.Key, a.Value = KeyValue(a.fields.Body)
			return true
		}
	}
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
