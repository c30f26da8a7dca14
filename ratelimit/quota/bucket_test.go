package quota

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/machinenativeops/weir/ratelimit"
)

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		total         float64
		demands, want []float64
	}{
		{100, []float64{10, 20}, []float64{45, 55}}, // enough for all, and the rest evenly
		{100, []float64{1000, 10, 1000}, []float64{45, 10, 45}},
		{90, []float64{1000, 1000, 1000}, []float64{30, 30, 30}},
		{0, []float64{1, 2}, []float64{0, 0}},
		{-5, []float64{1}, []float64{0}}, // more is promised to those who have gone
		{100, nil, nil},
	} {
		got := divide(c.total, c.demands)
		if !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("%v among %v: %v, want %v", c.total, c.demands, got, c.want)
		}
	}
}

// TestStrategy: Envoy's buckets fill in whole seconds, with a share that is right by a thousandth.
func TestStrategy(t *testing.T) {
	for _, share := range []float64{1e-5, 0.0003, 0.7, 1, 3.3, 999.9, 123456.7} {
		s := strategy(share, 5.5).GetTokenBucket()
		per := s.GetFillInterval().AsDuration()
		got := float64(s.GetTokensPerFill().GetValue()) / per.Seconds()
		if per < time.Second || per%time.Second != 0 || got > share || got < share*0.998 || s.GetMaxTokens() != 5 {
			t.Errorf("%v a second: %v", share, s)
		}
	}
	if s := strategy(0, 0); s.GetBlanketRule() != typev3.RateLimitStrategy_DENY_ALL {
		t.Errorf("nothing: %v", s)
	}
	if n := strategy(10, 0.2).GetTokenBucket().GetMaxTokens(); n != 1 {
		t.Errorf("a bucket for %d, where no request would ever pass", n)
	}
}

// TestPromises: whoever comes, goes, comes back and needs whatever, no more is ever promised than the limit, and after a
// while all of it is.
func TestPromises(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		now := time.Unix(1e9, 0)
		b := &bucket{parts: make(map[*part]struct{})}
		b.set(ratelimit.Quota{Requests: 1 + r.Uint64N(1e6), Per: time.Minute, Burst: 100})
		told := make(map[*part]time.Time) // what a proxy has been told holds until then
		promises := make(map[*part]float64)
		var live []*part
		for range 400 {
			switch n := r.IntN(10); {
			case n == 0 || len(live) == 0:
				p := b.join([]string{"a", "b", "c"}[r.IntN(3)], now)
				live = append(live, p)
			case n == 1:
				i := r.IntN(len(live))
				b.leave(live[i], r.IntN(2) == 0, now)
				delete(told, live[i])
				live = slices.Delete(live, i, i+1)
			case n < 6:
				b.report(live[r.IntN(len(live))], time.Duration(r.Int64N(int64(20*time.Second))), r.Uint64N(1e6), now)
			default:
				p := live[r.IntN(len(live))]
				if perSecond, _, tell := b.assign(p, now); tell {
					promises[p], told[p] = perSecond, now.Add(p.lifeTime)
				}
			}
			sum := 0.0
			for p := range b.parts {
				sum += p.promised
			}
			if sum > b.total()*(1+1e-9) {
				t.Fatalf("seed %d: %v is promised of %v", seed, sum, b.total())
			}
			for p, until := range told {
				if until.After(now) && math.Abs(promises[p]-p.promised) > 0 {
					t.Fatalf("seed %d: a proxy was told %v and %v is kept in mind", seed, promises[p], p.promised)
				}
			}
			now = now.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
		}
		if len(live) == 0 {
			continue
		}
		now = now.Add(2 * maxLifeTime)
		for range 5 {
			now = now.Add(round)
			for _, p := range live {
				b.assign(p, now)
			}
		}
		sum := 0.0
		for _, p := range live {
			sum += p.promised
		}
		if sum < 0.9*b.total() {
			t.Errorf("seed %d: %v of %v is promised to %d", seed, sum, b.total(), len(live))
		}
	}
}
