package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

// Algorithm is how a [Rate] counts.
type Algorithm uint8

// The algorithms.
const (
	GCRA          Algorithm = iota // a burst and an even rate
	SlidingWindow                  // the window before counts for the part of it that the last Per still reaches into
	FixedWindow                    // so many in each window of the clock
	Unlimited                      // everything passes and nothing is counted
)

// String is the algorithm's name.
func (a Algorithm) String() string {
	return [...]string{"gcra", "sliding_window", "fixed_window", "unlimited"}[a]
}

// Rate is a limit made ready to decide. The zero value refuses everything. What a key has used under it is one
// [Arrival], whatever the algorithm; one algorithm can't read another's, so that a [Store] keeps them apart.
//
// The arithmetic of [GCRA] is the generic cell rate algorithm in its virtual scheduling form: ATM Forum, Traffic
// Management Specification 4.0 (af-tm-0056.000), section 4.4.1, and ITU-T I.371, annex A. What a key has used is one
// instant, its theoretical arrival time; a request moves it on by the time that Requests per Per leave between two
// requests, and conforms if that is no further ahead of now than Burst of them.
//
// Windows are aligned to 1970, those of a calendar to January of the year 0, all in UTC. [FixedWindow] counts what
// passes in a window. [SlidingWindow] takes what passed in the window before to have come evenly, and counts of it
// the share of the window that lies within Per before now, rounded up to a whole request.
type Rate struct {
	algorithm Algorithm
	months    uint16 // a window of the calendar; else 0

	// The interval between two requests of a GCRA is num/den nanoseconds, in lowest terms: 7 a second are never rounded.
	den uint32 // <= maxDen, and 0 refuses everything
	num uint64

	limit    uint64        // how many may pass at once
	per      time.Duration // of windows a whole number of seconds; of those of a calendar the longest
	interval Arrival       // num/den
	window   Arrival       // limit times num/den, at most maxWindow
} // one cache line: all cores read the rate of a hot key

// MaxAhead is how far beyond now a key's debt may be, in nanoseconds.
const MaxAhead = 2 * maxWindow

const (
	maxWindow = 1 << 61        // 73 years: so much can be added to any now twice
	maxDen    = math.MaxInt32  // leaves the bit for owed
	owed      = 1 << 31        // in Frac: more than the limit was charged, it isn't the arrival of another rate
	maxMonths = 12 * 100       // a window of the calendar ends before 64 bits of nanoseconds do
	second    = int64(1e9)     // the end of a window is a multiple of it, and what is above is count
	maxFixed  = 1e9<<32 - 2    // what a fixed window counts, with room for one more
	maxSlide  = 1_000_000_000  // what a sliding window counts: half of what fits
	slideBits = 31             // of the count of the window now; that before has as many above
	slideMost = 2*maxSlide - 1 // where its counts stop
)

// NewRate gives a GCRA of requests per per, and burst of them at once; no requests refuse everything, and a burst of
// 0 is 1.
//
// It is exact but for two extremes: a burst that takes more than 73 years to regain is cut to what takes that long,
// and where the interval is a fraction with a denominator above 2^31-1 (only possible with more requests than
// that), it is rounded up to the next (2^31-1)th of a nanosecond.
func NewRate(requests, burst uint64, per time.Duration) Rate {
	if requests == 0 || per <= 0 {
		return Rate{per: per}
	}
	per = min(per, maxWindow)
	r := Rate{limit: max(burst, 1), per: per}
	num, den := fraction(uint64(per), requests)
	r.num, r.den = num, uint32(den)
	if hi, lo := bits.Mul64(r.limit, r.num); hi >= den || quotient(hi, lo, den) >= maxWindow {
		hi, lo = bits.Mul64(maxWindow, den)
		r.limit = quotient(hi, lo, r.num)
	}
	r.interval, r.window = r.times(1), r.times(r.limit)
	return r
}

// NewFixedWindow gives requests in each window of per, which is rounded up to whole seconds. It is exact up to 4e18
// requests, which is where more are cut.
func NewFixedWindow(requests uint64, per time.Duration) Rate {
	return Rate{algorithm: FixedWindow, limit: min(requests, maxFixed), per: wholeSeconds(per)}
}

