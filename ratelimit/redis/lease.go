package redis

import (
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// lease is what a replica knows of a key, and what it holds of it: what lies between at and end is counted in Redis, and
// given to nobody else. In Redis the key stands at end or further; so what does not pass by at would not pass there.
//
// Nothing passes that would not also pass a limit that is asked each time, whatever becomes of Redis or of others. Of
// windows what is leased counts in the window in which it is used, and each request has a place of its own in the count,
// at which it passes no earlier than the window has come so far. Of a GCRA a request takes an interval of its own out of
// what is leased, which begins no earlier than now and ends no later than what may be used at once reaches from now; and
// as no two requests of any replica have the same, those between two instants fit into the time between them and that
// reach, which is what the limit is.
//
// What is leased of a GCRA would so be over soon. It may be held: until then it moves along with now, and as much less
// of what may be used at once is given to others. Think of a bucket into which tokens drip: those that were taken out of it and
// not used are in the hands of replicas, and no more are in the bucket and in hands together than it has room for.
//
// Invariant: end is not before at, unless at is older than now and so as good as unused.
type lease struct {
	key     string // in Redis
	rate    *ratelimit.Rate
	at, end ratelimit.Arrival
	heard   int64  // when Redis told of it last, by its clock; 0: never
	grant   uint64 // counts what Redis has granted
	held    hold
	moved   bool  // at and end are no longer where they are in Redis
	gone    int64 // when Redis has nothing of it any more by what it has told, by its clock; 0: it has told nothing

	uses  uint64 // that passed since the last question
	asked int64  // when that was, by the store's clock; 0: never

	pending *pending // a question that is to grant more

	stood ratelimit.Arrival // where Redis had it when it told of it last
	asks  uint64            // hits that Redis was asked about or is to be told of, and has not answered
	early int64             // until when what passed before Redis was told counts, by the store's clock; see ahead.go
}

const (
	// trust is how long a key stays refused that Redis has told is used up. What others give back shows then.
	trust = int64(5 * time.Second)
	// span is how long a lease should last that is not held: a key is asked about five times a second.
	span = int64(200 * time.Millisecond)
	// holdFor is how long one is held at most, in seconds.
	holdFor = 20
	// holdFirst is how long the first one of a key is: most keys do not come again, and are not to fill Redis.
	holdFirst = 5
)

// of says whether it is one of the rate.
func (l *lease) of(r *ratelimit.Rate) bool { return l.rate == r || *l.rate == *r }

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
	l.move(now)
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

// move has what is held keep up with now, or ends it.
func (l *lease) move(now int64) {
	switch {
	case l.held.until == 0:
	case l.held.until*second <= now:
		l.at, l.end, l.held = ratelimit.Arrival{}, ratelimit.Arrival{}, hold{}
	case l.at.NS < now && l.at.Before(l.end):
		by := now - l.at.NS
		l.at.NS, l.end.NS, l.moved = l.at.NS+by, l.end.NS+by, true
	}
}

// take counts what passed.
func (l *lease) take(next ratelimit.Arrival, n uint64) {
	l.at = next
	l.uses += n
}

// live says whether there is anything left that others can't have.
func (l *lease) live(now int64) bool {
	return l.heard != 0 && l.at.Before(l.end) && l.end.NS > now
}

// firstWish is how many a key is leased that was not asked about before, where so many are regained before the lease is over;
// where they are not, fewer: many keys come again a few times, most do not.
const (
	firstWish = 8
	slowWish  = 3
)

// want is how much more to lease, in a question at now of the store's clock, if no more than a share of the limit may be
// held, and for how long: of a key that is asked about for the first time a few, where they can be held and so come free by
// themselves, and then as much as is used in the time that a lease may last.
func (l *lease) want(now int64, share float64) (wish uint64, holds int64) {
	most := uint64(share * float64(min(l.rate.Limit(), 1<<40)))
	switch {
	case l.asked != 0:
		wish = uint64(float64(min(l.uses, maxWish)+1) * float64(l.lasts()) / float64(max(now-l.asked, 1)))
	case l.short(firstWish, holdFirst):
		wish = firstWish
	case l.short(slowWish, holdFor):
		wish = slowWish
	}
	wish = min(wish, most, maxWish)
	switch {
	case l.asked == 0 && l.short(wish, holdFirst):
		holds = holdFirst
	case l.short(wish, holdFor): // what lasts long by itself is not held
		holds = holdFor
	}
	l.uses, l.asked = 0, now
	return wish, holds
}

// lasts is how long a lease should.
func (l *lease) lasts() int64 {
	if l.rate.Algorithm() == ratelimit.GCRA {
		return holdFor * second
	}
	return min(max(int64(l.rate.Per())/5, span), holdFor*second)
}

// short says whether so many can be held, and would be over within so many seconds if they were not.
func (l *lease) short(n uint64, seconds int64) bool {
	return l.rate.Algorithm() == ratelimit.GCRA && l.rate.Cost(n).NS < seconds*second
}

// ahead is how far beyond what passes now is leased: no more than is held.
func (l *lease) ahead(share float64) time.Duration {
	whole := int64(l.rate.Per())
	if l.rate.Algorithm() == ratelimit.GCRA {
		whole = l.rate.Full().NS
	}
	return time.Duration(min(int64(share*float64(whole)), span))
}

// hear takes what Redis says of the key at now: what is granted lies between from and to, and if nothing is, both are
// where it stands. It gives what is left of what was leased before.
func (l *lease) hear(now int64, from, to ratelimit.Arrival, held hold) (left lease) {
	granted := from != to
	l.stood = to
	l.gone = max(l.gone, to.NS+second, (held.until+1)*second)
	if l.live(now) {
		if !granted {
			return left
		}
		left = *l
	}
	if !granted && now < l.heard { // another answer was faster
		return left
	}
	l.at, l.end, l.heard, l.held, l.moved = from, to, max(now, l.heard), held, false
	if granted {
		l.grant++
	}
	return left
}

// putBack gives back a hit that was counted but does not pass, if it was of the grant that there is still.
func (l *lease) putBack(now int64, grant uint64, before, after ratelimit.Arrival, n uint64) {
	switch {
	case l.grant != grant:
	case l.moved && l.pending != nil: // it is held no more
	case l.at == after:
		l.at = before
	case l.rate.Algorithm() == ratelimit.GCRA:
		l.at, _ = l.rate.Decide(l.at, now, ratelimit.Refund, n)
	default:
		l.at = giveBack(l.rate, l.at, before, after)
	}
}
