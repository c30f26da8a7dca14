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
	now   int64         // of a test in virtual time
	done  chan struct{} // closed when the rest is set
}

// part is a hit of a question. Its Key is not set.
type part struct {
	ratelimit.Hit
	key  string // in Redis; "": its Decision was made here and stands
	hash uint64 // by which leases know it; 0: they don't
	back bool   // no hit: of what lies between from and to, nothing is used

	wish  uint64        // how many more to lease
	ahead time.Duration // and how far beyond what a GCRA lets pass now
	pends chan struct{} // closed when it is answered; nil where nobody waits for a lease
	grant uint64        // of a lease by which the decision was made, which moved it from before to after; 0: none

	from, to ratelimit.Arrival // what is leased; equal if nothing is, and then it is where the key stands
	before   ratelimit.Arrival // where it stood
	after    ratelimit.Arrival // and what the hit made of that
}

// keys are where keys stand that have used anything.
type keys map[string]ratelimit.Arrival

const owed = 1 << 31 // in the Frac of a GCRA, as [ratelimit.Arrival] has it

// decide is what decide.lua does with a question, and fills in the decisions, which that leaves out.
func (q *question) decide(now int64, at keys) {
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

func (p *part) decide(now int64, at keys, kind ratelimit.Kind) {
	switch {
	case p.key == "":
	case p.back:
		p.before = at[p.key]
		at[p.key] = giveBack(p.Rate, p.before, p.from, p.to)
	default:
		p.before = at[p.key]
		p.after, p.Decision = p.Rate.Decide(p.before, now, kind, p.N)
		at[p.key] = p.after
	}
}

// undo takes back what was counted, last first, and then does again what is not taken back, as [ratelimit.Memory] does.
func (q *question) undo(now int64, at keys) {
	for i := len(q.parts) - 1; i >= 0; i-- {
		if p := &q.parts[i]; p.key != "" {
			at[p.key] = p.before
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
		next, d := p.Rate.Decide(at[p.key], now, ratelimit.Take, 0)
		at[p.key] = next
		if p.Decision.Allowed {
			p.Decision.Remaining, p.Decision.Reset = d.Remaining, d.Reset
		}
	}
}

// lease takes what is wished, as far as there is so much: of a GCRA also what passes a little later, so that a key that is
// used up is not asked about for each request; of windows a quarter of what is left, so that its end is shared.
func (p *part) lease(now int64, at keys) {
	if p.key == "" || p.back {
		return
	}
	p.from = at[p.key]
	p.to = p.from
	if p.Kind == ratelimit.Take && p.wish > 0 {
		kind, k := ratelimit.Take, uint64(0)
		if p.Rate.Algorithm() == ratelimit.GCRA {
			_, d := p.Rate.Decide(p.from, now+int64(p.ahead), ratelimit.Take, 0)
			kind, k = ratelimit.Charge, min(p.wish, d.Remaining)
		} else {
			_, d := p.Rate.Decide(p.from, now, ratelimit.Take, 0)
			k = min(p.wish, d.Remaining/4)
		}
		if k > 0 {
			p.to, _ = p.Rate.Decide(p.from, now, kind, k)
			at[p.key] = p.to
			if kind == ratelimit.Charge {
				p.to.Frac &^= owed
			}
		}
	}
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

// appendPart appends what decide.lua reads of a part; index is the place of its key among KEYS, from 1.
func appendPart(b []byte, p *part, index int, last bool) []byte {
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
	b = binary.BigEndian.AppendUint16(append(b, byte(r.Algorithm())<<3|kind, flags), uint16(index))
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
		if p.Kind == ratelimit.Take {
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
		b = appendNumber(b, int64(min(p.wish, maxWish)))
		b = appendNumber(appendArrival(b, r.Cost(1)), int64(p.ahead))
	}
	return b
}

// maxWish is the most that is leased at once.
const maxWish = 1 << 24

func appendNumber(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(float64(n)))
}

// appendArrival appends seconds, nanoseconds and the rest.
func appendArrival(b []byte, a ratelimit.Arrival) []byte {
	b = appendNumber(b, a.NS/second)
	b = binary.BigEndian.AppendUint32(b, uint32(a.NS%second))
	return binary.BigEndian.AppendUint32(b, a.Frac)
}

const arrivalSize = 16

var errReply = errors.New("the answer of Redis is none of decide.lua")

// readArrival reads what a key held; what is no arrival is as good as nothing, as it is for decide.lua.
func readArrival(b []byte) ratelimit.Arrival {
	s := math.Float64frombits(binary.BigEndian.Uint64(b))
	n, f := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if s >= 0 && s < 9_200_000_000 && s == math.Floor(s) && int64(n) < second {
		return ratelimit.Arrival{NS: int64(s)*second + int64(n), Frac: f}
	}
	return ratelimit.Arrival{}
}

// readReply reads the answer to a script with so many keys: when it was decided, and where each key stood before.
func readReply(b []byte, names []string) (now int64, at keys, err error) {
	if len(b) != 12+arrivalSize*len(names) {
		return 0, nil, errReply
	}
	s, n := math.Float64frombits(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])
	if math.IsNaN(s) || s < 0 || s > 9_200_000_000/2 || int64(n) >= second {
		return 0, nil, errReply
	}
	at = make(keys, len(names))
	for i, name := range names {
		at[name] = readArrival(b[12+arrivalSize*i:])
	}
	return int64(s)*second + int64(n), at, nil
}
