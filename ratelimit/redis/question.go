package redis

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// question is what Redis decides as one: what is asked, and what came of it.
type question struct {
	parts []part
	ok    bool
	err   error
	now   int64    // of a test in virtual time
	since int64    // when it was asked, by the store's clock
	of    *inquiry // nil: nobody waits for it

	fresh bool // it is about one key, of which Redis may have nothing
}

// waited says whether somebody waits for the answer.
func (q *question) waited() bool { return q.of != nil && q.of.w != nil }

// part is a hit of a question. Its Key is not set.
type part struct {
	ratelimit.Hit
	key   string // in Redis; "": its Decision was made here and stands
	index int    // of the key among those of its script, from 1
	hash  uint64 // by which leases know it; 0: they don't
	back  bool   // no hit: of what lies between from and to, nothing is used

	wish  uint64        // how many more to lease
	ahead time.Duration // and how far beyond what passes now
	holds int64         // so many seconds they are to be held; 0: not
	freed hold          // is held no more
	held  hold          // of what is leased
	pends *pending      // nil where nobody waits for a lease
	grant uint64        // of a lease by which the decision was made, which moved it from before to after; 0: none
	fresh bool          // Redis may have nothing of the key
	early bool          // it has passed already

	from, to ratelimit.Arrival // what is leased; equal if nothing is, and then it is where the key stands
	before   ratelimit.Arrival // where it stood
	after    ratelimit.Arrival // and what the hit made of that
}

// hold is what is held of a GCRA that is leased: so much less may be used at once.
type hold struct {
	until int64 // seconds since 1970; 0: nothing is held
	ns    int64 // of the rate's time
}

// stand is what Redis has of a key: where it stands, and what all replicas hold of it.
type stand struct {
	at   ratelimit.Arrival
	held hold
}

// at is the stand as it counts at now: what is held is not there to be used, and nothing is held for longer.
func (s stand) when(now int64) stand {
	if s.held.until <= now/second || s.held.ns == 0 {
		s.held = hold{}
	} else if floor := now + s.held.ns; s.at.NS < floor {
		s.at = ratelimit.Arrival{NS: floor}
	}
	return s
}

const owed = 1 << 31 // in the Frac of a GCRA, as [ratelimit.Arrival] has it

// decide is what decide.lua does with a question, and fills in the decisions, which that leaves out. at has where the keys
// of its script stand.
func (q *question) decide(now int64, at []stand) {
	for i := range q.parts {
		q.parts[i].decide(now, at, q.parts[i].Kind)
	}
	q.ok = pass(q.parts)
	if !q.ok && len(q.parts) > 1 {
		q.undo(now, at)
	}
	for i := range q.parts {
		q.parts[i].lease(now, at)
	}
	if q.plain() { // what decide.lua writes of it, it reads again
		s := &at[q.parts[0].index-1]
		*s = s.when(now)
	}
}

func pass(parts []part) bool {
	quota, left := false, false
	for i := range parts {
		p := &parts[i]
		ok := p.back || p.Decision.Allowed || p.Shadow
		if !ok && !p.Quota {
			return false
		}
		quota = quota || p.Quota
		left = left || p.Quota && ok
	}
	return left || !quota
}

func (p *part) decide(now int64, at []stand, kind ratelimit.Kind) {
	if p.key == "" {
		return
	}
	s := &at[p.index-1]
	p.before = s.at
	if p.back {
		s.at = giveBack(p.Rate, p.before, p.from, p.to)
		return
	}
	p.after, p.Decision = p.Rate.Decide(p.before, now, kind, p.N)
	s.at = p.after
}

// undo takes back what was counted, last first, and then does again what is not taken back, as [ratelimit.Memory] does.
func (q *question) undo(now int64, at []stand) {
	for i := len(q.parts) - 1; i >= 0; i-- {
		if p := &q.parts[i]; p.key != "" {
			at[p.index-1].at = p.before
		}
	}
	for i := range q.parts {
		if p := &q.parts[i]; p.key != "" && (p.back || p.Kind != ratelimit.Take) {
			was := p.Decision
			p.decide(now, at, p.Kind)
			p.Decision.Allowed, p.Decision.RetryAfter = was.Allowed, was.RetryAfter
		}
	}
	for i := range q.parts {
		p := &q.parts[i]
		if p.key == "" || p.back || p.Kind != ratelimit.Take {
			continue
		}
		s := &at[p.index-1]
		next, d := p.Rate.Decide(s.at, now, ratelimit.Take, 0)
		s.at = next
		if p.Decision.Allowed {
			p.Decision.Remaining, p.Decision.Reset = d.Remaining, d.Reset
		}
	}
}

