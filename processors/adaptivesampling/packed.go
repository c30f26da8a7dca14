package adaptivesampling

import (
	"encoding/binary"
	"math"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Spans are held packed: without their trace's id, which their trace has, and without names and attributes that repeat,
// which a dictionary has. What may be there is either 0 and then itself, or where it is there:
//
//	span       what it has (bits of has…), id, and of these what it has
//	text       length, bytes
//	attribute  key (a text), value
//	value      its type, and what that has
//
// Numbers are varints. A packed span is read only by who wrote it.
const (
	hasParent = 1 << iota
	hasKind
	hasState
	hasFlags
	hasStatus
	hasEvents
	hasLinks
	hasDropped
)

// packer packs spans. It is used again.
type packer struct {
	dictionary dictionary
	out        []byte
}

// begin is called before each batch. What was packed before is gone, but for what the dictionary has.
func (p *packer) begin() {
	p.dictionary.renew()
	p.out = p.out[:0]
}

func (p *packer) uint(n uint64) { p.out = binary.AppendUvarint(p.out, n) }

func (p *packer) int(n int64) { p.out = binary.AppendVarint(p.out, n) }

func (p *packer) string(s string) {
	p.uint(uint64(len(s)))
	p.out = append(p.out, s...)
}

// shared has what was packed from a 0 on be in the dictionary, if it can be: at is where, or 0.
func (p *packer) shared(from int) (at int) {
	if at = p.dictionary.find(p.out[from+1:]); at != 0 {
		p.out = binary.AppendUvarint(p.out[:from], uint64(at))
	}
	return at
}

func (p *packer) text(s string) (at int) {
	from := len(p.out)
	p.out = append(p.out, 0)
	p.string(s)
	return p.shared(from)
}

func (p *packer) attributes(m pcommon.Map) {
	p.uint(uint64(m.Len()))
	for key, v := range m.All() {
		p.attribute(key, v)
	}
}

// attribute looks for one as a whole first, with its key spelled out. Of one that is not there at least the key may be.
func (p *packer) attribute(name string, v pcommon.Value) {
	single := v.Type() != pcommon.ValueTypeMap && v.Type() != pcommon.ValueTypeSlice
	lately := p.dictionary.attributeOf(name, v)
	if single && p.dictionary.has(*lately, name, v) { // the usual case
		p.uint(uint64(*lately))
		return
	}
	k := p.key(name)
	if single && k.pays() {
		at := p.whole(name, v)
		if k.looked(at != 0); at != 0 {
			*lately = uint16(at)
			return
		}
	}
	p.out = append(p.out, 0)
	p.known(name, k)
	p.value(v)
}

// known packs a text that was looked for.
func (p *packer) known(s string, k *key) {
	p.uint(uint64(k.at))
	if k.at == 0 {
		p.string(s)
	}
}

// key finds the key of an attribute, or the name of a span, in the dictionary.
func (p *packer) key(name string) *key {
	k := p.dictionary.keyOf(name)
	if !p.dictionary.hasKey(k.at, name) {
		from := len(p.out)
		*k = key{at: uint16(p.text(name))}
		p.out = p.out[:from]
	}
	return k
}

// whole packs an attribute which is in the dictionary as a whole, and gives where, or packs nothing and gives 0.
func (p *packer) whole(name string, v pcommon.Value) (at int) {
	from := len(p.out)
	p.out = append(p.out, 0, 0)
	p.string(name)
	p.value(v)
	if at = p.shared(from); at == 0 {
		p.out = p.out[:from]
	}
	return at
}

func (p *packer) value(v pcommon.Value) {
	p.out = append(p.out, byte(v.Type()))
	switch v.Type() {
	case pcommon.ValueTypeStr:
		p.string(v.Str())
	case pcommon.ValueTypeInt:
		p.int(v.Int())
	case pcommon.ValueTypeBool:
		p.out = append(p.out, bit(v.Bool(), 1))
	case pcommon.ValueTypeDouble:
		p.out = binary.LittleEndian.AppendUint64(p.out, math.Float64bits(v.Double()))
	case pcommon.ValueTypeBytes:
		p.string(string(v.Bytes().AsRaw()))
	case pcommon.ValueTypeMap:
		p.attributes(v.Map())
	case pcommon.ValueTypeSlice:
		p.uint(uint64(v.Slice().Len()))
		for _, e := range v.Slice().All() {
			p.value(e)
		}
	}
}

func bit(is bool, b byte) byte {
	if is {
		return b
	}
	return 0
}

// span packs a span but for its trace's id.
func (p *packer) span(s ptrace.Span) {
	id, parent, state, status := s.SpanID(), s.ParentSpanID(), s.TraceState().AsRaw(), s.Status()
	dropped := s.DroppedAttributesCount()|s.DroppedEventsCount()|s.DroppedLinksCount() != 0
	has := bit(!parent.IsEmpty(), hasParent) | bit(s.Kind() != 0, hasKind) | bit(state != "", hasState) | bit(s.Flags() != 0, hasFlags) |
		bit(status.Code() != 0 || status.Message() != "", hasStatus) |
		bit(s.Events().Len() > 0, hasEvents) | bit(s.Links().Len() > 0, hasLinks) | bit(dropped, hasDropped)
	p.out = append(append(p.out, has), id[:]...)
	if has&hasParent != 0 {
		p.out = append(p.out, parent[:]...)
	}
	p.known(s.Name(), p.key(s.Name()))
	start := s.StartTimestamp()
	p.out = binary.LittleEndian.AppendUint64(p.out, uint64(start))
	p.int(int64(s.EndTimestamp() - start))
	p.attributes(s.Attributes())
	if has&hasKind != 0 {
		p.int(int64(s.Kind()))
	}
	if has&hasState != 0 {
		p.text(state)
	}
	if has&hasFlags != 0 {
		p.uint(uint64(s.Flags()))
	}
	if has&hasStatus != 0 {
		p.int(int64(status.Code()))
		p.text(status.Message())
	}
	if has&hasEvents != 0 {
		p.events(s.Events(), start)
	}
	if has&hasLinks != 0 {
		p.links(s.Links())
	}
	if has&hasDropped != 0 {
		p.uint(uint64(s.DroppedAttributesCount()))
		p.uint(uint64(s.DroppedEventsCount()))
		p.uint(uint64(s.DroppedLinksCount()))
	}
}

func (p *packer) events(all ptrace.SpanEventSlice, start pcommon.Timestamp) {
	p.uint(uint64(all.Len()))
	for _, e := range all.All() {
		p.int(int64(e.Timestamp() - start))
		p.text(e.Name())
		p.attributes(e.Attributes())
		p.uint(uint64(e.DroppedAttributesCount()))
	}
}

func (p *packer) links(all ptrace.SpanLinkSlice) {
	p.uint(uint64(all.Len()))
	for _, l := range all.All() {
		trace, span := l.TraceID(), l.SpanID()
		p.out = append(append(p.out, trace[:]...), span[:]...)
		p.text(l.TraceState().AsRaw())
		p.uint(uint64(l.Flags()))
		p.attributes(l.Attributes())
		p.uint(uint64(l.DroppedAttributesCount()))
	}
}

// unpacker reads what a [packer] wrote. What it gives are parts of what it reads.
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

func (u *unpacker) int() int64 {
	n := u.uint()
	return int64(n>>1) ^ -int64(n&1)
}

func (u *unpacker) byte() byte {
	u.at++
	return u.data[u.at-1]
}

func (u *unpacker) take(n int) string {
	u.at += n
	return u.data[u.at-n : u.at]
}

func (u *unpacker) string() string { return u.take(int(u.uint())) }

func (u *unpacker) fixed() uint64 {
	b := u.take(8)
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// there reads an entry of the dictionary.
func (u *unpacker) there(at uint64) unpacker { return unpacker{u.dictionary, u.dictionary, int(at)} }

func (u *unpacker) text() string {
	if at := u.uint(); at != 0 {
		entry := u.there(at)
		return entry.string()
	}
	return u.string()
}

func (u *unpacker) attributes(m pcommon.Map) {
	n := int(u.uint())
	m.EnsureCapacity(n)
	for range n {
		if at := u.uint(); at != 0 {
			entry := u.there(at)
			entry.attribute(m)
		} else {
			u.attribute(m)
		}
	}
}

func (u *unpacker) attribute(m pcommon.Map) { u.value(m.PutEmpty(u.text())) }

func (u *unpacker) value(v pcommon.Value) {
	switch pcommon.ValueType(u.byte()) {
	case pcommon.ValueTypeStr:
		v.SetStr(u.string())
	case pcommon.ValueTypeInt:
		v.SetInt(u.int())
	case pcommon.ValueTypeBool:
		v.SetBool(u.byte() != 0)
	case pcommon.ValueTypeDouble:
		v.SetDouble(math.Float64frombits(u.fixed()))
	case pcommon.ValueTypeBytes:
		v.SetEmptyBytes().FromRaw([]byte(u.string()))
	case pcommon.ValueTypeMap:
		u.attributes(v.SetEmptyMap())
	case pcommon.ValueTypeSlice:
		all := v.SetEmptySlice()
		for range u.uint() {
			u.value(all.AppendEmpty())
		}
	}
}

// is says whether a value is that one. It doesn't know those which have others in them, or bytes.
func (u *unpacker) is(v pcommon.Value) bool {
	t := v.Type()
	if pcommon.ValueType(u.byte()) != t {
		return false
	}
	switch t {
	case pcommon.ValueTypeStr:
		return u.string() == v.Str()
	case pcommon.ValueTypeInt:
		return u.int() == v.Int()
	case pcommon.ValueTypeBool:
		return u.byte() != 0 == v.Bool()
	case pcommon.ValueTypeDouble:
		return u.fixed() == math.Float64bits(v.Double())
	}
	return t == pcommon.ValueTypeEmpty
}

// span reads a span but for its trace's id.
func (u *unpacker) span(s ptrace.Span) {
	has := u.byte()
	s.SetSpanID(u.id())
	if has&hasParent != 0 {
		s.SetParentSpanID(u.id())
	}
	s.SetName(u.text())
	start := pcommon.Timestamp(u.fixed())
	s.SetStartTimestamp(start)
	s.SetEndTimestamp(start + pcommon.Timestamp(u.int()))
	u.attributes(s.Attributes())
	if has&hasKind != 0 {
		s.SetKind(ptrace.SpanKind(u.int()))
	}
	if has&hasState != 0 {
		s.TraceState().FromRaw(u.text())
	}
	if has&hasFlags != 0 {
		s.SetFlags(uint32(u.uint()))
	}
	if has&hasStatus != 0 {
		s.Status().SetCode(ptrace.StatusCode(u.int()))
		s.Status().SetMessage(u.text())
	}
	if has&hasEvents != 0 {
		u.events(s.Events(), start)
	}
	if has&hasLinks != 0 {
		u.links(s.Links())
	}
	if has&hasDropped != 0 {
		s.SetDroppedAttributesCount(uint32(u.uint()))
		s.SetDroppedEventsCount(uint32(u.uint()))
		s.SetDroppedLinksCount(uint32(u.uint()))
	}
}

func (u *unpacker) id() (id pcommon.SpanID) {
	copy(id[:], u.take(len(id)))
	return id
}

func (u *unpacker) events(all ptrace.SpanEventSlice, start pcommon.Timestamp) {
	for range u.uint() {
		e := all.AppendEmpty()
		e.SetTimestamp(start + pcommon.Timestamp(u.int()))
		e.SetName(u.text())
		u.attributes(e.Attributes())
		e.SetDroppedAttributesCount(uint32(u.uint()))
	}
}

func (u *unpacker) links(all ptrace.SpanLinkSlice) {
	for range u.uint() {
		l := all.AppendEmpty()
		var trace pcommon.TraceID
		copy(trace[:], u.take(len(trace)))
		l.SetTraceID(trace)
		l.SetSpanID(u.id())
		l.TraceState().FromRaw(u.text())
		l.SetFlags(uint32(u.uint()))
		u.attributes(l.Attributes())
		l.SetDroppedAttributesCount(uint32(u.uint()))
	}
}
