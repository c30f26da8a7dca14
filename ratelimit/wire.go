package ratelimit

import (
	"context"
	"errors"
	"net/http"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/mesh"
)

// Server gives a server for the questions of Envoys, which costs a small part of what gRPC's own does; it hands
// everything else to the handler, a *grpc.Server as a rule.
func (s *Service) Server(other http.Handler) *h2.Server {
	return &h2.Server{Path: ratelimitsvcv3.RateLimitService_ShouldRateLimit_FullMethodName, Unary: unary{s}, Handler: other}
}

// unary is the service as its own server asks it.
type unary struct{ *Service }

// Answer implements [h2.Unary]. A store in memory need never be waited for, and a [Prompt] one for some answers only.
func (u unary) Answer(request, out []byte, later h2.Later) ([]byte, bool, error) {
	q := u.questions.Get().(*question)
	out, ok, err := u.ask(q, request, out, later)
	if ok {
		u.done(q)
	}
	return out, ok, err
}

// Flush implements [h2.Unary].
func (u unary) Flush() {
	if u.prompt != nil {
		u.prompt.Flush()
	}
}

// ask is Answer. Where it gives false, the question is not the caller's any more.
func (u unary) ask(q *question, request, out []byte, later h2.Later) ([]byte, bool, error) {
	m := &q.message
	if err := m.read(request); err != nil {
		u.metrics.errors.Add(1)
		return out, true, status.Error(codes.InvalidArgument, err.Error())
	}
	if u.prompt == nil {
		if _, ok := u.store.(*Memory); !ok {
			go u.wait(q, later)
			return out, false, nil
		}
		out, err := u.answer(context.Background(), q, &m.request, out)
		return out, true, err
	}
	q.start = u.now()
	if err := u.read(q, &m.request); err != nil {
		return out, true, err
	}
	if q.overdraws {
		go u.wait(q, later)
		return out, false, nil
	}
	allowed, err := true, error(nil)
	if len(q.hits) > 0 {
		q.service, q.later = u.Service, later
		var decided bool
		if allowed, decided, err = u.prompt.Ask(q.start, q.hits, q); !decided {
			return out, false, nil
		}
	}
	out, err = u.tell(q, allowed, err, out)
	return out, true, err
}

// wait answers a question that may have to wait more than once.
func (u unary) wait(q *question, later h2.Later) {
	out, err := u.answer(context.Background(), q, &q.message.request, nil)
	u.done(q)
	later.Answer(out, err).Flush()
}

// Decided implements [Waiter].
func (q *question) Decided(ok bool, err error) Flusher {
	s, later := q.service, q.later
	q.out, err = s.tell(q, ok, err, q.out[:0])
	f := later.Answer(q.out, err)
	q.later = nil
	s.done(q)
	return f
}

// message is a question as it came; its memory is used again for the next one.
type message struct {
	request     ratelimitsvcv3.RateLimitRequest
	descriptors []*commonratelimitv3.RateLimitDescriptor // all there are, of which the request has the first
	entries     []*commonratelimitv3.RateLimitDescriptor_Entry
	used        int  // of entries
	plain       bool // it has bytes of ASCII only, so that all its strings are text
}

var errMessage = errors.New("the question is no envoy.service.ratelimit.v3.RateLimitRequest")

// Fields of a question, as they are tagged: the number, and how the value is encoded.
const (
	tagVarint = uint64(protowire.VarintType)
	tagBytes  = uint64(protowire.BytesType)

	requestDomain      = 1<<3 | tagBytes
	requestDescriptors = 2<<3 | tagBytes
	requestHits        = 3<<3 | tagVarint
	descriptorEntries  = 1<<3 | tagBytes
	descriptorLimit    = 2<<3 | tagBytes
	descriptorHits     = 3<<3 | tagBytes
	descriptorNegative = 4<<3 | tagVarint
	entryKey           = 1<<3 | tagBytes
	entryValue         = 2<<3 | tagBytes
)

