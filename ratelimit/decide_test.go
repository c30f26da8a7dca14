package ratelimit

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/mesh"
)

const day = 24 * time.Hour

// reference is the textbook: the same algorithm in rational numbers, for one key.
type reference struct {
	interval, window, at *big.Rat
}

func newReference(requests, burst uint64, per time.Duration) *reference {
	interval := new(big.Rat).SetFrac(big.NewInt(int64(per)), new(big.Int).SetUint64(requests))
	n := new(big.Rat).SetInt(new(big.Int).SetUint64(burst))
	return &reference{interval: interval, window: n.Mul(n, interval), at: new(big.Rat)}
}

func (r *reference) decide(now int64, n uint64) Decision {
	t := new(big.Rat).SetInt64(now)
	full := new(big.Rat).Add(t, r.window)
	start := r.at
	if start.Cmp(t) < 0 {
		start = t
	}
	room := func() uint64 {
		left := new(big.Rat).Sub(full, start)
		left.Quo(left, r.interval)
		return new(big.Int).Quo(left.Num(), left.Denom()).Uint64()
	}
	next := new(big.Rat).SetInt(new(big.Int).SetUint64(max(n, 1)))
	next.Add(next.Mul(next, r.interval), start)
	d := Decision{Allowed: next.Cmp(full) <= 0}
	switch {
	case !d.Allowed:
		d.RetryAfter = ceilRat(new(big.Rat).Sub(next, full))
	case n > 0:
		start, r.at = next, next
	}
	d.Reset, d.Remaining = ceilRat(new(big.Rat).Sub(start, t)), room()
	return d
}

func ceilRat(r *big.Rat) time.Duration {
	q, m := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return time.Duration(q.Int64())
}

func TestDecideAgreesWithRationalNumbers(t *testing.T) {
	for _, c := range []struct {
		requests, burst uint64
		per             time.Duration
	}{
		{7, 7, time.Second},
		{3, 3, time.Hour},
		{3, 1, time.Hour},
		{1, 1, day},
		{1000, 200, time.Minute},
		{1_000_000, 1_000_000, time.Second},
		{999_983, 17, time.Second},
		{999_999_937, 1000, time.Second},
		{4_294_967_291, 3, day},
		{math.MaxUint32 + 1, 100, day},
	} {
		t.Run(fmt.Sprintf("%d per %s burst %d", c.requests, c.per, c.burst), func(t *testing.T) {
			random := rand.New(rand.NewPCG(c.requests, c.burst))
			rate, want := NewRate(c.requests, c.burst, c.per), newReference(c.requests, c.burst, c.per)
			interval := float64(c.per) / float64(c.requests)
			now, at := int64(1_795_000_000_000_000_000), Arrival{}
			for i := range 20_000 {
				n := uint64(1)
				if random.IntN(4) == 0 {
					n = random.Uint64N(min(c.burst, 9) + 1)
				}
				w := want.decide(now, n)
				var d Decision
				at, d = rate.Decide(at, now, Take, n)
				require.Equal(t, w, d, "question %d, %d at %d", i, n, now)
				switch random.IntN(8) {
				case 0: // nobody asks for long
					now += int64(random.Float64() * interval * float64(c.burst) * 1.5)
				case 1: // to the nanosecond when it would be allowed, and just before
					now += max(int64(d.RetryAfter)-random.Int64N(2), 0)
				default:
					now += int64(random.ExpFloat64() * interval)
				}
			}
		})
	}
}

// Whoever always asks for more gets the burst and then the rate, to the request, however long.
func TestLongRunsDoNotDrift(t *testing.T) {
	for _, c := range []struct {
		requests uint64
		per      time.Duration
		pers     int64
	}{{7, time.Second, 100_000}, {3, time.Hour, 200_000}, {1_000_000, time.Second, 2}, {999_983, time.Second, 2}, {11, day, 36_500}} {
		const burst = 3
		rate := NewRate(c.requests, burst, c.per)
		random := rand.New(rand.NewPCG(c.requests, 1))
		start, at, allowed := int64(1_795_000_000_000_000_000), Arrival{}, uint64(0)
		end := start + int64(c.per)*c.pers
		for now := start; ; now = min(now+1+random.Int64N(int64(c.per)/int64(c.requests)), end) {
			for d := (Decision{Allowed: true}); d.Allowed; {
				if at, d = rate.Decide(at, now, Take, 1); d.Allowed {
					allowed++
				}
			}
			if now == end {
				break
			}
		}
		assert.Equal(t, burst+c.requests*uint64(c.pers), allowed, "%d per %s", c.requests, c.per)
	}
}

