package redis

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
			forget(s, &second, 0)
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

// forget has a replica asked about more keys than it has room for.
func forget(s *Store, rate *ratelimit.Rate, which int) {
	for i := range 3 * leaseShards * leaseKeys {
		hash := s.leases.hash(&ratelimit.Hit{Key: []byte(strconv.Itoa(which) + "/" + strconv.Itoa(i)), Rate: rate})
		shard := s.leases.shard(hash)
		shard.mu.Lock()
		shard.turn(s.clock(), s.time.now(s.clock()))
		shard.young[hash] = &lease{rate: rate}
		shard.mu.Unlock()
	}
}

// Of a key that was forgotten early nothing passes, also while the first question about it is under way.
func TestForgottenKeysDoNotGoAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s, other := l.replica(t, Options{Lease: 0.1, Ahead: 0.1}), l.replica(t, Options{})
		time.Sleep(11 * time.Second)
		rate := ratelimit.NewRate(100, 1000, time.Second)
		all := hit("k", &rate)
		all.N = 1000
		require.True(t, allowed(t, other, all))
		for which := range 3 {
			forget(s, &rate, which)
			var wg sync.WaitGroup
			for range 150 {
				wg.Go(func() { allowed(t, s, hit("k", &rate)) })
			}
			wg.Wait()
			time.Sleep(3 * gather)
		}
		assert.Zero(t, s.metrics.ahead.Load())
	})
}

// What passes so is regained with time, not with the answer of Redis, which others may have used up all before.
func TestSlowAnswersDoNotGiveMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s, other := l.replica(t, Options{Lease: 0.001, Ahead: 0.1, Timeout: time.Second}), l.replica(t, Options{})
		call := s.call
		var slow atomic.Bool
		s.call = func(f []fresh, x []script) {
			call(f, x)
			if slow.Swap(false) {
				time.Sleep(140 * time.Millisecond)
			}
		}
		time.Sleep(1100 * time.Millisecond)
		rate := ratelimit.NewRate(1000, 100, time.Second)
		e := newExact()
		e.ahead = 0.1
		begun := time.Now()
		at := func(ms time.Duration) { time.Sleep(time.Until(begun.Add(ms * time.Millisecond))) }
		ask := func() {
			for range 10 {
				h := []ratelimit.Hit{hit("k", &rate)}
				if ok, done, _ := s.Ask(0, h, &promise{told: make(chan struct{})}); ok && done {
					e.pass(&rate, "k", 1, 0)
				}
			}
		}
		take := func(most uint64) {
			h := hit("k", &rate)
			for h.N = most; h.N > 0 && !allowed(t, other, h); {
				h.N--
			}
			e.pass(&rate, "k", h.N, 0)
		}
		slow.Store(true)
		ask()
		at(110)
		take(100)
		at(115)
		ask()
		at(152)
		take(60)
		at(160)
		ask()
		assert.Zero(t, e.over)
		time.Sleep(time.Second)
	})
}

// A limit that changes while questions about it are under way goes ahead as before.
func TestQuestionsOfAnEarlierRateAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s := l.replica(t, Options{Lease: 0.01, Ahead: 0.1})
		time.Sleep(1100 * time.Millisecond)
		before, after := ratelimit.NewRate(50, 50, time.Second), ratelimit.NewRate(60, 60, time.Second)
		for range 5 {
			require.True(t, allowed(t, s, hit("k", &before)))
		}
		h := hit("k", &after)
		require.True(t, allowed(t, s, h))
		settled()
		hash := s.leases.hash(&h)
		assert.Zero(t, s.leases.shard(hash).find(hash).asks)
	})
}

// Who waits for a lease that is about to be asked for does not wait for what gathers.
func TestWaitingForWhatIsAboutToBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s := l.replica(t, Options{Lease: 0.1})
		time.Sleep(1100 * time.Millisecond)
		rate := ratelimit.NewRate(100, 100, time.Second)
		h := hit("k", &rate)
		require.True(t, allowed(t, s, h))
		hash := s.leases.hash(&h)
		shard := s.leases.shard(hash)
		shard.mu.Lock()
		used := shard.find(hash)
		used.at = used.end
		q := s.more(used, hash)
		shard.mu.Unlock()
		require.NotNil(t, q)
		begun := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			allowed(t, s, h)
		}()
		synctest.Wait()
		s.submit(q)
		<-done
		assert.Less(t, time.Since(begun), gather/2)
	})
}

// A replica that ends gives back what it has leased last, too.
func TestWhatIsLeasedLastIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.replicas = 1
		s, err := New(slog.New(slog.DiscardHandler), Options{Lease: 0.1, Ahead: 0.1, URLs: []string{"redis://127.0.0.1"}, Keys: 1000})
		require.NoError(t, err)
		s.call, s.connect = l.call(s), func() error { return nil }
		s.beat = func(lane *lane) error {
			lane.heard(time.Now().UnixNano(), s.clock())
			s.replicas.Store(1)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Run(ctx)
		}()
		time.Sleep(3 * time.Second)
		rate := ratelimit.NewFixedWindow(1000, 24*time.Hour)
		h := hit("k", &rate)
		hash := s.leases.hash(&h)
		passed := uint64(0)
		for pending := false; !pending || passed < 50; {
			require.True(t, allowed(t, s, h))
			passed++
			time.Sleep(time.Millisecond)
			used := s.leases.shard(hash).find(hash)
			pending = used != nil && used.pending != nil
		}
		cancel()
		<-done
		_, counted := window(l.at[s.keyOf(&h)].at)
		assert.Equal(t, passed, counted)
	})
}
