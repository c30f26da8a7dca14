package adaptivesampling

import (
	"encoding/binary"

	"github.com/machinenativeops/weir/internal/otlp"
)

// Spans are held packed: as the protobuf that they came as, without their trace's id, which their trace has, and without names
// and attributes that repeat, which a dictionary has. A packed span is pieces, each a varint n and, if n is even, n/2 bytes that
// follow; if n is odd, what the dictionary has at n/2. 0 is the end. A packed span is read only by who wrote it.

// packer packs spans. It is used again.
type packer struct {
	dictionary dictionary
	out        []byte

	message []byte // the span that is being packed
	done    int    // bytes of it
}

// begin is called before each batch. What was packed before is gone, but for what the dictionary has.
func (p *packer) begin() {
	p.dictionary.renew()
	p.out = p.out[:0]
}

func (p *packer) uint(n int) { p.out = binary.AppendUvarint(p.out, uint64(n)) }

// span packs a span but for its trace's id.
func (p *packer) span(message []byte) {
	p.message, p.done = message, 0
	at := 0
	for f := otlp.FieldsOf(message); f.Next(); {
		from := at
		at += len(f.Whole)
		switch f.Number {
		case otlp.SpanTraceID:
			p.upTo(from)
			p.done = at
		case otlp.SpanName:
			p.entry(p.key(f.Whole).at, from, at)
		case otlp.SpanState, otlp.SpanStatus:
			p.entry(p.dictionary.find(f.Whole), from, at)
		case otlp.SpanAttributes:
			p.attribute(&f, at)
		case otlp.SpanEvents:
			p.nested(f.Body, at-len(f.Body), otlp.EventName, otlp.EventAttributes)
		case otlp.SpanLinks:
			p.nested(f.Body, at-len(f.Body), otlp.LinkState, otlp.LinkAttributes)
		}
	}
	p.upTo(at)
	p.message = nil
	p.uint(0)
}

// nested looks in a message of the span's for a text and for attributes.
func (p *packer) nested(message []byte, at, text, attributes int) {
	for f := otlp.FieldsOf(message); f.Next(); {
		from := at
		at += len(f.Whole)
		switch f.Number {
		case text:
			p.entry(p.dictionary.find(f.Whole), from, at)
		case attributes:
			p.attribute(&f, at)
		}
	}
}

// upTo packs the message up to there as it is.
func (p *packer) upTo(to int) {
	if n := to - p.done; n > 0 {
		p.uint(2 * n)
		p.out = append(p.out, p.message[p.done:to]...)
		p.done = to
	}
}

// entry packs a part of the message as what the dictionary has there, if it does.
func (p *packer) entry(there uint16, from, to int) {
	if there != 0 {
		p.upTo(from)
		p.uint(2*int(there) + 1)
		p.done = to
	}
}

// attribute packs one that ends there: as a whole if it is in the dictionary, or else at least without its key.
func (p *packer) attribute(f *otlp.Fields, to int) {
	from := to - len(f.Whole)
	lately := p.dictionary.attributeOf(f.Whole)
	if p.dictionary.has(*lately, f.Whole) { // the usual case
		p.entry(*lately, from, to)
		return
	}
	name, at := otlp.KeyOf(f.Body)
	k := p.key(name)
	if k.pays() {
		there := p.dictionary.find(f.Whole)
		if k.looked(there != 0); there != 0 {
			*lately = there
			p.entry(there, from, to)
			return
		}
	}
	from = to - len(f.Body) + at
	p.entry(k.at, from, from+len(name))
}

// key finds the key of an attribute, or the name of a span, in the dictionary.
func (p *packer) key(field []byte) *key {
	k := p.dictionary.keyOf(field)
	if !p.dictionary.has(k.at, field) {
		*k = key{at: p.dictionary.find(field)}
	}
	return k
}

// unpacker reads what a [packer] wrote.
type unpacker struct {
	data, dictionary string
	at               int // of what is next in the data
}

func (u *unpacker) uint() uint64 {
	if b := u.data[u.at]; b < 0x80 { // the usual case
		u.at++
		return uint64(b)
	}
	return u.long()
}

func (u *unpacker) long() (n uint64) {
	for shift := 0; ; shift += 7 {
		b := u.data[u.at]
		u.at++
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			return n
		}
	}
}

func (u *unpacker) take(n int) string {
	u.at += n
	return u.data[u.at-n : u.at]
}

func (u *unpacker) string() string { return u.take(int(u.uint())) }

// span appends a span's message but for its trace's id.
func (u *unpacker) span(out []byte) []byte {
	for {
		switch n := u.uint(); {
		case n == 0:
			return out
		case n%2 == 0:
			out = append(out, u.take(int(n/2))...)
		default:
			out = append(out, entryAt(u.dictionary, uint16(n/2))...)
		}
	}
}
