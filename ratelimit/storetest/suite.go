// Package storetest holds a [ratelimit.Store] to its contract: one suite for every implementation.
package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/ratelimit"
)

// Suite is what is tested.
type Suite struct {
	// New gives an empty store that decides by the time it is told, and has room for some thousand keys.
	New func(t *testing.T) ratelimit.Store
	// Questions is how many the random ones are: as many as take some seconds.
	Questions int
}

const (
	someday = int64(1_795_000_000_000_000_000)
	day     = 24 * time.Hour
)

// Run runs the suite.
func (s *Suite) Run(t *testing.T) {
	t.Run("agrees with a model", s.agrees)
	t.Run("exactly the limit under concurrency", s.limit)
	t.Run("exactly the rate under concurrency", s.rate)
	t.Run("many keys concurrently", s.manyKeys)
	t.Run("a refused request uses nothing up", s.refusedUsesNothing)
	t.Run("the same key twice in one request", s.twice)
	t.Run("a shadow is counted and never refuses", s.shadow)
	t.Run("a debt is waited for, a refund never goes beyond full", s.debt)
	t.Run("a refusal takes back what was taken only", s.takesBack)
	t.Run("quotas refuse only together", s.quotas)
	t.Run("algorithms do not read each other", s.algorithms)
	t.Run("an earlier now forgets nothing", s.earlier)
	t.Run("keys are told apart", s.keys)
}

func take(t *testing.T, s ratelimit.Store, now int64, hits ...ratelimit.Hit) bool {
	t.Helper()
	ok, err := s.Take(t.Context(), now, hits)
	require.NoError(t, err)
	return ok
}

func hit(key string, rate *ratelimit.Rate, kind ratelimit.Kind, n uint64) ratelimit.Hit {
	return ratelimit.Hit{Key: []byte(key), Rate: rate, Kind: kind, N: n}
}

// model is a store as one would write it on paper: a map, and everything again from the beginning on a refusal.
type model map[string]ratelimit.Arrival

func (m model) take(now int64, hits []ratelimit.Hit) bool {
	before := maps.Clone(m)
	key := func(h *ratelimit.Hit) string { return fmt.Sprint(h.Rate.Algorithm()) + string(h.Key) }
	decide := func(h *ratelimit.Hit, n uint64) {
		m[key(h)], h.Decision = h.Rate.Decide(m[key(h)], now, h.Kind, n)
	}
	for i := range hits {
		decide(&hits[i], hits[i].N)
	}
	if ratelimit.Pass(hits) || len(hits) == 1 {
		return ratelimit.Pass(hits)
	}
	clear(m)
	maps.Copy(m, before)
	for _, kind := range []ratelimit.Kind{ratelimit.Charge, ratelimit.Take} {
		for i := range hits {
			h := &hits[i]
			was := h.Decision
			switch {
			case kind == ratelimit.Charge && h.Kind != ratelimit.Take:
				decide(h, h.N)
				h.Decision.Allowed, h.Decision.RetryAfter = was.Allowed, was.RetryAfter
			case kind == ratelimit.Take && h.Kind == ratelimit.Take:
				decide(h, 0)
				d := h.Decision
				if h.Decision = was; was.Allowed {
					h.Decision.Remaining, h.Decision.Reset = d.Remaining, d.Reset
				}
			}
		}
	}
	return false
}

// rates are of each kind; those of one row are of the same limit that was edited.
func rates() [][]ratelimit.Rate {
	return [][]ratelimit.Rate{
		{ratelimit.NewRate(7, 7, time.Second), ratelimit.NewRate(3, 20, time.Minute)},
		{ratelimit.NewRate(11, 5, time.Minute)},
		{ratelimit.NewRate(1_000_003, 40, time.Second)},
		{ratelimit.NewRate(999_999_937, 1<<40, day)},
		{ratelimit.NewRate(0, 0, time.Second)},
		{ratelimit.NewFixedWindow(7, time.Second), ratelimit.NewFixedWindow(90, time.Minute)},
		{ratelimit.NewFixedWindow(4e18, 30*time.Second)},
		{ratelimit.NewFixedWindow(0, time.Hour)},
		{ratelimit.NewCalendarWindow(1000, 1)},
		{ratelimit.NewCalendarWindow(500, 12), ratelimit.NewCalendarWindow(300, 3)},
		{ratelimit.NewSlidingWindow(7, time.Second), ratelimit.NewSlidingWindow(40, 5*time.Minute)},
		{ratelimit.NewSlidingWindow(1e9, 30*day)},
		{ratelimit.NewSlidingWindow(999_999_937, 7*time.Second)},
		{ratelimit.NewUnlimited()},
	}
}

