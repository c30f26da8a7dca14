package sampling

import (
	"math/rand/v2"
	"testing"

	contrib "github.com/open-telemetry/opentelemetry-collector-contrib/pkg/sampling"
	"go.opentelemetry.io/collector/pdata/pcommon"
)

// TestAgreesWithContrib holds thresholds, randomness, decisions and counts against the collector's own arithmetic.
func TestAgreesWithContrib(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 200_000 {
		var id [16]byte
		for i := range id {
			id[i] = byte(r.Uint32())
		}
		threshold := Threshold(r.Uint64() >> 8 >> r.IntN(56))
		theirs, err := contrib.UnsignedToThreshold(uint64(threshold))
		if err != nil {
			t.Fatal(err)
		}
		randomness := contrib.TraceIDToRandomness(pcommon.TraceID(id))
		if ours := FromTraceID(id); uint64(ours) != randomness.Unsigned() {
			t.Fatalf("randomness of %x: %x, theirs %x", id, ours, randomness.Unsigned())
		}
		if ours := threshold.Keep(FromTraceID(id)); ours != theirs.ShouldSample(randomness) {
			t.Fatalf("%x at %s: kept %v, theirs %v", id, threshold, ours, !ours)
		}
		if threshold.String() != theirs.TValue() {
			t.Fatalf("%x is written as %s, theirs %s", uint64(threshold), threshold, theirs.TValue())
		}
		if ours := threshold.AdjustedCount(); ours != theirs.AdjustedCount() {
			t.Fatalf("%s stands for %v, theirs %v", threshold, ours, theirs.AdjustedCount())
		}
		if parsed, ok := ParseThreshold(theirs.TValue()); !ok || parsed != threshold {
			t.Fatalf("%s is read as %s", theirs.TValue(), parsed)
		}
	}
	for _, percent := range []float64{0.001, 0.1, 1, 5, 10, 33.3, 50, 90, 99.9, 100} {
		theirs, err := contrib.ProbabilityToThresholdWithPrecision(percent/100, precision)
		if err != nil {
			t.Fatal(err)
		}
		if ours := FromPercent(percent); ours.String() != theirs.TValue() {
			t.Errorf("%v per cent: %s, theirs %s", percent, ours, theirs.TValue())
		}
	}
}