// read decodes a question. Unlike gRPC's codec it takes strings that are no text: see [GRPCOptions].
func (m *message) read(b []byte) error {
	r := &m.request
	r.Domain, r.HitsAddend, m.used = "", 0, 0
	n := 0
	f := fields{rest: string(b)} // the one copy; every string of the question is a part of it
	m.plain = plain(f.rest)
	for f.next() {
		switch f.tag {
		case requestDomain:
			r.Domain = m.text(f.value)
		case requestDescriptors:
			if n == len(m.descriptors) {
				m.descriptors = append(m.descriptors, new(commonratelimitv3.RateLimitDescriptor))
			}
			f.bad = f.bad || !m.readDescriptor(m.descriptors[n], f.value)
			n++
		case requestHits:
			r.HitsAddend = uint32(f.n)
		}
	}
	r.Descriptors = m.descriptors[:n]
	if f.bad {
		return errMessage
	}
	return nil
}

func (m *message) readDescriptor(d *commonratelimitv3.RateLimitDescriptor, b string) bool {
	d.Limit, d.HitsAddend, d.IsNegativeHits = nil, nil, false
	first := m.used
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case descriptorEntries:
			if m.used == len(m.entries) {
				m.entries = append(m.entries, new(commonratelimitv3.RateLimitDescriptor_Entry))
			}
			f.bad = f.bad || !m.readEntry(m.entries[m.used], f.value)
			m.used++
		case descriptorLimit:
			d.Limit = new(commonratelimitv3.RateLimitDescriptor_RateLimitOverride)
			f.bad = f.bad || proto.Unmarshal([]byte(f.value), d.Limit) != nil
		case descriptorHits:
			d.HitsAddend = new(wrapperspb.UInt64Value)
			f.bad = f.bad || proto.Unmarshal([]byte(f.value), d.HitsAddend) != nil
		case descriptorNegative:
			d.IsNegativeHits = f.n != 0
		}
	}
	d.Entries = m.entries[first:m.used:m.used]
	return !f.bad
}

func (m *message) readEntry(e *commonratelimitv3.RateLimitDescriptor_Entry, b string) bool {
	e.Key, e.Value = "", ""
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case entryKey:
			e.Key = m.text(f.value)
		case entryValue:
			e.Value = m.text(f.value)
		}
	}
	return !f.bad
}

func (m *message) text(s string) string {
	if m.plain {
		return s
	}
	return mesh.LimitValue(s)
}

// plain says that there is nothing but ASCII: of a question, one look costs less than one at each of its strings.
func plain(s string) bool {
	all := byte(0)
	for i := range len(s) {
		all |= s[i]
	}
	return all < 0x80
}

// fields are those of an encoded message, one after the other.
type fields struct {
	rest string
	bad  bool // it is none

	tag   uint64 // number and kind
	value string // of bytes
	n     uint64 // of a varint
}

func (f *fields) next() bool {
	if len(f.rest) == 0 || f.bad {
		return false
	}
	f.tag = f.varint()
	f.bad = f.bad || f.tag < 1<<3
	switch protowire.Type(f.tag & 7) {
	case protowire.VarintType:
		f.n = f.varint()
	case protowire.Fixed32Type:
		f.value = f.take(4)
	case protowire.Fixed64Type:
		f.value = f.take(8)
	case protowire.BytesType:
		f.value = f.take(f.varint())
	default: // groups, which nobody writes
		f.bad = true
	}
	return !f.bad
}

func (f *fields) take(n uint64) string {
	if n > uint64(len(f.rest)) {
		f.bad = true
		return ""
	}
	s := f.rest[:n]
	f.rest = f.rest[n:]
	return s
}

func (f *fields) varint() uint64 {
	if len(f.rest) > 0 && f.rest[0] < 0x80 { // nearly all there are
		v := f.rest[0]
		f.rest = f.rest[1:]
		return uint64(v)
	}
	return f.longVarint()
}

func (f *fields) longVarint() uint64 {
	var v uint64
	for i := 0; i < len(f.rest) && i < 10; i++ {
		b := f.rest[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			f.rest = f.rest[i+1:]
			return v
		}
	}
	f.bad = true
	return 0
}