// lease takes what is wished, as far as there is so much: also what passes a little later, so that a key that is used up
// is not asked about for each request; of windows, while there is more, a quarter of what is left, so that their end is
// shared.
func (p *part) lease(now int64, at []stand) {
	if p.key == "" || p.back {
		return
	}
	s := &at[p.index-1]
	p.from = s.at
	p.to = p.from
	if p.Kind != ratelimit.Take || p.wish == 0 {
		return
	}
	if s.held.until != 0 && s.held.until == p.freed.until {
		if s.held.ns -= p.freed.ns; s.held.ns <= 0 {
			s.held = hold{}
		}
	}
	k := p.fits(now)
	if k == 0 {
		return
	}
	p.to, _ = p.Rate.Decide(p.from, now, ratelimit.Charge, k)
	s.at = p.to
	if p.Rate.Algorithm() == ratelimit.GCRA {
		p.to.Frac &^= owed
		p.hold(now, k, &s.held)
	}
}

// fits is how many there may be leased.
func (p *part) fits(now int64) uint64 {
	ahead := now + int64(p.ahead)
	if p.Rate.Algorithm() != ratelimit.GCRA {
		_, d := p.Rate.Decide(p.from, now, ratelimit.Take, 0)
		if d.Remaining >= 4 || p.Rate.Algorithm() == ratelimit.FixedWindow {
			return min(p.wish, d.Remaining/4)
		}
		_, end := p.Rate.Window(now)
		ahead = min(ahead, end-1)
	}
	_, d := p.Rate.Decide(p.from, ahead, ratelimit.Take, 0)
	return min(p.wish, d.Remaining)
}

// hold holds k that are leased, unless more than half of what may be used at once would be.
func (p *part) hold(now int64, k uint64, all *hold) {
	cost := p.Rate.Cost(k)
	if cost.Frac > 0 {
		cost.NS++
	}
	if p.holds == 0 || 2*(all.ns+cost.NS) > p.Rate.Full().NS {
		return
	}
	if all.until == 0 {
		all.until = now/second + p.holds
	}
	all.ns += cost.NS
	p.held = hold{all.until, cost.NS}
}

// giveBack is where a key stands that was at at, when nothing is used of what lies between from and to. A GCRA that others
// have moved on since stays: what is theirs would come too early. In windows that are over, nothing is changed.
func giveBack(r *ratelimit.Rate, at, from, to ratelimit.Arrival) ratelimit.Arrival {
	if r.Algorithm() == ratelimit.GCRA {
		flag := at.Frac & owed
		if at.Frac &^= owed; at == to {
			return ratelimit.Arrival{NS: from.NS, Frac: from.Frac&^owed | flag}
		}
		at.Frac |= flag
		return at
	}
	end, count := window(at)
	until, most := window(to)
	_, least := window(from)
	n := most - least
	switch {
	case r.Algorithm() == ratelimit.FixedWindow && end == until:
		count -= min(n, count)
	case r.Algorithm() == ratelimit.SlidingWindow && end == until:
		count -= min(n, count&(owed-1))
	case r.Algorithm() == ratelimit.SlidingWindow && end == until+int64(r.Per()):
		count -= min(n, count>>31) << 31
	}
	if count == 0 {
		return ratelimit.Arrival{}
	}
	return ratelimit.Arrival{NS: end + int64(count>>32), Frac: uint32(count)}
}

// window is the end of one and what it counts.
func window(at ratelimit.Arrival) (end int64, count uint64) {
	high := at.NS % second
	return at.NS - high, uint64(high)<<32 | uint64(at.Frac)
}

const second = int64(time.Second)

// What decide.lua reads.

const (
	flagShadow = 1 << iota
	flagQuota
	flagLast
	flagLease
	flagAsk
	flagAllowed
)

const (
	kindNever    = 3 // of a GCRA: more than ever pass at once
	kindGiveBack = 4

	maxFixed = 1e9<<32 - 2 // as ratelimit has it: what a fixed window counts
	maxSlide = 1 << 32     // more than a sliding window does
)

// plain says whether it is one hit of a GCRA that takes, as a rule, or only leases.
func (q *question) plain() bool {
	p := &q.parts[0]
	return len(q.parts) == 1 && p.key != "" && !p.back && p.Kind == ratelimit.Take && p.Rate.Algorithm() == ratelimit.GCRA && (p.N > 0 || p.wish > 0) && p.N <= p.Rate.Limit()
}

// What stands for op and flags of a question that is plain.
const (
	opTake = 128 + iota
	opTakeLease
)

