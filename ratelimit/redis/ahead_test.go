package redis

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
)

// What passes ahead of Redis is bounded: four replicas, some cut off now and then, let no more pass than the limit and what may be
// beyond it do.
func TestAheadIsBounded(t *testing.T) {
	everyWay(t, func(t *testing.T, rate ratelimit.Rate, seed uint64, how string) {
		e := newExact()
		e.ahead = 0.1
		leasesHold(t, e, Options{Lease: 0.1, Ahead: e.ahead}, 4, rate, seed, how)
	})
}

// Who is alone with its keys lets nothing pass beyond the limit, as long as Redis hears of it.
func TestOneReplicaLetsNoMorePass(t *testing.T) {
	everyWay(t, func(t *testing.T, rate ratelimit.Rate, seed uint64, how string) {
		if strings.HasSuffix(how, "in partitions") {
			how = "evenly"
		}
		leasesHold(t, newExact(), Options{Lease: 0.1, Ahead: 0.5}, 1, rate, seed+100, how)
	})
}

// settled waits until Redis has heard of everything.
func settled() { time.Sleep(2*gather + 2*time.Millisecond) }

// A key that is new passes at once, whatever Redis does, and is counted there soon: also what passed while that was under way.
func TestNewKeysDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s, other := l.replica(t, Options{Lease: 0.1, Ahead: 0.1}), l.replica(t, Options{})
		time.Sleep(1100 * time.Millisecond) // between two heartbeats
		rate := ratelimit.NewRate(1000, 100, time.Second)
		h := []ratelimit.Hit{hit("new", &rate)}
		calls := l.asked()
		for n := range 10 {
			ok, done, err := s.Ask(0, h, nil)
			require.NoError(t, err)
			require.True(t, ok && done)
			require.Equal(t, uint64(99-n), h[0].Decision.Remaining)
		}
		time.Sleep(gather / 2)
		assert.Equal(t, calls, l.asked(), "more may come")
		settled()
		assert.Equal(t, uint64(10), s.metrics.ahead.Load())
		assert.Zero(t, s.metrics.asked.Load())
		h[0].N = 100
		require.False(t, allowed(t, other, h[0]), "it was counted")

		// What is more than may pass so waits, and is sent at once.
		h = []ratelimit.Hit{hit("other", &rate)}
		for range 10 {
			require.True(t, allowed(t, s, h[0]))
		}
		begun := time.Now()
		require.True(t, allowed(t, s, h[0]))
		assert.Less(t, time.Since(begun), 2*time.Millisecond)
		assert.Positive(t, time.Since(begun))
	})
}

// What others have used up meanwhile is found out with the first question, and no more passes.
func TestAheadOfWhatOthersHaveUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 2
		s, other := l.replica(t, Options{Lease: 0.1, Ahead: 0.1}), l.replica(t, Options{})
		time.Sleep(11 * time.Second)
		rate := ratelimit.NewRate(10, 100, time.Second)
		all := hit("k", &rate)
		all.N = 100
		require.True(t, allowed(t, other, all))
		passed := 0
		for range 50 {
			if allowed(t, s, hit("k", &rate)) {
				passed++
			}
			time.Sleep(gather / 4)
		}
		assert.LessOrEqual(t, passed, 5+5, "its half of what is ahead, and what was regained")
		assert.Positive(t, passed)
	})
}