func TestRefusals(t *testing.T) {
	now := int64(1_795_000_000_000_000_000)
	none := NewRate(0, 0, time.Minute)
	for _, n := range []uint64{0, 1, math.MaxUint64} {
		_, d := none.Decide(Arrival{}, now, Take, n)
		assert.Equal(t, Decision{RetryAfter: time.Minute, Reset: time.Minute}, d)
	}
	_, d := (&Rate{}).Decide(Arrival{}, now, Take, 1)
	assert.False(t, d.Allowed)

	few := NewRate(10, 10, time.Second)
	_, d = few.Decide(Arrival{}, now, Take, 11)
	assert.Equal(t, Decision{Remaining: 10, RetryAfter: time.Second}, d, "more than ever is allowed at once")
	at, d := few.Decide(Arrival{}, now, Take, 10)
	assert.Equal(t, Decision{Allowed: true, Reset: time.Second}, d)
	_, d = few.Decide(at, now, Take, math.MaxUint64)
	assert.False(t, d.Allowed)
	_, d = few.Decide(at, now, Take, 3)
	assert.Equal(t, Decision{RetryAfter: 300 * time.Millisecond, Reset: time.Second}, d)
}

func TestExtremes(t *testing.T) {
	now := int64(1_795_000_000_000_000_000)
	for _, requests := range []uint64{1, 1_000, math.MaxUint32 + 14, math.MaxUint64} {
		for _, burst := range []uint64{0, 1, 1_000_000, math.MaxUint64} {
			for _, per := range []time.Duration{1, time.Second, day, math.MaxInt64} {
				rate := NewRate(requests, burst, per)
				at, d := rate.Decide(Arrival{}, now, Take, rate.limit)
				require.True(t, d.Allowed, "%d per %s, burst %d", requests, per, burst)
				_, d = rate.Decide(at, now, Take, 1)
				require.False(t, d.Allowed, "%d per %s, burst %d", requests, per, burst)
				require.Positive(t, d.RetryAfter)
				_, d = rate.Decide(at, now+int64(d.RetryAfter), Take, 1)
				require.True(t, d.Allowed, "%d per %s, burst %d", requests, per, burst)
			}
		}
	}
	tight := NewRate(4_294_967_311, 4_294_967_311, day) // a prime above 2^32
	assert.GreaterOrEqual(t, float64(tight.num)/float64(tight.den), float64(day)/4_294_967_311)
	assert.InEpsilon(t, float64(day)/4_294_967_311, float64(tight.num)/float64(tight.den), 1e-9)
}

func TestChangedLimitKeepsWhatWasUsed(t *testing.T) {
	now := int64(1_795_000_000_000_000_000)
	slow, fast := NewRate(1000, 1000, day), NewRate(7, 7, time.Second)
	at, d := slow.Decide(Arrival{}, now, Take, 1000)
	require.True(t, d.Allowed)
	at, d = fast.Decide(at, now, Take, 1)
	assert.False(t, d.Allowed, "used up stays used up")
	assert.Equal(t, time.Duration(142_857_143), d.RetryAfter, "but a day of waiting does not come along")
	_, d = fast.Decide(at, now+142_857_143, Take, 1)
	assert.True(t, d.Allowed)

	at, d = fast.Decide(Arrival{}, now, Take, 5)
	require.True(t, d.Allowed)
	whole := NewRate(100, 100, time.Second)
	_, d = whole.Decide(at, now, Take, 1)
	assert.True(t, d.Allowed)
}

func BenchmarkDecide(b *testing.B) {
	rate := NewRate(7_000_003, 1000, time.Second)
	now, at, d := int64(1_795_000_000_000_000_000), Arrival{}, Decision{}
	b.ReportAllocs()
	for b.Loop() {
		at, d = rate.Decide(at, now, Take, 1)
		now += 100
	}
	_ = d
}

// TestEver: a limit in all gives back as good as nothing.
func TestEver(t *testing.T) {
	for _, n := range []uint64{1, 500, 1_000_000_000} {
		rate := NewRate(n, n, mesh.Ever)
		now := time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC).UnixNano()
		at, d := rate.Decide(Arrival{}, now, Take, n)
		if !d.Allowed || d.Remaining != 0 {
			t.Errorf("%d at once: %+v", n, d)
		}
		if _, d = rate.Decide(at, now, Take, 1); d.Allowed {
			t.Errorf("one more than %d passes", n)
		}
		if _, d = rate.Decide(at, now+int64(24*time.Hour), Take, 0); d.Remaining > n/20_000 {
			t.Errorf("after a day %d of %d pass again", d.Remaining, n)
		}
	}
}
