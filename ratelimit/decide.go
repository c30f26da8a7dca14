package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

// Rate is a limit made ready to decide. The zero value refuses everything.
//
// Its arithmetic is the generic cell rate algorithm in its virtual scheduling form: ATM Forum, Traffic Management
// Specification 4.0 (af-tm-0056.000), section 4.4.1, and ITU-T I.371, annex A. What a key has used is one instant,
// its theoretical arrival time; a request moves it on by the time that Requests per Per leave between two
// requests, and conforms if that is no further ahead of now than Burst of them.
type Rate struct {
	// The interval between two requests is num/den nanoseconds, in lowest terms: 7 a second are never rounded.
	num, den uint64 // den <= math.MaxUint32, and 0 refuses everything
	burst    uint64
	per      time.Duration
	interval Arrival // num/den
	window   Arrival // burst times num/den, at most maxWindow
}

// maxWindow is 73 years: so much can be added to any now twice.
const maxWindow = 1 << 61

// NewRate gives requests per per, and burst of them at once; no requests refuse everything, and a burst of 0 is 1.
//
// It is exact but for two extremes: a burst that takes more than 73 years to regain is cut to what takes that long,
// and where the interval is a fraction with a denominator above 2^32-1 (only possible with more requests than
// that), it is rounded up to the next (2^32-1)th of a nanosecond.
func NewRate(requests, burst uint64, per time.Duration) Rate {
	if requests == 0 || per <= 0 {
		return Rate{per: per}
	}
	per = min(per, maxWindow)
	r := Rate{burst: max(burst, 1), per: per}
	r.num, r.den = fraction(uint64(per), requests)
	if hi, lo := bits.Mul64(r.burst, r.num); hi >= r.den || quotient(hi, lo, r.den) >= maxWindow {
		hi, lo = bits.Mul64(maxWindow, r.den)
		r.burst = quotient(hi, lo, r.num)
	}
	r.interval, r.window = r.times(1), r.times(r.burst)
	return r
}

// fraction gives per/requests in lowest terms, with a denominator that fits 32 bits.
func fraction(per, requests uint64) (num, den uint64) {
	g := gcd(per, requests)
	num, den = per/g, requests/g
	if den <= math.MaxUint32 {
		return num, den
	}
	hi, lo := bits.Mul64(num, math.MaxUint32)
	lo, carry := bits.Add64(lo, den-1, 0)
	return quotient(hi+carry, lo, den), math.MaxUint32
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

// Arrival is a theoretical arrival time, or a span of time, under one [Rate]: nanoseconds since 1970 and a fraction
// of one, counted in the rate's denominator. The zero value is a key that was never used.
type Arrival struct {
	ns   int64
	frac uint32
}

func (a Arrival) before(b Arrival) bool { return a.ns < b.ns || a.ns == b.ns && a.frac < b.frac }

// Decision is the answer to one question.
type Decision struct {
	Allowed   bool
	Remaining uint64 // how many single requests would still be allowed at once, now
	// RetryAfter is when the same question would be allowed, to the nanosecond, if nobody asks in between; 0 if it
	// is allowed now, and the limit's Per if it never will be.
	RetryAfter time.Duration
	Reset      time.Duration // until the key is as if it had never been used
}

// Decide says whether n more may pass at now (nanoseconds since 1970) on a key that stands at at, and where the
// key stands then. A refusal leaves the key alone. None more are always allowed, unless the rate refuses everything.
//
// What stands at may have been counted at another rate. Then the key is at worst without any burst left, which also
// a refusal writes down, and off by less than a nanosecond. So for one key now must never go back: what was counted
// at a later now would look like another rate's.
func (r *Rate) Decide(at Arrival, now int64, n uint64) (Arrival, Decision) {
	if r.den == 0 {
		return at, Decision{RetryAfter: r.per, Reset: r.per}
	}
	full := Arrival{now + r.window.ns, r.window.frac}
	start := r.start(at, now, full)
	if full.before(at) {
		at = full
	}
	if n > r.burst {
		return at, Decision{Remaining: r.room(start, full), RetryAfter: r.per, Reset: ceil(start, now)}
	}
	next := start
	if n == 1 {
		next = r.add(start, r.interval)
	} else if n > 1 {
		next = r.add(start, r.times(n))
	}
	if full.before(next) {
		wait := ceil(r.sub(next, full), 0)
		return at, Decision{Remaining: r.room(start, full), RetryAfter: wait, Reset: ceil(start, now)}
	}
	return next, Decision{Allowed: true, Remaining: r.room(next, full), Reset: ceil(next, now)}
}

// start is where the key stands, no earlier than now and no later than full.
func (r *Rate) start(at Arrival, now int64, full Arrival) Arrival {
	if at.ns < now {
		return Arrival{ns: now}
	}
	if uint64(at.frac) >= r.den {
		at = Arrival{ns: at.ns + 1}
	}
	if full.before(at) {
		return full
	}
	return at
}

// times is n intervals; n <= burst.
func (r *Rate) times(n uint64) Arrival {
	hi, lo := bits.Mul64(n, r.num)
	ns, frac := bits.Div64(hi, lo, r.den)
	return Arrival{int64(ns), uint32(frac)}
}

func (r *Rate) add(a, b Arrival) Arrival {
	ns, frac := a.ns+b.ns, uint64(a.frac)+uint64(b.frac)
	if frac >= r.den {
		ns, frac = ns+1, frac-r.den
	}
	return Arrival{ns, uint32(frac)}
}

// sub is a-b; b is not after a.
func (r *Rate) sub(a, b Arrival) Arrival {
	ns, frac := a.ns-b.ns, uint64(a.frac)
	if a.frac < b.frac {
		ns, frac = ns-1, frac+r.den
	}
	return Arrival{ns, uint32(frac - uint64(b.frac))}
}

// room is how many intervals fit between at and full.
func (r *Rate) room(at, full Arrival) uint64 {
	left := r.sub(full, at)
	hi, lo := bits.Mul64(uint64(left.ns), r.den)
	lo, carry := bits.Add64(lo, uint64(left.frac), 0)
	return quotient(hi+carry, lo, r.num)
}

// ceil is the time from now to at in whole nanoseconds, at least as long as the exact one.
func ceil(at Arrival, now int64) time.Duration {
	ns := at.ns - now
	if at.frac > 0 {
		ns++
	}
	return time.Duration(ns)
}
