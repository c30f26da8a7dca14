package adaptivesampling

import (
	"encoding/binary"
	"slices"

	"github.com/machinenativeops/weir/internal/otlp"
)

// Spans are held packed: without their trace's id, which their trace has, and without names and attributes that repeat, which a
// dictionary has. A packed span is pieces of its message in their order, and then an end, which has what nearly every span has,
// wherever it was. What is unpacked means what was packed, and is read only by who wrote it. The first byte of a piece says
// which it is.
const (
	longestPiece = 0x3f // up to this: so many bytes of the message follow
	endPiece     = 0x40 // the end: with the kind, and which of the ids and times follow
	entryPiece   = 0x80 // from this on, with the next byte: half of where the dictionary has what is here

	endKind     = 0x07
	endTimes    = 0x08 // the start, and by how much the end is later, as a varint
	endParentID = 0x10
	endSpanID   = 0x20

	longestEnd = 1 + 3*8 + binary.MaxVarintLen64
)

// How the fields of a span begin.
const (
	tagTraceID    = otlp.SpanTraceID<<3 | 2
	tagSpanID     = otlp.SpanSpanID<<3 | 2
	tagState      = otlp.SpanState<<3 | 2
	tagParentID   = otlp.SpanParentID<<3 | 2
	tagName       = otlp.SpanName<<3 | 2
	tagKind       = otlp.SpanKind << 3
	tagStart      = otlp.SpanStart<<3 | 1
	tagEnd        = otlp.SpanEnd<<3 | 1
	tagAttributes = otlp.SpanAttributes<<3 | 2
	tagStatus     = otlp.SpanStatus<<3 | 2
	tagFlags      = 0x80 | 5 // and 1, since the number is 16
)

// packer packs spans. It is used again.
type packer struct {
	dictionary dictionary
	out        []byte

	message []byte // the span that is being packed
	done    int    // bytes of it
}

// ending is what the end of a span has.
type ending struct {
	spanID, parentID, start, end uint64
	kind                         byte
}

// begin is called before each batch. What was packed before is gone, but for what the dictionary has.
func (p *packer) begin() {
	p.dictionary.renew()
	p.out = p.out[:0]
}

func (p *packer) uint(n int) { p.out = binary.AppendUvarint(p.out, uint64(n)) }

// span packs a span but for its trace's id.
func (p *packer) span(message []byte) {
	begin := len(p.out)
	p.message, p.done = message, 0
	var e ending
	out, done := slices.Grow(p.out, 2*len(message)+longestEnd), 0
	for at := 0; at < len(message); {
		b := message[at:]
		left, entry := 0, 0                // sizes of what is not a piece, and of what the dictionary may have
		switch second := int(b[1]); b[0] { // fields as they usually are
		case tagTraceID:
			if second == 16 {
				left = 18
			}
		case tagSpanID:
			e.spanID, left = idIn(b)
		case tagParentID:
			e.parentID, left = idIn(b)
		case tagKind:
			if second <= endKind {
				e.kind, left = byte(second), 2
			}
		case tagStart:
			e.start, left = binary.LittleEndian.Uint64(b[1:]), 9
		case tagEnd:
			e.end, left = binary.LittleEndian.Uint64(b[1:]), 9
		case tagAttributes, tagName, tagState, tagStatus:
			if second < 0x80 {
				entry = 2 + second
			}
			if second == 0 && b[0] == tagStatus {
				left = 2
			}
		case tagFlags:
			if second == 1 {
				entry = 6
			}
		}
		var there uint16
		if left == 0 {
			if entry > 0 {
				there = p.dictionary.recent(b[:entry])
			}
			if there == 0 {
				p.out, p.done = out, done
				size := p.field(at)
				if size == 0 {
					p.out = p.out[:begin]
					p.odd()
					return
				}
				out, done = p.out, p.done
				at += size
				continue
			}
			left = entry
		}
		if at > done {
			out = appendPiece(out, message[done:at])
		}
		if there != 0 {
			out = appendEntry(out, there)
		}
		at += left
		done = at
	}
	if done < len(message) {
		out = appendPiece(out, message[done:])
	}
	p.out, p.message = e.append(out), nil
}

// idIn reads an id of a span, which is 0 if it is empty. The size is that of its field, or 0 if it is written in another way.
func idIn(b []byte) (id uint64, size int) {
	switch b[1] {
	case 8:
		return binary.LittleEndian.Uint64(b[2:]), 10
	case 0:
		return 0, 2
	}
	return 0, 0
}

func appendPiece(out, b []byte) []byte {
	for len(b) > longestPiece {
		out = append(append(out, longestPiece), b[:longestPiece]...)
		b = b[longestPiece:]
	}
	return append(append(out, byte(len(b))), b...)
}

func appendEntry(out []byte, at uint16) []byte {
	return append(out, entryPiece|byte(at>>9), byte(at>>1))
}

