package redis

import (
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// lease is what a replica knows of a key, and what it holds of it: what lies between at and end is counted in Redis, and
// given to nobody else. In Redis the key stands at end or further; so what does not pass by at would not pass there.
//
// Nothing passes that would not also pass a limit that is asked each time, whatever becomes of Redis or of others. Of
// windows what is leased counts in the window in which it is used. Of a GCRA a request takes an interval of its own out of
// what is leased, which begins no earlier than now and ends no later than what may be used at once reaches from now; and
// as no two requests of any replica have the same, those between two instants fit into the time between them and that
// reach, which is what the limit is.
//
// Invariant: end is not before at, unless at is older than now and so as good as unused.
type lease struct {
	key     string // in Redis
	rate    ratelimit.Rate
	at, end ratelimit.Arrival
	heard   int64  // when Redis told of it last, by its clock; 0: never
	grant   uint64 // counts what Redis has granted

	wish  uint64 // of the last question
	asked int64  // when that was, by the store's clock; 0: never

	pending chan struct{} // of a question that is to grant more: closed when it is answered
}

const (
	// trust is how long a key stays refused that Redis has told is used up. What others give back shows then.
	trust = int64(5 * time.Second)
	// span is how long a lease should last: a key is asked about five times a second.
	span = int64(200 * time.Millisecond)
)

// verdict is what a lease makes of a hit.
type verdict uint8

const (
	ask    verdict = iota // only Redis knows
	passes                // and next is where the lease is then
	refuse                // it would be there too
)

// judge decides a hit at now, of Redis's clock.
func (l *lease) judge(now int64, kind ratelimit.Kind, n uint64) (next ratelimit.Arrival, d ratelimit.Decision, v verdict) {
	if l.heard == 0 || kind == ratelimit.Refund || n == 0 {
		return next, d, ask
	}
	next, d = l.rate.Decide(l.at, now, kind, n)
	switch {
	case !d.Allowed && kind == ratelimit.Take && now-l.heard <= trust:
		return next, d, refuse
	case !d.Allowed || !l.at.Before(l.end) || l.end.Before(next):
		return next, d, ask
	default:
		return next, d, passes
	}
}

// live says whether there is anything left that could be used.
func (l *lease) live(now int64) bool {
	return l.heard != 0 && l.at.Before(l.end) && l.end.NS > now
}

// want is how much more to lease, in a question at now of the store's clock, if no more than a share of the limit may be
// held: nothing of a key that is seldom asked about, and ever more until what is leased lasts for a span.
func (l *lease) want(now int64, share float64) uint64 {
	most := uint64(share * float64(min(l.rate.Limit(), 1<<40)))
	since := now - l.asked
	switch {
	case l.asked == 0:
		l.wish = 0
	case since < span:
		l.wish = max(2*l.wish, 2)
	case since > 4*span:
		l.wish /= 4
	}
	l.asked = now
	l.wish = min(l.wish, most, maxWish)
	return l.wish
}

// ahead is how far beyond what passes now a GCRA is leased: no more than is held of it.
func (l *lease) ahead(share float64) time.Duration {
	return min(time.Duration(share*float64(l.rate.Full().NS)), time.Duration(span))
}

// hear takes what Redis says of the key at now: what is granted lies between from and to, and if nothing is, both are
// where it stands. It gives what is left of what was held before.
func (l *lease) hear(now int64, from, to ratelimit.Arrival) (left lease) {
	granted := from != to
	if l.live(now) {
		if !granted {
			return left
		}
		left = *l
	}
	if !granted && now < l.heard { // another answer was faster
		return left
	}
	l.at, l.end, l.heard = from, to, max(now, l.heard)
	if granted {
		l.grant++
	}
	return left
}

// putBack gives back a hit that was counted but does not pass, if it was of the grant that there is still.
func (l *lease) putBack(now int64, grant uint64, before, after ratelimit.Arrival, n uint64) {
	switch {
	case l.grant != grant:
	case l.at == after:
		l.at = before
	case l.rate.Algorithm() == ratelimit.GCRA:
		l.at, _ = l.rate.Decide(l.at, now, ratelimit.Refund, n)
	default:
		l.at = giveBack(&l.rate, l.at, before, after)
	}
}