// NewCalendarWindow gives requests in each so many months of the calendar, in UTC: 1 is a month, 3 a quarter, 12 a
// year, and 1200 the most there may be.
func NewCalendarWindow(requests uint64, months int) Rate {
	r := NewFixedWindow(requests, 0)
	r.months = uint16(min(max(months, 1), maxMonths))
	r.per = time.Duration(r.months) * 31 * 24 * time.Hour
	return r
}

// NewSlidingWindow gives requests in any per, which is rounded up to whole seconds. More than 1e9 are cut to that.
func NewSlidingWindow(requests uint64, per time.Duration) Rate {
	return Rate{algorithm: SlidingWindow, limit: min(requests, maxSlide), per: wholeSeconds(per)}
}

// NewUnlimited gives what refuses nothing.
func NewUnlimited() Rate { return Rate{algorithm: Unlimited, limit: math.MaxUint64} }

func wholeSeconds(d time.Duration) time.Duration {
	d = min(max(d, 1), maxWindow)
	return (d + time.Second - 1) / time.Second * time.Second
}

// Algorithm is how the rate counts.
func (r *Rate) Algorithm() Algorithm { return r.algorithm }

// Limit is how many may pass at once on a key that was never used.
func (r *Rate) Limit() uint64 { return r.limit }

// Per is the time that the limit is for; of windows of a calendar the longest there may be.
func (r *Rate) Per() time.Duration { return r.per }

// Interval is what a GCRA leaves between two requests, num/den nanoseconds; a den of 0 refuses everything.
func (r *Rate) Interval() (num, den uint64) { return r.num, uint64(r.den) }

// Window is the one that now lies in, from start until just before end.
func (r *Rate) Window(now int64) (start, end int64) {
	if r.months > 0 {
		return calendarWindow(now, int64(r.months))
	}
	start = now - now%int64(r.per)
	return start, start + int64(r.per)
}

func calendarWindow(now, months int64) (start, end int64) {
	t := time.Unix(0, now).UTC()
	first := int64(t.Year())*12 + int64(t.Month()) - 1
	first -= first % months
	at := func(month int64) int64 {
		return time.Date(int(month/12), time.Month(month%12+1), 1, 0, 0, 0, 0, time.UTC).UnixNano()
	}
	return at(first), at(first + months)
}

// Months is how many a window of the calendar has; 0: it is none.
func (r *Rate) Months() int { return int(r.months) }

// Full is how far beyond now a GCRA may be ahead.
func (r *Rate) Full() Arrival { return r.window }

// Cost is what n requests move a GCRA on that refuses not everything, at most [MaxAhead].
func (r *Rate) Cost(n uint64) Arrival {
	hi, lo := bits.Mul64(n, r.num)
	if hi >= uint64(r.den) {
		return Arrival{NS: MaxAhead}
	}
	ns, frac := bits.Div64(hi, lo, uint64(r.den))
	if ns >= MaxAhead {
		return Arrival{NS: MaxAhead}
	}
	return Arrival{int64(ns), uint32(frac)}
}

