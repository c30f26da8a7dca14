package redis

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/ratelimit"
)

// ledger is a Redis in virtual time that decides as decide.lua does (which the suite of stores holds to the same), with a
// network between it and each replica.
type ledger struct {
	mu   sync.Mutex
	at   map[string]stand
	cuts map[*Store]bool // replicas that do not reach it

	replicas      int64
	calls, writes int
}

var errCut = errors.New("cut off")

// travel takes a random time; a cut swallows what travels, until the connection is given up.
func (l *ledger) travel(s *Store) error {
	l.mu.Lock()
	cut := l.cuts[s]
	l.mu.Unlock()
	if cut {
		time.Sleep(time.Second)
		return errCut
	}
	time.Sleep(time.Duration(rand.Int64N(int64(400 * time.Microsecond))))
	return nil
}

func (l *ledger) call(s *Store) func([]fresh, []script) {
	return func(fresh []fresh, scripts []script) {
		err := l.travel(s)
		if err == nil {
			for i := range fresh {
				fresh[i].there = l.write(&fresh[i])
			}
			for i := range scripts {
				scripts[i].reply = l.run(&scripts[i])
			}
			err = l.travel(s)
		}
		if err != nil { // if it was decided, nobody hears of it
			for i := range fresh {
				fresh[i].there, fresh[i].err = false, err
			}
			for i := range scripts {
				scripts[i].err = err
			}
		}
	}
}

// write makes a key, unless it is there.
func (l *ledger) write(k *fresh) (there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes++
	now := time.Now().UnixNano()
	if l.at[k.q.key()].when(now).at.NS > now {
		return true
	}
	l.at[k.q.key()] = readStand(appendStand(nil, k.stand))
	return false
}

func (l *ledger) run(x *script) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	now := time.Now().UnixNano()
	reply := appendArrival(nil, ratelimit.Arrival{NS: now})[:12]
	at := make([]stand, len(x.names))
	for i, name := range x.names {
		reply = appendStand(reply, l.at[name])
		at[i] = l.at[name].when(now)
	}
	for _, q := range x.questions {
		copied := question{parts: slices.Clone(q.parts)}
		copied.decide(now, at)
	}
	for i, name := range x.names {
		if l.at[name] = at[i]; at[i].at.NS <= now {
			delete(l.at, name)
		}
	}
	return reply
}

// asked is how often it was asked for a script or a fresh key.
func (l *ledger) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls + l.writes
}

// replica gives a store that asks the ledger until the test ends.
func (l *ledger) replica(t *testing.T, o Options) *Store {
	t.Helper()
	o.URLs, o.Keys = []string{"redis://127.0.0.1"}, 1000
	s, err := New(slog.New(slog.DiscardHandler), o)
	require.NoError(t, err)
	s.call = l.call(s)
	s.connect = func() error { return nil }
	s.beat = func(lane *lane) error {
		sent := s.clock()
		if err := l.travel(s); err != nil {
			return err
		}
		at := time.Now().UnixNano()
		if err := l.travel(s); err != nil {
			return err
		}
		lane.heard(at, sent)
		s.replicas.Store(l.replicas)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func newLedger() *ledger {
	return &ledger{at: map[string]stand{}, cuts: map[*Store]bool{}, replicas: 4}
}

// exact holds what passed, in order, against a limit that is asked each time.
type exact struct {
	ahead float64 // so much of it may be beyond

	mu      sync.Mutex
	at      map[string]ratelimit.Arrival
	windows map[string]uint64 // what passed in each fixed window of a key
	passed  int
	over    int
}

func newExact() *exact {
	return &exact{at: map[string]ratelimit.Arrival{}, windows: map[string]uint64{}}
}

// pass takes what was asked at a time and has passed by now.
func (e *exact) pass(rate *ratelimit.Rate, key string, n uint64, asked int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.passed += int(n)
	if rate.Algorithm() == ratelimit.FixedWindow {
		e.passWindow(rate, key, n, asked)
		return
	}
	var d ratelimit.Decision
	// What was decided comes here up to half a millisecond later, or less: so much may seem to come at once.
	const jitter = float64(time.Millisecond / 2)
	switch rate.Algorithm() {
	case ratelimit.GCRA:
		num, den := rate.Interval()
		limit := rate.Limit() + uint64(e.ahead*float64(rate.Limit()))
		late := ratelimit.NewRate(den*uint64(100+100*e.ahead), limit+uint64(jitter*float64(den)/float64(num))+1, 100*time.Duration(num))
		rate = &late
	case ratelimit.SlidingWindow:
		late := ratelimit.NewSlidingWindow(rate.Limit()+uint64(jitter*float64(rate.Limit())/float64(rate.Per()))+2, rate.Per())
		rate = &late
	}
	e.at[key], d = rate.Decide(e.at[key], time.Now().UnixNano(), ratelimit.Take, n)
	if !d.Allowed {
		e.over += int(n)
	}
}

// passWindow: what was asked in one window and has passed in the next may have been decided in either.
func (e *exact) passWindow(rate *ratelimit.Rate, key string, n uint64, asked int64) {
	for _, at := range []int64{asked, time.Now().UnixNano()} {
		window := key + " " + strconv.FormatInt(at/int64(rate.Per()), 10)
		if e.windows[window]+n <= rate.Limit() {
			e.windows[window] += n
			return
		}
	}
	e.over += int(n)
}

func leaseRates() []ratelimit.Rate {
	return []ratelimit.Rate{
		ratelimit.NewRate(100, 100, time.Second),
		ratelimit.NewRate(1000, 50, time.Second),
		ratelimit.NewRate(600, 200, time.Minute),
		ratelimit.NewRate(7, 7, time.Second),
		ratelimit.NewFixedWindow(500, time.Second),
		ratelimit.NewFixedWindow(2000, time.Minute),
		ratelimit.NewSlidingWindow(500, time.Second),
		ratelimit.NewSlidingWindow(3000, 20*time.Second),
		ratelimit.NewCalendarWindow(5000, 1),
	}
}

// Four replicas, some cut off now and then, let nothing pass that would not pass a limit that is asked each time; and as
// long as they all ask, they are not short of more than what may be leased.
func TestLeasesNeverLetMorePass(t *testing.T) {
	everyWay(t, func(t *testing.T, rate ratelimit.Rate, seed uint64, how string) {
		leasesHold(t, newExact(), Options{Lease: 0.1}, 4, rate, seed, how)
	})
}

// everyWay runs a test of how limits are asked.
func everyWay(t *testing.T, test func(t *testing.T, rate ratelimit.Rate, seed uint64, how string)) {
	t.Helper()
	for i, rate := range leaseRates() {
		for _, how := range []string{"evenly", "in partitions", "in bursts", "new keys", "new keys in partitions"} {
			t.Run(rate.Algorithm().String()+" "+strconv.FormatUint(rate.Limit(), 10)+" per "+rate.Per().String()+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, rate, uint64(i), how) })
			})
		}
	}
}

