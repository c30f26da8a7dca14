package redmetrics

import (
	"math"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// maxScale is where histograms begin. Bucket i of scale s is from above 2^(i/2^s) to 2^((i+1)/2^s): less than a
// millionth wide at 20, where indices of all durations fit into 32 bits.
const maxScale = 20

// histogram is an exponential one, as OpenTelemetry's data model has it, whose buckets count fractions. Its scale goes
// down as far as it takes for all values to be in maxSize buckets. Of values not above 0 it only keeps how many.
type histogram struct {
	maxSize int32
	scale   int32
	first   int32     // index of buckets[0]
	buckets []float64 // Invariant: at most maxSize
	zero    float64
	sum     float64
	low     float64 // the smallest and the largest value; of nothing before the first
	high    float64
}

func newHistogram(maxSize int) *histogram {
	return &histogram{maxSize: int32(maxSize), scale: maxScale}
}

// add counts a value so many times.
func (h *histogram) add(value, count float64) {
	if h.zero == 0 && len(h.buckets) == 0 {
		h.low, h.high = value, value
	}
	h.low, h.high = min(h.low, value), max(h.high, value)
	h.sum += value * count
	if value <= 0 {
		h.zero += count
		return
	}
	i := index(value, h.scale)
	if len(h.buckets) == 0 {
		h.first, h.buckets = i, append(h.buckets, count)
		return
	}
	last := h.first + int32(len(h.buckets)) - 1
	if low, high := min(h.first, i), max(last, i); high-low >= h.maxSize {
		h.coarsen(low, high)
		i = index(value, h.scale)
	}
	h.widen(i)
	h.buckets[i-h.first] += count
}

// coarsen lowers the scale until buckets from low to high are few enough.
func (h *histogram) coarsen(low, high int32) {
	by := int32(0)
	for ; high>>by-low>>by >= h.maxSize; by++ {
	}
	first := h.first >> by
	for i, n := range h.buckets {
		to := (h.first+int32(i))>>by - first
		h.buckets[i] = 0
		h.buckets[to] += n
	}
	last := (h.first + int32(len(h.buckets)) - 1) >> by
	h.buckets = h.buckets[:last-first+1]
	h.first, h.scale = first, h.scale-by
}

// widen makes room for bucket i.
func (h *histogram) widen(i int32) {
	if before := h.first - i; before > 0 {
		h.buckets = append(h.buckets, make([]float64, before)...)
		copy(h.buckets[before:], h.buckets)
		clear(h.buckets[:before])
		h.first = i
	}
	if after := i - h.first - int32(len(h.buckets)) + 1; after > 0 {
		h.buckets = append(h.buckets, make([]float64, after)...)
	}
}

// index is the bucket of a value above 0. Powers of two, which are the upper borders of buckets at every scale, are told
// by their exponents, since logarithms are not exact. OpenTelemetry's data model, "Exponential Buckets".
func index(value float64, scale int32) int32 {
	const size, one = 52, 1023 // of the fraction, and the exponent of 1
	bits := math.Float64bits(value)
	exp, frac := int32(bits>>size)-one, bits&(1<<size-1)
	if frac == 0 {
		return border(exp, scale)
	}
	if scale <= 0 {
		return exp >> -scale
	}
	within := int32(math.Log(math.Float64frombits(one<<size|frac)) * (1 / math.Ln2) * float64(int32(1)<<scale))
	return exp<<scale + min(within, 1<<scale-1)
}

// border is the bucket that ends with 2^exp.
func border(exp, scale int32) int32 {
	if scale <= 0 {
		return (exp - 1) >> -scale
	}
	return exp<<scale - 1
}

// appendTo writes the histogram down. Fractions are rounded, each bucket by itself, so that what is told is never less
// than what was told before, and is off by half at most.
func (h *histogram) appendTo(p pmetric.ExponentialHistogramDataPoint) {
	count := uint64(math.Round(h.zero))
	p.SetZeroCount(count)
	p.SetScale(h.scale)
	p.Positive().SetOffset(h.first)
	to := p.Positive().BucketCounts()
	to.EnsureCapacity(len(h.buckets))
	for _, n := range h.buckets {
		rounded := uint64(math.Round(n))
		to.Append(rounded)
		count += rounded
	}
	p.SetCount(count)
	p.SetSum(h.sum)
	p.SetMin(h.low)
	p.SetMax(h.high)
}
