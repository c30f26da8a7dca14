package redis

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/ratelimit"
)

// TestWhatIsOwedIsChargedOnce has many ask at once when Redis is back: what passed without it is charged by one of them.
func TestWhatIsOwedIsChargedOnce(t *testing.T) {
	s, err := New(slog.New(slog.DiscardHandler), Options{URLs: []string{"redis://127.0.0.1"}, Share: true})
	require.NoError(t, err)
	rate, now := ratelimit.NewFixedWindow(1000, day), time.Now().UnixNano()
	for round := range 1000 {
		for range 10 {
			ok, err := s.decideAlone(now, []ratelimit.Hit{hit("owed", &rate)})
			require.NoError(t, err)
			require.True(t, ok)
		}
		var charged atomic.Uint64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				a := inquiry{s: s, now: now, hits: []ratelimit.Hit{hit("owed", &rate)}}
				a.ask()
				for _, owed := range a.owed {
					charged.Add(owed.N)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 10, charged.Load(), "round %d", round)
	}
}

// TestStopsWhileAsked ends stores that are asked all the time.
func TestStopsWhileAsked(t *testing.T) {
	rate := ratelimit.NewRate(1000, 1000, time.Second)
	ledger := newLedger()
	for range 50 {
		t.Run("", func(t *testing.T) {
			stop := make(chan struct{})
			var asking sync.WaitGroup
			t.Cleanup(func() { close(stop); asking.Wait() }) // after the store has ended
			s := ledger.replica(t, Options{Share: true, Timeout: time.Second})
			require.NoError(t, s.Ready(t.Context()))
			for range 4 {
				asking.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Microsecond):
							_, _ = s.Take(context.Background(), time.Now().UnixNano(), []ratelimit.Hit{hit("asked", &rate)})
						}
					}
				})
			}
			time.Sleep(2 * time.Millisecond)
		})
	}
}