func leasesHold(t *testing.T, e *exact, o Options, many int, rate ratelimit.Rate, seed uint64, how string) {
	t.Helper()
	l := newLedger()
	l.replicas = int64(many)
	var replicas []*Store
	for range many {
		replicas = append(replicas, l.replica(t, o))
	}
	time.Sleep(time.Second)
	run := 3 * time.Second
	if how == "in bursts" {
		run = 50 * time.Second // until leases end that were held meanwhile
	}
	start := time.Now()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			s := replicas[w%many]
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for time.Since(start) < run {
				key, n := "k"+strconv.Itoa(random.IntN(2)), uint64(1)
				if strings.HasPrefix(how, "new keys") { // that all ask about at the same time, and come back to when they are gone, or not yet
					key = "k" + strconv.FormatInt(int64(time.Since(start)/(30*time.Millisecond))%50, 10)
				}
				if random.IntN(10) == 0 {
					n = 1 + random.Uint64N(3)
				}
				h := []ratelimit.Hit{{Key: []byte(key), Rate: &rate, N: n}}
				asked := time.Now().UnixNano()
				ok, err := s.Take(t.Context(), 0, h)
				if ok && err == nil {
					e.pass(&rate, key, n, asked)
				}
				pause := 4 * time.Millisecond
				if strings.HasPrefix(how, "new keys") {
					pause /= 8
					s.lanes[0].mu.Lock()
					s.lanes[0].luck = luck{} // which is bad here
					s.lanes[0].mu.Unlock()
				}
				time.Sleep(time.Duration(random.Int64N(int64(pause))))
				if how == "in bursts" && random.IntN(60) == 0 {
					time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second))))
				}
				if strings.HasSuffix(how, "in partitions") && random.IntN(200) == 0 {
					l.mu.Lock()
					l.cuts[replicas[random.IntN(many)]] = random.IntN(2) == 0
					l.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, e.over, "of %d that passed", e.passed)
	might := 2 * possible(&rate, start, run)
	ahead := uint64(0)
	for _, s := range replicas {
		ahead += s.metrics.ahead.Load()
	}
	l.mu.Lock()
	t.Logf("%d passed of %.0f, %d ahead, %d calls, %d fresh keys", e.passed, might, ahead, l.calls, l.writes)
	l.mu.Unlock()
	if how == "evenly" && might < 8*float64(run/(4*time.Millisecond)) { // they ask for more than there is
		assert.Greater(t, float64(e.passed), might*0.85)
	}
	l.mu.Lock()
	clear(l.cuts)
	l.mu.Unlock()
}

