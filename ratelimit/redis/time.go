package redis

import (
	"sync"
	"sync/atomic"
)

// serverTime is what is known of Redis's clock, by which everything is decided.
type serverTime struct {
	ahead atomic.Int64 // of the store's clock: as much as it can be, so that nothing of a lease is used too late

	mu    sync.Mutex // guards everything declared below
	since int64      // when ahead was found
	times int64      // that Redis's clock was heard since it was set; 0: never
}

const (
	// drift is by how much clocks may differ in a second, at most: one in so many.
	drift = 1 << 10
	// enough is after how many times the best of what was heard is near to what it can be.
	enough = 5
)

// now is the latest that Redis's clock may show at an instant of the store's, or 0 where it is not known.
func (t *serverTime) now(clock int64) int64 {
	if ahead := t.ahead.Load(); ahead != 0 {
		return clock + ahead
	}
	return 0
}

// sure says whether that is near to what it shows.
func (t *serverTime) sure() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times >= enough
}

// heard takes note that Redis's clock showed at between sent and received. What was found with the least delay stands, but for
// what clocks may have drifted since.
func (t *serverTime) heard(at, sent, received int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most, least := at-sent, at-received
	now := t.ahead.Load() + (received-t.since)/drift
	switch {
	case t.times == 0 || least > now: // the clock was set, or is another one
		now, t.times = most, 0
	case most < now:
		now = most
	}
	t.ahead.Store(now)
	t.since = received
	t.times++
}
