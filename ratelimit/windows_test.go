package ratelimit

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// paper counts the hits of each window as one would on paper, and weighs them in rational numbers.
type paper struct {
	counts  map[int64]int64 // by the end of the window
	limit   int64
	sliding bool
}

// used is what counts at now, rounded up, in the window from start to end.
func (p paper) used(now, start, end int64) int64 {
	used := p.counts[end]
	if p.sliding {
		weight := big.NewRat(end-now, end-start)
		weight.Mul(weight, new(big.Rat).SetInt64(p.counts[start]))
		used += int64(ceilRat(weight))
	}
	return used
}

func (p paper) decide(now, start, end int64, kind Kind, n int64) (allowed bool, remaining int64) {
	used := p.used(now, start, end)
	allowed = used+max(n, 1) <= p.limit
	switch {
	case kind == Refund:
		allowed = true
		here := min(n, p.counts[end])
		p.counts[end] -= here
		if p.sliding {
			p.counts[start] -= min(n-here, p.counts[start])
		}
	case kind == Charge:
		allowed = used+n <= p.limit
		p.counts[end] += n
	case allowed:
		p.counts[end] += n
	}
	return allowed, p.limit - min(p.used(now, start, end), p.limit)
}

func TestWindowsAgreeWithPaper(t *testing.T) {
	for name, rate := range map[string]Rate{
		"7 a second":       NewFixedWindow(7, time.Second),
		"3 in 30 seconds":  NewFixedWindow(3, 30*time.Second),
		"0 an hour":        NewFixedWindow(0, time.Hour),
		"5 a month":        NewCalendarWindow(5, 1),
		"9 a year":         NewCalendarWindow(9, 12),
		"7 in any second":  NewSlidingWindow(7, time.Second),
		"40 in any 5 min":  NewSlidingWindow(40, 5*time.Minute),
		"1 in any day":     NewSlidingWindow(1, day),
		"1e9 in any month": NewSlidingWindow(1e9, 30*day),
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			model := paper{counts: map[int64]int64{}, limit: int64(rate.Limit()), sliding: rate.Algorithm() == SlidingWindow}
			now, at := someday, Arrival{}
			for i := range 100_000 {
				kind, n := Take, random.Int64N(4)
				switch random.IntN(12) {
				case 0:
					kind = Charge
				case 1:
					kind = Refund
				}
				start, end := rate.Window(now)
				require.LessOrEqual(t, start, now)
				require.Less(t, now, end)
				allowed, remaining := model.decide(now, start, end, kind, n)
				before := at
				var d Decision
				at, d = rate.Decide(at, now, kind, uint64(n))
				require.Equal(t, allowed, d.Allowed, "question %d, kind %d, %d at %d of %d", i, kind, n, now, end)
				require.Equal(t, remaining, int64(d.Remaining), "question %d, kind %d, %d", i, kind, n)
				if kind == Take && !allowed && uint64(n) <= rate.Limit() && rate.Limit() > 0 {
					_, then := rate.Decide(before, now+int64(d.RetryAfter), Take, uint64(n))
					require.True(t, then.Allowed, "question %d: %d after %s", i, n, d.RetryAfter)
					_, then = rate.Decide(before, now+int64(d.RetryAfter)-1, Take, uint64(n))
					require.False(t, then.Allowed, "question %d: %d just before %s", i, n, d.RetryAfter)
				}
				switch random.IntN(20) {
				case 0:
					now = end // to the nanosecond
				case 1:
					now += random.Int64N(3 * (end - start))
				default:
					now += random.Int64N((end - start) / 8)
				}
				if now > math.MaxInt64/2 {
					now, at = someday, Arrival{}
					clear(model.counts)
				}
			}
		})
	}
}

// FuzzDecide: whatever stands there, nothing panics, and no more than the limit pass at once.
func FuzzDecide(f *testing.F) {
	f.Add(int64(0), uint32(0), uint8(0), uint8(0), uint64(1), uint64(5), int64(time.Second))
	f.Add(int64(math.MaxInt64), uint32(math.MaxUint32), uint8(0), uint8(1), uint64(math.MaxUint64), uint64(7), int64(1))
	f.Add(int64(math.MinInt64), uint32(1<<31), uint8(1), uint8(2), uint64(math.MaxUint64), uint64(0), int64(math.MaxInt64))
	f.Add(someday+1e9-1, uint32(math.MaxUint32), uint8(2), uint8(1), uint64(3), uint64(math.MaxUint64), int64(time.Hour))
	f.Fuzz(func(t *testing.T, ns int64, frac uint32, algorithm, kind uint8, n, requests uint64, per int64) {
		rate := []Rate{
			NewRate(requests, requests, time.Duration(per)), NewFixedWindow(requests, time.Duration(per)),
			NewSlidingWindow(requests, time.Duration(per)), NewCalendarWindow(requests, int(per&0xfff)), NewUnlimited(),
		}[algorithm%5]
		at, d := rate.Decide(Arrival{ns, frac}, someday, Kind(kind%3), n)
		require.LessOrEqual(t, d.Remaining, rate.Limit())
		require.False(t, Kind(kind%3) == Take && d.Allowed && n > rate.Limit())
		if rate.Algorithm() != Unlimited {
			_, d = rate.Decide(at, someday, Take, d.Remaining+1)
			require.False(t, d.Allowed)
		}
	})
}
