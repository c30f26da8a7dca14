package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tally is a limiter of one key as one would write it on paper, in whole numbers.
type tally struct {
	interval, burst int64 // of a GCRA in units; interval 0: it counts in windows
	at              int64 // theoretical arrival, in units
	per, limit      int64 // of windows, in nanoseconds
	sliding         bool
	counts          map[int64]int64 // by the end of the window
}

// room is how many single requests would pass at now.
func (t *tally) room(now int64) int64 {
	if t.interval > 0 {
		return (now*unit + t.burst*t.interval - max(t.at, now*unit)) / t.interval
	}
	end := now - now%t.per + t.per
	used := t.counts[end]
	if t.sliding {
		used += (t.counts[end-t.per]*(end-now) + t.per - 1) / t.per
	}
	return t.limit - min(used, t.limit)
}

func (t *tally) take(now, n int64) {
	if t.interval > 0 {
		t.at = max(t.at, now*unit) + n*t.interval
		return
	}
	end := now - now%t.per + t.per
	t.counts[end] += n
	for e := range t.counts {
		if e < end-t.per {
			delete(t.counts, e)
		}
	}
}

// numberedTally gives each key a rate, and the paper for it.
func numberedTally(key int) (*tally, Rate) {
	switch key % 4 {
	case 0:
		return &tally{interval: 1e9 * unit / 7, burst: 7}, NewRate(7, 7, time.Second)
	case 1:
		return &tally{interval: 1e6 * unit / 11, burst: 50}, NewRate(11, 50, time.Millisecond)
	case 2:
		return &tally{per: 1e9, limit: 30, counts: map[int64]int64{}}, NewFixedWindow(30, time.Second)
	default:
		return &tally{per: 2e9, limit: 40, sliding: true, counts: map[int64]int64{}}, NewSlidingWindow(40, 2*time.Second)
	}
}

// call is what a worker asked at an instant.
type call struct {
	keys   []int
	n      int64
	passed bool
}

// At each instant of virtual time many goroutines ask at once, by up to three keys. All of an instant only uses up. So
// the answers are those of some order if no key has given more than it had, and each request that was refused asked
// for a key that has less than it wants when the instant is over.
func TestGoroutinesAgreeWithPaper(t *testing.T) {
	const keys, workers, instants, each = 3000, 8, 1500, 100
	synctest.Test(t, func(t *testing.T) {
		m, start := NewMemory(2*keys), time.Now().Add(-time.Hour) // so that units fit
		tallies, rates := make([]*tally, keys), make([]Rate, keys)
		for k := range keys {
			tallies[k], rates[k] = numberedTally(k)
		}
		random := rand.New(rand.NewPCG(5, 6))
		refused := 0
		for instant := range instants {
			asked := make([][]call, workers)
			now := int64(time.Since(start))
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() { asked[w] = askAll(t, m, rates, now, uint64(instant*workers+w), each) })
			}
			wg.Wait()
			refused += check(t, tallies, now, asked, fmt.Sprintf("instant %d", instant))
			if t.Failed() {
				return
			}
			time.Sleep(time.Duration(random.Int64N(int64(1) << random.IntN(30))))
		}
		total := workers * instants * each
		assert.Greater(t, refused, total/10)
		assert.Less(t, refused, total*9/10)
		assert.Zero(t, m.Stats(0).Evictions)
	})
}

// askAll asks by random keys, hot ones as a rule.
func askAll(t *testing.T, m *Memory, rates []Rate, now int64, seed uint64, n int) []call {
	random := rand.New(rand.NewPCG(seed, 7))
	zipf := rand.NewZipf(random, 1.1, 4, uint64(len(rates)-1))
	var hits []Hit
	out := make([]call, n)
	for i := range out {
		r := &out[i]
		hits, r.n = hits[:0], 1+random.Int64N(2)
		for range 1 + random.IntN(6)/4*2 { // one, or three
			k := int(zipf.Uint64())
			r.keys = append(r.keys, k)
			hits = append(hits, Hit{Key: numbered(uint64(k)), Rate: &rates[k], N: uint64(r.n)})
		}
		r.passed, _ = m.Take(t.Context(), now, hits)
	}
	return out
}

// check holds an instant against paper, writes it down, and gives how many were refused.
func check(t *testing.T, tallies []*tally, now int64, asked [][]call, when string) (refused int) {
	for _, requests := range asked {
		for _, r := range requests {
			for _, k := range r.keys {
				if r.passed {
					require.LessOrEqual(t, r.n, tallies[k].room(now), "%s: key %d has given too much", when, k)
					tallies[k].take(now, r.n)
				}
			}
		}
	}
	for _, requests := range asked {
		for _, r := range requests {
			if r.passed {
				continue
			}
			refused++
			short := false
			for i, k := range r.keys {
				n := r.n
				for _, o := range r.keys[:i] {
					if o == k {
						n += r.n
					}
				}
				short = short || tallies[k].room(now) < n
			}
			require.True(t, short, "%s: %+v was refused without a reason", when, r)
		}
	}
	return refused
}