// fraction gives per/requests in lowest terms, with a denominator that fits 31 bits.
func fraction(per, requests uint64) (num, den uint64) {
	g := gcd(per, requests)
	num, den = per/g, requests/g
	if den <= maxDen {
		return num, den
	}
	hi, lo := bits.Mul64(num, maxDen)
	lo, carry := bits.Add64(lo, den-1, 0)
	return quotient(hi+carry, lo, den), maxDen
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func quotient(hi, lo, y uint64) uint64 {
	q, _ := bits.Div64(hi, lo, y)
	return q
}

// Arrival is what a key has used under one [Rate]. Whose NS is in the past was as good as never used, as is the zero
// value; nothing else about it holds for every algorithm.
//
//   - GCRA: the theoretical arrival time, NS nanoseconds since 1970 and Frac/den of one. The highest bit of Frac says
//     that it was charged beyond the limit: else what is further ahead than that is another rate's, and is cut.
//   - FixedWindow: the end of the window, a whole second. What NS has beyond it, times 2^32, and Frac are the count.
//   - SlidingWindow: the end of the window after the one now, and as above 62 bits: the upper 31 count the window
//     before, the lower 31 the one now.
type Arrival struct {
	NS   int64
	Frac uint32
}

// Before says whether a is the earlier one, or of windows with less counted. Both are of one rate.
func (a Arrival) Before(b Arrival) bool { return a.before(b) }

func (a Arrival) before(b Arrival) bool { return a.NS < b.NS || a.NS == b.NS && a.Frac < b.Frac }

// Kind is what a hit does to its counter.
type Kind uint8

// The kinds of hits. A hit of 0 changes nothing: as a Take it is refused if not even one more would pass, as a
// Charge only if the limit is already exceeded, which is how envoyproxy/ratelimit answers hits_addend: 0.
const (
	Take   Kind = iota // counted if it fits into what is left, and else refused
	Charge             // counted whether it fits or not: what is over must be waited for before more may pass
	Refund             // given back, as far as it was used; never refused
)

// Decision is the answer to one question. It has no more than four fields, which is what Go's compiler keeps in
// registers: a fifth made a decision four times as slow.
type Decision struct {
	Allowed   bool   // it was within the limit
	Remaining uint64 // how many single requests would still be allowed at once, now
	// RetryAfter is when the same Take would be allowed, or after a Charge a single one, to the nanosecond, if nobody
	// asks in between; 0 if it is allowed now, and the limit's Per if it never will be.
	RetryAfter time.Duration
	Reset      time.Duration // until the key is as if it had never been used; of a fixed window until it ends
}

// Decide says whether n more may pass at now (nanoseconds since 1970) on a key that stands at at, and where the
// key stands then. A Take that is refused leaves the key alone.
//
// What stands at may have been counted at another rate of the same algorithm. Then the key is at worst without
// anything left, which also a refusal writes down; of a GCRA it is off by less than a nanosecond. So for one key now
// must never go back: what was counted at a later now would look like another rate's.
func (r *Rate) Decide(at Arrival, now int64, kind Kind, n uint64) (Arrival, Decision) {
	switch r.algorithm {
	case GCRA:
		return r.gcra(at, now, kind, n)
	case FixedWindow:
		return r.fixed(at, now, kind, n)
	case SlidingWindow:
		return r.sliding(at, now, kind, n)
	default:
		return Arrival{}, Decision{Allowed: true, Remaining: math.MaxUint64}
	}
}

func (r *Rate) gcra(at Arrival, now int64, kind Kind, n uint64) (Arrival, Decision) {
	if r.den == 0 {
		if kind == Refund {
			return at, Decision{Allowed: true, Reset: r.per}
		}
		return at, Decision{RetryAfter: r.per, Reset: r.per}
	}
	full := Arrival{now + r.window.NS, r.window.Frac}
	start := r.start(at, now, full)
	switch kind {
	case Charge:
		return r.charge(start, full, now, n)
	case Refund:
		return r.refund(start, full, now, n)
	}
	next := r.interval
	if n > 1 {
		if n > r.limit {
			return r.stands(start, full), Decision{Remaining: r.room(start, full), RetryAfter: r.per, Reset: ceil(start, now)}
		}
		next = r.times(n)
	}
	next = r.add(start, next)
	if full.before(next) {
		return r.stands(start, full), Decision{Remaining: r.room(start, full), RetryAfter: ceil(r.sub(next, full), 0), Reset: ceil(start, now)}
	}
	if n == 0 {
		next = start
	}
	return next, Decision{Allowed: true, Remaining: r.room(next, full), Reset: ceil(next, now)}
}

func (r *Rate) charge(start, full Arrival, now int64, n uint64) (Arrival, Decision) {
	next := Arrival{NS: now + MaxAhead}
	if cost := r.Cost(n); cost.NS < next.NS-start.NS {
		next = r.add(start, cost)
	}
	d := Decision{Allowed: !full.before(next), Remaining: r.room(next, full), Reset: ceil(next, now)}
	if !d.Allowed {
		d.RetryAfter = ceil(r.sub(r.add(next, r.interval), full), 0)
	}
	return r.stands(next, full), d
}

func (r *Rate) refund(start, full Arrival, now int64, n uint64) (Arrival, Decision) {
	next := Arrival{NS: now}
	if cost := r.Cost(n); cost.NS < MaxAhead && !r.sub(start, next).before(cost) {
		next = r.sub(start, cost)
	}
	return r.stands(next, full), Decision{Allowed: true, Remaining: r.room(next, full), Reset: ceil(next, now)}
}

// start is where the key stands, no earlier than now, and no later than full unless more was charged.
func (r *Rate) start(at Arrival, now int64, full Arrival) Arrival {
	if at.NS < now {
		return Arrival{NS: now}
	}
	charged := at.Frac&owed != 0
	if at.Frac &^= owed; at.Frac >= r.den {
		at = Arrival{NS: min(at.NS, now+MaxAhead) + 1}
	}
	if !full.before(at) {
		return at
	}
	if charged {
		at.NS = min(at.NS, now+MaxAhead)
		return at
	}
	return full
}

// stands is how a is kept.
func (r *Rate) stands(a, full Arrival) Arrival {
	if full.before(a) {
		a.Frac |= owed
	}
	return a
}

// times is n intervals; n <= limit.
func (r *Rate) times(n uint64) Arrival {
	hi, lo := bits.Mul64(n, r.num)
	ns, frac := bits.Div64(hi, lo, uint64(r.den))
	return Arrival{int64(ns), uint32(frac)}
}

func (r *Rate) add(a, b Arrival) Arrival {
	ns, frac := a.NS+b.NS, uint64(a.Frac)+uint64(b.Frac)
	if frac >= uint64(r.den) {
		ns, frac = ns+1, frac-uint64(r.den)
	}
	return Arrival{ns, uint32(frac)}
}

// sub is a-b; b is not after a.
func (r *Rate) sub(a, b Arrival) Arrival {
	ns, frac := a.NS-b.NS, uint64(a.Frac)
	if a.Frac < b.Frac {
		ns, frac = ns-1, frac+uint64(r.den)
	}
	return Arrival{ns, uint32(frac - uint64(b.Frac))}
}

// room is how many intervals fit between at and full.
func (r *Rate) room(at, full Arrival) uint64 {
	if full.before(at) {
		return 0
	}
	left := r.sub(full, at)
	hi, lo := bits.Mul64(uint64(left.NS), uint64(r.den))
	lo, carry := bits.Add64(lo, uint64(left.Frac), 0)
	return quotient(hi+carry, lo, r.num)
}

// ceil is the time from now to at in whole nanoseconds, at least as long as the exact one.
func ceil(at Arrival, now int64) time.Duration {
	ns := at.NS - now
	if at.Frac > 0 {
		ns++
	}
	return time.Duration(ns)
}

// pack keeps a count beside a whole second; both come back from unpack. count < 1e9<<32.
func pack(end int64, count uint64) Arrival {
	return Arrival{end + int64(count>>32), uint32(count)}
}

func unpack(at Arrival) (end int64, count uint64) {
	high := at.NS % second
	return at.NS - high, uint64(high)<<32 | uint64(at.Frac)
}

func (r *Rate) fixed(at Arrival, now int64, kind Kind, n uint64) (Arrival, Decision) {
	_, end := r.Window(now)
	var count uint64
	if at.NS > now {
		if was, c := unpack(at); was == end {
			count = c
		} else if was > now {
			count = min(c, r.limit) // of another rate
		}
	}
	left := r.limit - min(count, r.limit)
	allowed := n <= left
	switch {
	case kind == Refund:
		count, allowed = count-min(n, count), true
	case kind == Charge && n == 0:
		allowed = count <= r.limit
	case kind == Charge:
		count = min(count+min(n, maxFixed), maxFixed+1)
	case n == 0:
		allowed = left > 0
	case allowed:
		count += n
	}
	d := Decision{Allowed: allowed, Remaining: r.limit - min(count, r.limit), Reset: time.Duration(end - now)}
	if !allowed {
		d.RetryAfter = d.Reset
		if kind == Take && n > r.limit || r.limit == 0 {
			d.RetryAfter = r.per
		}
	}
	if count == 0 {
		return Arrival{}, d
	}
	return pack(end, count), d
}

// slide is what a sliding window knows at an instant.
type slide struct {
	last, now uint64 // the counts, <= slideMost
	rest      uint64 // of the window now, in nanoseconds
	per       uint64
	end       int64
}

func (r *Rate) sliding(at Arrival, now int64, kind Kind, n uint64) (Arrival, Decision) {
	s := r.slide(at, now)
	left := s.left(r.limit)
	allowed := n <= left
	switch {
	case kind == Refund:
		here := min(n, s.now)
		s.now -= here
		s.last -= min(n-here, s.last)
		allowed = true
	case kind == Charge && n == 0:
		allowed = s.used() <= r.limit
	case kind == Charge:
		s.now = min(s.now+min(n, slideMost), slideMost)
	case n == 0:
		allowed = left > 0
	case allowed:
		s.now += n
	}
	d := Decision{Allowed: allowed, Remaining: s.left(r.limit), Reset: s.reset()}
	if !allowed {
		if d.RetryAfter = r.per; kind == Charge {
			n = 1
		}
		if n = max(n, 1); n <= r.limit {
			d.RetryAfter = s.until(r.limit, n)
		}
	}
	if s.last|s.now == 0 {
		return Arrival{}, d
	}
	return pack(s.end+int64(s.per), s.last<<slideBits|s.now), d
}

func (r *Rate) slide(at Arrival, now int64) slide {
	_, end := r.Window(now)
	s := slide{rest: uint64(end - now), per: uint64(r.per), end: end}
	if at.NS <= now {
		return s
	}
	until, counts := unpack(at)
	last, here := min(counts>>slideBits, slideMost), min(counts&(1<<slideBits-1), slideMost)
	switch {
	case until == end+int64(r.per):
		s.last, s.now = last, here
	case until == end:
		s.last = here
	case until > now: // of another rate
		s.last, s.now = min(last, r.limit), min(here, r.limit)
	}
	return s
}

// used is what counts of both windows.
func (s *slide) used() uint64 {
	if s.last == 0 {
		return s.now
	}
	hi, lo := bits.Mul64(s.last, s.rest)
	lo, carry := bits.Add64(lo, s.per-1, 0)
	return s.now + quotient(hi+carry, lo, s.per)
}

func (s *slide) left(limit uint64) uint64 { return limit - min(s.used(), limit) }

func (s *slide) reset() time.Duration {
	switch {
	case s.now > 0:
		return time.Duration(s.rest + s.per)
	case s.last > 0:
		return time.Duration(s.rest)
	}
	return 0
}

// until is when n, of which there are no more than limit, would pass; they don't now.
func (s *slide) until(limit, n uint64) time.Duration {
	if s.now+n <= limit { // as soon as less of the window before counts
		return time.Duration(s.rest - share(limit-s.now-n, s.per, s.last))
	}
	return time.Duration(s.rest + s.per - share(limit-n, s.per, s.now))
}

// share is part/whole of per, rounded down; part < whole.
func share(part, per, whole uint64) uint64 {
	hi, lo := bits.Mul64(part, per)
	return quotient(hi, lo, whole)
}

// Share is an n-th of the rate, for one of n who each count by themselves; where there are more of them than may pass at
// once, one each.
func (r *Rate) Share(n uint64) Rate {
	if n <= 1 || r.algorithm == Unlimited || r.limit == 0 {
		return *r
	}
	limit := max(r.limit/n, 1)
	if r.algorithm == GCRA {
		per := uint64(r.per)
		return NewRate(uint64(r.den)*max(per/r.num, 1), limit, time.Duration(min(per, maxWindow/n)*n))
	}
	share := *r
	share.limit = limit
	return share
}
