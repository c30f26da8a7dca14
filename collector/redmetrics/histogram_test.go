package redmetrics

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/pdata/pmetric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// The histogram of OpenTelemetry's SDK, whose counts are whole, is held against ours.
func TestHistogramIsTheSDKs(t *testing.T) {
	for name, values := range map[string][]float64{
		"one":     {0.25},
		"powers":  {1, 2, 4, 8, 1 << 20, 0.5, 1.0 / 1024, 2},
		"zeros":   {0, 0, 1},
		"close":   {1, 1.0000001, 1.0000002, 1.1},
		"falling": {100, 10, 1, 0.1, 0.01, 0.001, 1e-9},
		"rising":  {1e-9, 1e-6, 1e-3, 1, 1e3, 1e6},
		"many":    lognormal(10_000),
	} {
		for _, size := range []int{minBuckets, 20, 160} {
			h := newHistogram(size)
			for _, v := range values {
				h.add(v, 1)
			}
			got := pmetric.NewExponentialHistogramDataPoint()
			h.appendTo(got)
			want := sdkHistogram(t, int32(size), values)
			counts := got.Positive().BucketCounts().AsRaw()
			if got.Scale() != want.Scale || got.Positive().Offset() != want.PositiveBucket.Offset ||
				!slices.Equal(counts, want.PositiveBucket.Counts) || got.ZeroCount() != want.ZeroCount || got.Count() != want.Count {
				t.Errorf("%s in %d buckets: scale %d offset %d %v zero %d; want %d %d %v %d", name, size,
					got.Scale(), got.Positive().Offset(), counts, got.ZeroCount(),
					want.Scale, want.PositiveBucket.Offset, want.PositiveBucket.Counts, want.ZeroCount)
			}
			if math.Abs(got.Sum()-want.Sum) > 1e-9*want.Sum || got.Min() != slices.Min(values) || got.Max() != slices.Max(values) {
				t.Errorf("%s: sum %v from %v to %v", name, got.Sum(), got.Min(), got.Max())
			}
		}
	}
}

func lognormal(n int) []float64 {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]float64, n)
	for i := range out {
		out[i] = 0.02 * math.Exp(rng.NormFloat64())
	}
	return out
}

func sdkHistogram(t *testing.T, size int32, values []float64) metricdata.ExponentialHistogramDataPoint[float64] {
	t.Helper()
	reader := sdkmetric.NewManualReader(sdkmetric.WithAggregationSelector(func(sdkmetric.InstrumentKind) sdkmetric.Aggregation {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: size, MaxScale: maxScale}
	}))
	h, err := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test").Float64Histogram("h")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		h.Record(context.Background(), v)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	return rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
}

// Fractions add up: of counts that are no whole numbers each bucket is off by half at most, and none ever goes back.
func TestHistogramKeepsFractions(t *testing.T) {
	h, rng := newHistogram(20), rand.New(rand.NewPCG(3, 4))
	exact := 0.0
	var before uint64
	for range 10_000 {
		count := 1 + rng.Float64()
		exact += count
		h.add(math.Exp(rng.NormFloat64()), count)
		p := pmetric.NewExponentialHistogramDataPoint()
		h.appendTo(p)
		if most := float64(len(h.buckets)) / 2; math.Abs(float64(p.Count())-exact) > most {
			t.Fatalf("%d where %v spans were counted", p.Count(), exact)
		}
		if p.Count()+uint64(len(h.buckets)) < before { // buckets that come together may round once less
			t.Fatalf("%d after %d", p.Count(), before)
		}
		before = p.Count()
	}
}
