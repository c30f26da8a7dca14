package sampling

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// TestUnbiased sends ten million spans of 200 skewed operations through three stages (an SDK's, Envoy's and the
// collector's, each of which knows of the others only what the tracestate says), and holds the sums of adjusted counts
// against the truth by a chi-square test over all operations at p = 0.001.
func TestUnbiased(t *testing.T) {
	const (
		operations = 200
		critical   = 267.54 // of chi-square with 200 degrees of freedom
	)
	spans := 10_000_000
	if raceDetector {
		spans /= 20
	}
	r := rand.New(rand.NewPCG(5, 6))
	zipf := rand.NewZipf(r, 1.05, 2, operations-1)
	var stages [operations][3]Threshold
	for i := range stages {
		for j := range stages[i] {
			stages[i][j] = FromPercent(5 + 95*r.Float64())
		}
	}
	for name, through := range map[string]int{"one stage": 1, "three stages": 3} {
		t.Run(name, func(t *testing.T) {
			var truth, sum [operations]float64
			var id [16]byte
			for range spans {
				i := zipf.Uint64()
				truth[i]++
				binary.BigEndian.PutUint64(id[8:], r.Uint64())
				state := ""
				kept := true
				for _, own := range stages[i][:through] {
					s := State{}
					if state != "" {
						s = ParseState(state)
					}
					randomness := s.RandomnessOf(id)
					final := s.Final(own, randomness)
					if kept = final.Keep(randomness); !kept {
						break
					}
					state = WithThreshold(state, final)
				}
				if kept {
					sum[i] += ParseState(state).Threshold.AdjustedCount()
				}
			}
			square := 0.0
			for i := range truth {
				p := max(stages[i][0], func() Threshold {
					if through == 1 {
						return 0
					}
					return max(stages[i][1], stages[i][2])
				}()).Probability()
				if variance := truth[i] * (1/p - 1); variance > 0 {
					square += (sum[i] - truth[i]) * (sum[i] - truth[i]) / variance
				}
			}
			t.Logf("chi-square %.1f, critical %.1f", square, critical)
			if square > critical {
				t.Errorf("adjusted counts are biased: chi-square %.1f", square)
			}
		})
	}
}

// TestUUIDs: what is fixed in a UUID of version 4 decides on nothing.
func TestUUIDs(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const spans = 200_000
	for _, percent := range []float64{1, 25, 50, 90} {
		threshold, kept := FromPercent(percent), 0.0
		for range spans {
			var id [16]byte
			binary.BigEndian.PutUint64(id[:], r.Uint64())
			binary.BigEndian.PutUint64(id[8:], r.Uint64())
			id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
			if threshold.Keep(FromTraceID(id)) {
				kept++
			}
		}
		p := threshold.Probability()
		if off := kept - p*spans; off*off > 10.83*spans*p*(1-p) { // chi-square, one degree of freedom, p = 0.001
			t.Errorf("%v per cent: %.0f of %d are kept", percent, kept, spans)
		}
	}
}

// TestChanceIsCountedToo: traces that were sampled by chance at the source, by other bits of the trace id or by none of
// them, are sampled once in all, and their adjusted counts add up.
func TestChanceIsCountedToo(t *testing.T) {
	const n = 100_000
	random := rand.New(rand.NewPCG(21, 22))
	for name, sdk := range map[string]func(id [16]byte, p float64) bool{
		"Go, Java: the lowest":   func(id [16]byte, p float64) bool { return float64(binary.BigEndian.Uint64(id[8:])>>1) < p*(1<<63) },
		"another half":           func(id [16]byte, p float64) bool { return float64(binary.BigEndian.Uint64(id[:8])) < p*(1<<64) },
		"dice":                   func(_ [16]byte, p float64) bool { return random.Float64() < p },
		"our own bits, reversed": func(id [16]byte, p float64) bool { return !FromPercent(100 - 100*p).Keep(FromTraceID(id)) },
	} {
		for _, p := range []float64{0.5, 0.1, 0.01} {
			for _, rate := range []float64{100, 30, 2} {
				sum, kept := 0.0, 0
				for range n {
					var id [16]byte
					binary.BigEndian.PutUint64(id[:8], random.Uint64())
					binary.BigEndian.PutUint64(id[8:], random.Uint64())
					if !sdk(id, p) {
						continue
					}
					chance, ours := FromPercent(100*p), FromPercent(rate)
					s := State{}.Independent(chance, id)
					final := s.Final(ours, s.Randomness)
					if final < chance || !s.Threshold.Keep(s.Randomness) {
						t.Fatalf("%s: %+v and %s give %s", name, s, ours, final)
					}
					written := ParseState(WithRandomness("ot=x:y", final, s.Randomness))
					if written.Threshold != final || written.Randomness != s.Randomness {
						t.Fatalf("%+v is read as %+v", s, written)
					}
					if final.Keep(s.Randomness) {
						kept++
						sum += final.AdjustedCount()
					}
				}
				share := min(p, rate/100) // sampled once
				if off := (sum - n) / (n * math.Sqrt((1-share)/share/n)); math.Abs(off) > 4 {
					t.Errorf("%s at %v and then at %v %%: %.0f counted of %d, %.1f standard errors off", name, p, rate, sum, n, off)
				}
				if off := (float64(kept) - n*share) / math.Sqrt(n*share*(1-share)); math.Abs(off) > 4 {
					t.Errorf("%s at %v and then at %v %%: %d kept, %.1f standard errors off", name, p, rate, kept, off)
				}
			}
		}
	}
}