// appendPart appends what decide.lua reads of a part; last says that it is the end of a question.
func appendPart(b []byte, p *part, last, plain bool) []byte {
	kind, flags := byte(p.Kind), byte(0)
	set := func(on bool, flag byte) {
		if on {
			flags |= flag
		}
	}
	set(p.Shadow, flagShadow)
	set(p.Quota, flagQuota)
	set(last, flagLast)
	if p.key == "" {
		set(p.Decision.Allowed, flagAllowed)
		return append(b, kind, flags, 0, 0)
	}
	r := p.Rate
	switch {
	case p.back:
		kind = kindGiveBack
		set(true, flagAllowed)
	case r.Algorithm() == ratelimit.GCRA && p.Kind == ratelimit.Take && p.N > r.Limit():
		kind = kindNever
	}
	set(p.N == 0, flagAsk)
	leases := !p.back && p.Kind == ratelimit.Take && p.wish > 0
	set(leases, flagLease)
	switch {
	case !plain:
		b = append(b, byte(r.Algorithm())<<3|kind, flags)
	case leases:
		b = append(b, opTakeLease)
	default:
		b = append(b, opTake)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(p.index))
	switch {
	case p.back:
		from := p.from
		if r.Algorithm() == ratelimit.GCRA {
			from.Frac &^= owed
		}
		return appendNumber(appendArrival(appendArrival(b, from), p.to), int64(r.Per())/second)
	case r.Algorithm() == ratelimit.GCRA:
		_, den := r.Interval()
		n := p.N
		if p.Kind == ratelimit.Take && !plain {
			n = max(n, 1) // whether even one would pass
		}
		b = appendArrival(appendArrival(b, r.Cost(n)), r.Full())
		b = binary.BigEndian.AppendUint32(b, uint32(den))
	case r.Algorithm() == ratelimit.SlidingWindow:
		b = appendNumber(b, int64(min(p.N, maxSlide)))
		b = appendNumber(appendNumber(b, int64(r.Limit())), int64(r.Per())/second)
	default:
		most := uint64(maxFixed + 1)
		if p.Kind == ratelimit.Charge {
			most = maxFixed
		}
		b = binary.BigEndian.AppendUint64(b, min(p.N, most))
		b = binary.BigEndian.AppendUint64(b, r.Limit())
		b = binary.BigEndian.AppendUint32(appendNumber(b, int64(r.Per())/second), uint32(r.Months()))
	}
	if leases {
		b = appendNumber(appendNumber(b, int64(p.wish)), int64(p.ahead))
		if r.Algorithm() == ratelimit.GCRA {
			b = appendLease(b, p)
		}
	}
	return b
}

// appendLease appends what a lease of a GCRA is beside.
func appendLease(b []byte, p *part) []byte {
	b = appendArrival(b, p.Rate.Cost(1))
	return appendNumber(binary.BigEndian.AppendUint32(append(b, byte(p.holds)), uint32(p.freed.until)), p.freed.ns)
}

// maxWish is the most that is leased at once: so many intervals are exact in a double.
const maxWish = 1 << 22

func appendNumber(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(float64(n)))
}

// appendArrival appends seconds, nanoseconds and the rest.
func appendArrival(b []byte, a ratelimit.Arrival) []byte {
	b = appendNumber(b, a.NS/second)
	b = binary.BigEndian.AppendUint32(b, uint32(a.NS%second))
	return binary.BigEndian.AppendUint32(b, a.Frac)
}

// appendStand appends what Redis has of a key.
func appendStand(b []byte, s stand) []byte {
	return appendNumber(binary.BigEndian.AppendUint32(appendArrival(b, s.at), uint32(s.held.until)), s.held.ns)
}

const standSize = 28

var errReply = errors.New("the answer of Redis is none of decide.lua")

// readStand reads what a key held; what is no arrival is as good as nothing, as it is for decide.lua.
func readStand(b []byte) (st stand) {
	s, n, f := readNumber(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if s < 0 || s >= 9_200_000_000 || s != math.Floor(s) || int64(n) >= second {
		return st
	}
	st.at = ratelimit.Arrival{NS: int64(s)*second + int64(n), Frac: f}
	if ns := readNumber(b[20:]); ns > 0 && ns < 1e15 && ns == math.Floor(ns) {
		st.held = hold{int64(binary.BigEndian.Uint32(b[16:])), int64(ns)}
	}
	return st
}

func readNumber(b []byte) float64 { return math.Float64frombits(binary.BigEndian.Uint64(b)) }

// readReply reads the answer to a script with so many keys: when it was decided, and where each key stood before.
func readReply(b []byte, keys int) (now int64, at []stand, err error) {
	if len(b) != 12+standSize*keys {
		return 0, nil, errReply
	}
	s, n := readNumber(b), binary.BigEndian.Uint32(b[8:])
	if math.IsNaN(s) || s < 0 || s > 9_200_000_000/2 || int64(n) >= second {
		return 0, nil, errReply
	}
	now = int64(s)*second + int64(n)
	at = make([]stand, keys)
	for i := range at {
		at[i] = readStand(b[12+standSize*i:]).when(now)
	}
	return now, at, nil
}
