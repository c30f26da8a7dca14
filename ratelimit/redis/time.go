package redis

import (
	"sync"
	"sync/atomic"
)

// serverTime is what is known of Redis's clock, by which everything is decided.
type serverTime struct {
	ahead atomic.Int64 // of the store's clock: as much as it can be, so that nothing of a lease is used too late

	mu    sync.Mutex // guards everything declared below
	since int64      // when ahead was found; 0: never
}

// now is the latest that Redis's clock may show at an instant of the store's, or 0 where it is not known.
func (t *serverTime) now(clock int64) int64 {
	if ahead := t.ahead.Load(); ahead != 0 {
		return clock + ahead
	}
	return 0
}

// heard takes note that Redis's clock showed at between sent and received.
func (t *serverTime) heard(at, sent, received int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most, least, now := at-sent, at-received, t.ahead.Load()
	if t.since == 0 || most < now || least > now || received-t.since > second {
		t.ahead.Store(most)
		t.since = received
	}
}
