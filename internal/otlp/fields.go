// Package otlp reads export requests of spans (OTLP's ExportTraceServiceRequest as protobuf) where they lie: what is asked for
// is found in the bytes, and nothing is made. It is for whoever throws most of it away. Requests are read only after [Check]
// has found them well formed, or if pdata wrote them, however deep they are; what is read of others may panic.
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
	SpanSpanID     = 2
	SpanState      = 3
	SpanParentID   = 4
	SpanName       = 5
	SpanKind       = 6
	SpanStart      = 7
	SpanEnd        = 8
	SpanAttributes = 9
	SpanEvents     = 11
	SpanLinks      = 13
	SpanStatus     = 15
	SpanFlags      = 16

	ResourceAttributes = 1
	EventName          = 2
	EventAttributes    = 3
	LinkState          = 3
	LinkAttributes     = 4

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
	if tag := b[0]; tag < 0x80 && tag&7 == wireBytes { // the usual case
		length, n := uvarint(b[1:])
		begin, end := 1+n, 1+n+int(length)
		f.Number, f.Whole, f.Body, f.rest = int(tag>>3), b[:end], b[begin:end], b[end:]
		return true
	}
	tag, n := uvarint(b)
	body, size := take(b[n:], tag&7)
	f.Number, f.Whole, f.Body, f.rest = int(tag>>3), b[:n+size], body, b[n+size:]
	return true
}

// To goes to the next field of that number, and says whether there is one.
func (f *Fields) To(number int) bool {
	for f.Next() {
		if f.Number == number {
			return true
		}
	}
	return false
}

// Text gives bytes as a text without copying them.
func Text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Resource is what the spans of a ResourceSpans are of.
type Resource struct{ message []byte }

// ResourceOf finds the resource of a ResourceSpans.
func ResourceOf(resourceSpans []byte) (r Resource) {
	const tag = ResourceSpansResource<<3 | wireBytes
	first, rest := next(resourceSpans, tag)
	all := merger{message: first}
	for m, rest := next(rest, tag); m != nil; m, rest = next(rest, tag) {
		all.add(m)
	}
	return Resource{all.message}
}

// merger makes one of messages of which there may be more than one: they are one. They are copied only then, and each once.
type merger struct {
	message []byte
	copied  bool
}

func (m *merger) add(more []byte) {
	switch {
	case m.message == nil:
		m.message = more
	case !m.copied:
		m.message, m.copied = slices.Concat(m.message, more), true
	default:
		m.message = append(m.message, more...)
	}
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

// AttributesOf begins before the first of a message, in which they are the fields of that number, which is below 16.
func AttributesOf(message []byte, number int) Attributes {
	return Attributes{rest: message, tag: byte(number<<3 | wireBytes)}
}

// Next goes to the next attribute, and says whether there is one.
func (a *Attributes) Next() bool {
	attribute, rest := next(a.rest, a.tag)
	if attribute == nil {
		return false
	}
	a.rest = rest
	a.Key, a.Value = KeyValue(attribute)
	return true
}

// Get gives the value of the first that has the key.
func (a Attributes) Get(key string) (v Value, ok bool) {
	for attribute, rest := next(a.rest, a.tag); attribute != nil; attribute, rest = next(rest, a.tag) {
		if k, v := KeyValue(attribute); k == key {
			return v, true
		}
	}
	return nil, false
}

// next gives the body of the first field that has a length and that tag, and what is after it. The body is nil if there is none.
func next(b []byte, tag byte) (body, rest []byte) {
	for len(b) > 0 {
		if b[0] == tag { // the usual case
			length, n := uvarint(b[1:])
			begin, end := 1+n, 1+n+int(length)
			return b[begin:end], b[end:]
		}
		f := FieldsOf(b)
		f.Next()
		if f.Number == int(tag>>3) {
			return f.Body, f.rest
		}
		b = f.rest
	}
	return nil, nil
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
	var value merger
	for f := FieldsOf(attribute); f.Next(); {
		switch f.Number {
		case keyField:
			key = Text(f.Body)
		case valueField:
			value.add(f.Body)
		}
	}
	return key, value.message
}

// KeyOf gives the key of an attribute as the field that it is, and where it begins. Pdata writes it after the value.
func KeyOf(attribute []byte) (field []byte, at int) {
	if b := attribute; len(b) > 3 && b[1] < 0x80 { // the usual cases
		n := 2 + int(b[1])
		switch {
		case b[0] == keyField<<3|wireBytes:
			return b[:n], 0
		case b[0] == valueField<<3|wireBytes && n+1 < len(b) && b[n] == keyField<<3|wireBytes && b[n+1] < 0x80:
			return b[n : n+2+int(b[n+1])], n
		}
	}
	for f := FieldsOf(attribute); f.Next(); at += len(f.Whole) {
		if f.Number == keyField {
			return f.Whole, at
		}
	}
	return nil, at
}