func (s *Suite) agrees(t *testing.T) {
	store, model, all := s.New(t), model{}, rates()
	random := rand.New(rand.NewPCG(1, 2))
	big := []uint64{1 << 20, 1 << 31, 1 << 33, 1e9, 1 << 40, 1 << 53, 4e18, 1 << 62, 1<<64 - 1}
	refused, now := 0, someday
	for i := range s.Questions {
		hits := make([]ratelimit.Hit, 1+random.IntN(2)*random.IntN(4))
		for j := range hits {
			row := random.IntN(len(all))
			h := hit(fmt.Sprintf("%d/%d", row, random.IntN(3)), &all[row][random.IntN(8)%len(all[row])], ratelimit.Take, random.Uint64N(4))
			if random.IntN(8) > 0 {
				h.Rate = &all[row][0]
			}
			h.Shadow, h.Quota = random.IntN(6) == 0, random.IntN(6) == 0
			switch random.IntN(14) {
			case 0:
				h.Kind = ratelimit.Charge
			case 1:
				h.Kind = ratelimit.Refund
			}
			if random.IntN(20) == 0 {
				h.N = big[random.IntN(len(big))]
			}
			hits[j] = h
		}
		want := append([]ratelimit.Hit{}, hits...)
		wanted, got := model.take(now, want), take(t, store, now, hits...)
		require.Equal(t, wanted, got, "question %d at %d: %s", i, now, describe(want))
		for j := range hits {
			require.Equal(t, want[j].Decision, hits[j].Decision, "question %d at %d, hit %d of: %s", i, now, j, describe(want))
		}
		if !got {
			refused++
		}
		now += random.Int64N(int64(100*time.Millisecond)) * int64(random.IntN(2))
		switch random.IntN(2000) {
		case 0:
			now += random.Int64N(int64(40 * day))
		case 1, 2:
			now += int64(time.Minute)
		}
		if random.IntN(500) == 0 {
			now += int64(time.Second) - now%int64(time.Second) // to the edge of a window
		}
	}
	assert.Greater(t, refused, s.Questions/20)
	assert.Less(t, refused, s.Questions*19/20)
}

func describe(hits []ratelimit.Hit) string {
	var b strings.Builder
	for _, h := range hits {
		fmt.Fprintf(&b, "\n  %s kind %d n %d shadow %t quota %t: %s limit %d per %s → %+v", h.Key, h.Kind, h.N, h.Shadow, h.Quota, h.Rate.Algorithm(), h.Rate.Limit(), h.Rate.Per(), h.Decision)
	}
	return b.String()
}

func (s *Suite) limit(t *testing.T) {
	const workers, each = 16, 200
	a, b := ratelimit.NewRate(1000, 1000, day), ratelimit.NewRate(700, 700, day)
	store := s.New(t)
	var both, onlyA atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				hits := []ratelimit.Hit{hit("a", &a, ratelimit.Take, 1), hit("b", &b, ratelimit.Take, 1)}
				if w%2 == 1 {
					hits[0], hits[1] = hits[1], hits[0]
				}
				if ok, _ := store.Take(t.Context(), someday, hits); ok {
					both.Add(1)
				}
				if i < each/2 {
					continue
				}
				if ok, _ := store.Take(t.Context(), someday, []ratelimit.Hit{hit("a", &a, ratelimit.Take, 1)}); ok {
					onlyA.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1000, both.Load()+onlyA.Load())
	assert.LessOrEqual(t, both.Load(), int64(700))
	assert.False(t, take(t, store, someday, hit("a", &a, ratelimit.Take, 1)))
}