// What may not pass before Redis was asked waits for it.
func TestWhatDoesNotGoAhead(t *testing.T) {
	second := ratelimit.NewRate(100, 100, time.Second)
	for name, test := range map[string]struct {
		o      Options
		up     time.Duration
		h      ratelimit.Hit
		before func(t *testing.T, s *Store)
	}{
		"not wanted":         {o: Options{Lease: 0.1}},
		"just begun":         {up: 900 * time.Millisecond},
		"onError: deny":      {h: ratelimit.Hit{Rate: &second, N: 1, Strict: true}},
		"regained in an age": {h: ratelimit.Hit{Rate: rateOf(100, 100, time.Minute), N: 1}},
		"a small limit":      {h: ratelimit.Hit{Rate: rateOf(9, 9, time.Second), N: 1}},
		"many at once":       {h: ratelimit.Hit{Rate: &second, N: 11}},
		"a window":           {h: ratelimit.Hit{Rate: windowOf(100, time.Second), N: 1}},
		"half used": {before: func(t *testing.T, s *Store) {
			require.True(t, allowed(t, s, ratelimit.Hit{Key: []byte("k"), Rate: &second, N: 60}))
			time.Sleep(time.Millisecond)
			require.True(t, allowed(t, s, ratelimit.Hit{Key: []byte("k"), Rate: &second, N: 20}))
		}},
		"keys forgotten early": {before: func(_ *testing.T, s *Store) {
			for i := range 3 * leaseShards * leaseKeys {
				hash := s.leases.hash(&ratelimit.Hit{Key: []byte(strconv.Itoa(i)), Rate: &second})
				shard := s.leases.shard(hash)
				shard.turn(s.clock(), s.time.now(s.clock()))
				shard.young[hash] = &lease{rate: &second}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				l.replicas = 1
				if test.o.Lease == 0 {
					test.o = Options{Lease: 0.1, Ahead: 0.1}
				}
				s := l.replica(t, test.o)
				if test.up == 0 {
					test.up = 11 * time.Second
				}
				time.Sleep(test.up)
				if test.before != nil {
					test.before(t, s)
				}
				if test.h.Rate == nil {
					test.h = ratelimit.Hit{Rate: &second, N: 1}
				}
				test.h.Key = []byte("k")
				ahead := s.metrics.ahead.Load()
				require.True(t, allowed(t, s, test.h))
				assert.Equal(t, ahead, s.metrics.ahead.Load())
			})
		})
	}
}

func rateOf(requests, burst uint64, per time.Duration) *ratelimit.Rate {
	r := ratelimit.NewRate(requests, burst, per)
	return &r
}

func windowOf(requests uint64, per time.Duration) *ratelimit.Rate {
	r := ratelimit.NewSlidingWindow(requests, per)
	return &r
}

// All limits of a question pass ahead, or none, and Redis counts all of them.
func TestSeveralLimitsGoAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s, other := l.replica(t, Options{Lease: 0.1, Ahead: 0.1}), l.replica(t, Options{})
		time.Sleep(1100 * time.Millisecond)
		rate := ratelimit.NewRate(100, 100, time.Second)
		ok, done, err := s.Ask(0, []ratelimit.Hit{hit("a", &rate), hit("b", &rate)}, nil)
		require.NoError(t, err)
		require.True(t, ok && done)
		settled()
		for _, key := range []string{"a", "b"} {
			all := hit(key, &rate)
			all.N = 100
			require.False(t, allowed(t, other, all), "it was counted")
		}
		ahead := s.metrics.ahead.Load()
		require.True(t, allowed(t, s, hit("c", &rate), hit("slow", rateOf(100, 100, time.Minute))))
		assert.Equal(t, ahead, s.metrics.ahead.Load(), "one has to wait")
		require.True(t, allowed(t, s, hit("d", &rate)))
		assert.Equal(t, ahead+1, s.metrics.ahead.Load())
	})
}

// A key whose lease is used up has the next one before somebody waits for it.
func TestLeasesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s := l.replica(t, Options{Lease: 0.1})
		time.Sleep(time.Second)
		rate := ratelimit.NewRate(100, 100, time.Second)
		require.True(t, allowed(t, s, hit("k", &rate)))
		asked := s.metrics.asked.Load()
		for range 1000 {
			time.Sleep(30 * time.Millisecond)
			require.True(t, allowed(t, s, hit("k", &rate)))
		}
		assert.Equal(t, asked, s.metrics.asked.Load())
		assert.Less(t, l.asked(), 1000/10+20)
	})
}

// With a real Redis: what passed ahead of it is counted there.
func TestAheadIsCounted(t *testing.T) {
	server := servers.RunRedis(t)
	o := patient(server.Address)
	o.Lease, o.Ahead = DefaultLease, DefaultAhead
	s := start(t, o)
	rate := ratelimit.NewRate(100, 100, time.Second)
	eventually(t, "it knows its keys", func() bool { return s.clock() > rate.Full().NS && s.time.sure() })
	h := hit("k", &rate)
	begun := s.time.now(s.clock()) - int64(time.Millisecond)
	for range 10 {
		require.True(t, allowed(t, s, h))
	}
	assert.Equal(t, uint64(10), s.metrics.ahead.Load())
	c, err := s.client.get()
	require.NoError(t, err)
	eventually(t, "it is counted", func() bool {
		value, err := c.Do(t.Context(), c.B().Get().Key(s.keyOf(&h)).Build()).AsBytes()
		return err == nil && readStand(value).at.NS >= begun+rate.Cost(10).NS
	})
}