func (e *ending) append(out []byte) []byte {
	at := len(out)
	out = append(out, 0)
	has := endPiece | e.kind
	if e.spanID != 0 {
		has |= endSpanID
		out = binary.LittleEndian.AppendUint64(out, e.spanID)
	}
	if e.parentID != 0 {
		has |= endParentID
		out = binary.LittleEndian.AppendUint64(out, e.parentID)
	}
	if e.start|e.end != 0 {
		has |= endTimes
		out = binary.LittleEndian.AppendUint64(out, e.start)
		out = binary.AppendUvarint(out, e.end-e.start)
	}
	out[at] = has
	return out
}

// field packs the field that is there, whatever it looks like, and says how long it is: 0 if the end can't have it.
func (p *packer) field(at int) (size int) {
	f := otlp.FieldsOf(p.message[at:])
	f.Next()
	to := at + len(f.Whole)
	switch f.Number {
	case otlp.SpanTraceID:
		p.upTo(at)
		p.done = to
	case otlp.SpanSpanID, otlp.SpanParentID, otlp.SpanKind, otlp.SpanStart, otlp.SpanEnd:
		return 0
	case otlp.SpanName, otlp.SpanState, otlp.SpanStatus, otlp.SpanFlags:
		p.entry(p.dictionary.find(f.Whole), at, to)
	case otlp.SpanAttributes:
		p.attribute(&f, to)
	case otlp.SpanEvents:
		p.nested(f.Body, to-len(f.Body), otlp.EventName, otlp.EventAttributes)
	case otlp.SpanLinks:
		p.nested(f.Body, to-len(f.Body), otlp.LinkState, otlp.LinkAttributes)
	}
	return len(f.Whole)
}

// nested looks in a message of the span's for a text and for attributes.
func (p *packer) nested(message []byte, at, text, attributes int) {
	for f := otlp.FieldsOf(message); f.Next(); {
		from := at
		at += len(f.Whole)
		if f.Number != text && f.Number != attributes {
			continue
		}
		switch there := p.dictionary.recent(f.Whole); {
		case there != 0:
			p.entry(there, from, at)
		case f.Number == text:
			p.entry(p.dictionary.find(f.Whole), from, at)
		default:
			p.attribute(&f, at)
		}
	}
}

// odd packs a span of which the end has nothing, since something is not as it usually is.
func (p *packer) odd() {
	p.done = 0
	at := 0
	for f := otlp.FieldsOf(p.message); f.Next(); at += len(f.Whole) {
		if f.Number == otlp.SpanTraceID {
			p.upTo(at)
			p.done = at + len(f.Whole)
		}
	}
	p.upTo(at)
	p.out, p.message = append(p.out, endPiece), nil
}

// upTo packs the message up to there as it is.
func (p *packer) upTo(to int) {
	if to > p.done {
		p.out = appendPiece(p.out, p.message[p.done:to])
		p.done = to
	}
}

// entry packs a part of the message as what the dictionary has there, if it does.
func (p *packer) entry(there uint16, from, to int) {
	if there != 0 {
		p.upTo(from)
		p.out = appendEntry(p.out, there)
		p.done = to
	}
}

// attribute packs one that ends there and did not come recently: as a whole if it is in the dictionary nevertheless, or else at
// least without its key.
func (p *packer) attribute(f *otlp.Fields, to int) {
	name, at := otlp.KeyOf(f.Body)
	k := p.key(name)
	if k.pays() {
		there := p.dictionary.find(f.Whole)
		if k.looked(there != 0); there != 0 {
			p.entry(there, to-len(f.Whole), to)
			return
		}
	}
	from := to - len(f.Body) + at
	p.entry(k.at, from, from+len(name))
}

// key finds the key of an attribute in the dictionary.
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

func (u *unpacker) fixed() uint64 {
	b := u.take(8)
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// span appends a span's message but for its trace's id.
func (u *unpacker) span(out []byte) []byte {
	for {
		b := u.data[u.at]
		u.at++
		switch {
		case b >= entryPiece:
			at := uint16(b)<<9 | uint16(u.data[u.at])<<1
			u.at++
			out = append(out, entryAt(u.dictionary, at)...)
		case b <= longestPiece:
			out = append(out, u.take(int(b))...)
		default:
			return u.ending(out, b)
		}
	}
}

// ending appends what the end of a span has.
func (u *unpacker) ending(out []byte, has byte) []byte {
	if has&endSpanID != 0 {
		out = binary.LittleEndian.AppendUint64(append(out, tagSpanID, 8), u.fixed())
	}
	if has&endParentID != 0 {
		out = binary.LittleEndian.AppendUint64(append(out, tagParentID, 8), u.fixed())
	}
	if kind := has & endKind; kind != 0 {
		out = append(out, tagKind, kind)
	}
	if has&endTimes != 0 {
		start := u.fixed()
		out = binary.LittleEndian.AppendUint64(append(out, tagStart), start)
		out = binary.LittleEndian.AppendUint64(append(out, tagEnd), start+u.uint())
	}
	return out
}