// While time goes on, seen by each goroutine a little differently, exactly the burst and the rate pass.
func (s *Suite) rate(t *testing.T) {
	const burst, requests = 10, 7000
	rate := ratelimit.NewRate(requests, burst, time.Second)
	store := s.New(t)
	var clock, passed atomic.Int64
	clock.Store(someday)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range s.Questions / 16 {
				now := clock.Add(20_000) // some 7 questions an interval
				if ok, _ := store.Take(t.Context(), now, []ratelimit.Hit{hit("k", &rate, ratelimit.Take, 1)}); ok {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	end := clock.Load()
	for take(t, store, end, hit("k", &rate, ratelimit.Take, 1)) {
		passed.Add(1)
	}
	// The first question of all may have been any of the first ones.
	assert.InDelta(t, burst+float64(end-someday)*requests/1e9, float64(passed.Load()), 3)
	assert.LessOrEqual(t, passed.Load(), burst+(end-someday)*requests/1e9)
}

func (s *Suite) manyKeys(t *testing.T) {
	const keys, limit = 300, 3
	rate := ratelimit.NewRate(limit, limit, day)
	store := s.New(t)
	var allowed [keys]atomic.Int32
	var wg sync.WaitGroup
	for w := range uint64(6) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(w, 0))
			for range limit {
				for _, k := range random.Perm(keys) {
					if ok, _ := store.Take(t.Context(), someday, []ratelimit.Hit{hit(fmt.Sprint("key", k), &rate, ratelimit.Take, 1)}); ok {
						allowed[k].Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	for k := range allowed {
		require.EqualValues(t, limit, allowed[k].Load(), "key %d", k)
	}
}

func (s *Suite) refusedUsesNothing(t *testing.T) {
	wide, narrow, none := ratelimit.NewRate(3, 3, day), ratelimit.NewRate(1, 1, day), ratelimit.NewRate(0, 0, day)
	store := s.New(t)
	w, n := hit("wide", &wide, ratelimit.Take, 1), hit("narrow", &narrow, ratelimit.Take, 1)
	assert.True(t, take(t, store, someday, w, n))
	for range 10 {
		hits := []ratelimit.Hit{w, n}
		assert.False(t, take(t, store, someday, hits...))
		assert.True(t, hits[0].Decision.Allowed)
		assert.EqualValues(t, 2, hits[0].Decision.Remaining, "as it stands without the request")
	}
	assert.False(t, take(t, store, someday, w, hit("none", &none, ratelimit.Take, 1)))
	assert.True(t, take(t, store, someday, w))
	assert.True(t, take(t, store, someday, w))
	assert.False(t, take(t, store, someday, w))
}

func (s *Suite) twice(t *testing.T) {
	rate := ratelimit.NewRate(3, 3, day)
	store := s.New(t)
	one := hit("k", &rate, ratelimit.Take, 1)
	assert.True(t, take(t, store, someday, one, one))
	assert.False(t, take(t, store, someday, one, one), "one left")
	assert.True(t, take(t, store, someday, one))
	assert.False(t, take(t, store, someday, one))
}

func (s *Suite) shadow(t *testing.T) {
	rate, shadow := ratelimit.NewRate(5, 5, day), ratelimit.NewRate(2, 2, day)
	store := s.New(t)
	would := 0
	for range 10 {
		hits := []ratelimit.Hit{hit("s", &shadow, ratelimit.Take, 1), hit("r", &rate, ratelimit.Take, 1)}
		hits[0].Shadow = true
		if take(t, store, someday, hits...) && !hits[0].Decision.Allowed {
			would++
		}
	}
	assert.Equal(t, 3, would, "5 pass, 2 of them within the shadow's limit")
}

func (s *Suite) debt(t *testing.T) {
	for _, rate := range []ratelimit.Rate{ratelimit.NewRate(10, 10, time.Second), ratelimit.NewFixedWindow(10, day), ratelimit.NewSlidingWindow(10, day)} {
		store, now := s.New(t), someday
		h := []ratelimit.Hit{hit("k", &rate, ratelimit.Charge, 25)}
		assert.False(t, take(t, store, now, h...), "it did not fit")
		assert.Positive(t, h[0].Decision.RetryAfter)
		ask := []ratelimit.Hit{hit("k", &rate, ratelimit.Take, 0)}
		assert.False(t, take(t, store, now, ask...))
		if rate.Algorithm() == ratelimit.GCRA {
			assert.Equal(t, 1600*time.Millisecond, ask[0].Decision.RetryAfter, "15 over and one more")
		}
		assert.True(t, take(t, store, now, hit("k", &rate, ratelimit.Refund, 1000)))
		assert.False(t, take(t, store, now, hit("k", &rate, ratelimit.Take, 11)))
		assert.True(t, take(t, store, now, hit("k", &rate, ratelimit.Take, 10)))
		assert.False(t, take(t, store, now, ask...))
	}
}

func (s *Suite) takesBack(t *testing.T) {
	rate, none := ratelimit.NewRate(10, 10, day), ratelimit.NewRate(0, 0, day)
	store := s.New(t)
	assert.False(t, take(t, store, someday,
		hit("k", &rate, ratelimit.Take, 3), hit("k", &rate, ratelimit.Charge, 4), hit("none", &none, ratelimit.Take, 1), hit("other", &rate, ratelimit.Charge, 2),
	))
	for key, left := range map[string]uint64{"k": 6, "other": 8} {
		ask := []ratelimit.Hit{hit(key, &rate, ratelimit.Take, 0)}
		assert.True(t, take(t, store, someday, ask...))
		assert.Equal(t, left, ask[0].Decision.Remaining, key)
	}
}

func (s *Suite) quotas(t *testing.T) {
	one, two := ratelimit.NewRate(1, 1, day), ratelimit.NewRate(2, 2, day)
	store := s.New(t)
	a, b := hit("a", &one, ratelimit.Take, 1), hit("b", &two, ratelimit.Take, 1)
	a.Quota, b.Quota = true, true
	assert.True(t, take(t, store, someday, a, b))
	assert.True(t, take(t, store, someday, a, b), "b has one left")
	assert.False(t, take(t, store, someday, a, b))
}

func (s *Suite) algorithms(t *testing.T) {
	gcra, fixed := ratelimit.NewRate(3, 3, day), ratelimit.NewFixedWindow(3, day)
	store := s.New(t)
	assert.True(t, take(t, store, someday, hit("k", &gcra, ratelimit.Take, 3)))
	assert.True(t, take(t, store, someday, hit("k", &fixed, ratelimit.Take, 3)))
	assert.False(t, take(t, store, someday, hit("k", &gcra, ratelimit.Take, 1)))
}

func (s *Suite) earlier(t *testing.T) {
	rate := ratelimit.NewRate(5, 5, time.Second)
	store := s.New(t)
	for range 5 {
		require.True(t, take(t, store, someday, hit("k", &rate, ratelimit.Take, 1)))
	}
	assert.False(t, take(t, store, someday-int64(time.Hour), hit("k", &rate, ratelimit.Take, 1)))
	assert.False(t, take(t, store, someday, hit("k", &rate, ratelimit.Take, 1)))
	assert.True(t, take(t, store, someday+int64(200*time.Millisecond), hit("k", &rate, ratelimit.Take, 1)))
}

func (s *Suite) keys(t *testing.T) {
	rate := ratelimit.NewRate(1, 1, day)
	store := s.New(t)
	for _, parts := range [][]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"a", "b", ""}, {"a\x00b"}, {"{a}", "b"}, {strings.Repeat("x", 10_000)}} {
		var key []byte
		for _, p := range parts {
			key = ratelimit.AppendKey(key, p)
		}
		assert.True(t, take(t, store, someday, hit(string(key), &rate, ratelimit.Take, 1)), "%q", parts)
		assert.False(t, take(t, store, someday, hit(string(key), &rate, ratelimit.Take, 1)), "%q", parts)
	}
}