// A key that comes once a second is answered from memory for most of the time, and another replica is short of what is held
// of its burst, and no more.
func TestSlowKeysAreLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		s, other := l.replica(t, Options{Lease: 0.1}), l.replica(t, Options{Lease: 0.1})
		time.Sleep(time.Second)
		rate := ratelimit.NewRate(100, 100, time.Second)
		h := []ratelimit.Hit{hit("slow", &rate)}
		for range 60 {
			ok, err := s.Take(t.Context(), 0, h)
			require.NoError(t, err)
			require.True(t, ok)
			time.Sleep(time.Second)
		}
		assert.Less(t, s.metrics.asked.Load(), uint64(12))
		passed := 0
		for range 200 {
			ok, err := other.Take(t.Context(), 0, h)
			require.NoError(t, err)
			if ok {
				passed++
			}
		}
		assert.GreaterOrEqual(t, passed, 90)
		time.Sleep(2 * holdFor * time.Second)
		h[0].N = 100
		ok, err := other.Take(t.Context(), 0, h)
		require.NoError(t, err)
		assert.True(t, ok, "all of it is there again")
	})
}

// Of a new key a few are leased at once, where that comes free by itself.
func TestNewKeysAreLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLedger().replica(t, Options{Lease: 0.1})
		time.Sleep(time.Second)
		rates := []ratelimit.Rate{ratelimit.NewRate(100, 100, time.Second), ratelimit.NewRate(100, 100, day), ratelimit.NewFixedWindow(100, day)}
		for i, want := range []uint64{1, 2, 2} {
			before := s.metrics.asked.Load()
			for range 2 {
				require.True(t, allowed(t, s, hit("new", &rates[i])))
			}
			assert.Equal(t, want, s.metrics.asked.Load()-before, "limit %d", i)
		}
	})
}

// What is asked before a flush goes to Redis as one.
func TestWhatComesTogetherGoesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		s := l.replica(t, Options{})
		time.Sleep(1100 * time.Millisecond) // between two heartbeats
		rate := ratelimit.NewRate(100, 100, time.Second)
		var asked []*promise
		for i := range 20 {
			p := &promise{told: make(chan struct{})}
			_, done, err := s.Ask(0, []ratelimit.Hit{hit(strconv.Itoa(i), &rate)}, p)
			require.NoError(t, err)
			require.False(t, done)
			asked = append(asked, p)
		}
		time.Sleep(time.Millisecond)
		assert.Zero(t, l.calls)
		s.Flush()
		for _, p := range asked {
			<-p.told
			assert.True(t, p.ok)
		}
		assert.Equal(t, 1, l.calls)
	})
}

// What was asked and not flushed yet is answered when a store ends.
func TestEndsWithWhatIsNotFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := ratelimit.NewRate(100, 100, time.Second)
		p := &promise{told: make(chan struct{})}
		var s *Store
		t.Cleanup(func() { // after it has ended
			<-p.told
			assert.True(t, p.ok)
			s.Flush()
		})
		s = newLedger().replica(t, Options{})
		time.Sleep(1100 * time.Millisecond)
		_, done, err := s.Ask(0, []ratelimit.Hit{hit("k", &rate)}, p)
		require.NoError(t, err)
		require.False(t, done)
	})
}

// Redis is asked a few times a second about a sliding window that is used up, not for each request that passes.
func TestSlidingWindowsThatAreUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLedger().replica(t, Options{Lease: 0.1})
		time.Sleep(time.Second)
		rate := ratelimit.NewSlidingWindow(500, time.Second)
		h := []ratelimit.Hit{hit("sliding", &rate)}
		passed := 0
		for range 10_000 { // in ten seconds
			ok, err := s.Take(t.Context(), 0, h)
			require.NoError(t, err)
			if ok {
				passed++
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("%d passed, %d asked", passed, s.metrics.asked.Load())
		assert.Greater(t, passed, 4500)
		assert.Less(t, s.metrics.asked.Load(), uint64(400))
	})
}

// possible is how many may pass of one key.
func possible(r *ratelimit.Rate, start time.Time, run time.Duration) float64 {
	if r.Algorithm() == ratelimit.GCRA {
		num, den := r.Interval()
		return float64(r.Limit()) + float64(run)*float64(den)/float64(num)
	}
	from, _ := r.Window(start.UnixNano())
	_, to := r.Window(start.Add(run).UnixNano() - 1) // else one more would count that has not begun
	windows := max(1, float64(to-from)/float64(r.Per()))
	if r.Months() > 0 {
		windows = 1
	}
	return float64(r.Limit()) * windows
}
