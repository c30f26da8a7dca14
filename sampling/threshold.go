// Package sampling is the arithmetic of keeping a share of all traces: consistent probability as OpenTelemetry
// specifies it, and the rates that the policy documents give.
//
// A trace id carries 56 random bits; a rate is a [Threshold] below which they are dropped. Two decisions on one
// trace therefore nest, wherever they are made: what is kept at a lower rate is kept at every higher one, and spans
// of one trace judged at one rate are kept or dropped together. The threshold travels in the span's tracestate
// (ot=th:…), so that whoever counts later knows how many spans a kept one stands for.
//
// The package keeps no traces, holds no clock and starts no goroutines.
//
// See https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/.
package sampling

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

const (
	hexDigits = 14 // of 56 bits
	precision = 4  // hex digits of a threshold that say something: 0.0015 % off at most, 0.01 % of the rate
)

// Threshold says which traces are kept: those whose randomness is not below it. Zero keeps all of them, and
// [Never] none; there is nothing above Never.
type Threshold uint64

const (
	// Always keeps every trace.
	Always Threshold = 0
	// Never keeps no trace.
	Never Threshold = 1 << 56
)

// FromPercent gives the threshold that keeps p per cent of all traces, rounded so that it is short to write. All
// of them are kept from 100 on, and none at 0 or less.
func FromPercent(p float64) Threshold {
	switch {
	case p >= 100:
		return Always
	case !(p > 0): // NaN is no rate either
		return Never
	}
	share := p / 100
	exact := uint64(Never) - uint64(math.Round(share*float64(Never)))
	shift := 4 * (hexDigits - digitsFor(share))
	if shift == 0 {
		return min(Threshold(exact), Never-1)
	}
	return Threshold((exact + 1<<(shift-1)) >> shift << shift)
}

// digitsFor gives how many hex digits the threshold of a share needs: those that are all f or all 0 in front say
// nothing, and are not counted.
func digitsFor(share float64) int {
	_, small := math.Frexp(share)
	_, large := math.Frexp(1 - share)
	return min(hexDigits, precision+max(-small/4, -large/4))
}

// Keep says whether a trace with that randomness is kept.
func (t Threshold) Keep(r Randomness) bool { return uint64(r) >= uint64(t) }

// Probability is the share of traces that are kept, from 0 to 1.
func (t Threshold) Probability() float64 { return float64(Never-t) / float64(Never) }

// AdjustedCount is how many spans one kept span stands for; 0 where none is kept.
func (t Threshold) AdjustedCount() float64 {
	if t >= Never {
		return 0
	}
	return float64(Never) / float64(Never-t)
}

// String gives the threshold as it stands in a tracestate: up to 14 hex digits without trailing zeros. Never
// cannot be written there, and gives "".
func (t Threshold) String() string {
	switch {
	case t >= Never:
		return ""
	case t == Always:
		return "0"
	}
	// The 1 in front, which makes leading zeros stand, is cut off again.
	return strings.TrimRight(strconv.FormatUint(uint64(t|Never), 16)[1:], "0")
}

// ParseThreshold reads a threshold as a tracestate has it.
func ParseThreshold(s string) (Threshold, bool) {
	if s == "" || len(s) > hexDigits {
		return 0, false
	}
	v, ok := parseHex(s)
	return Threshold(v << (4 * (hexDigits - len(s)))), ok
}

// Randomness is 56 random bits that all spans of a trace share.
type Randomness uint64

// FromTraceID takes the randomness from the last seven bytes of a trace id. Those of a UUID version 4 are all
// random: version and variant stand in bytes 6 and 8, before them.
func FromTraceID(id [16]byte) Randomness {
	return Randomness(binary.BigEndian.Uint64(id[8:]) & (uint64(Never) - 1))
}

// ParseRandomness reads explicit randomness (rv) as a tracestate has it: 14 hex digits exactly.
func ParseRandomness(s string) (Randomness, bool) {
	if len(s) != hexDigits {
		return 0, false
	}
	v, ok := parseHex(s)
	return Randomness(v), ok
}

// parseHex reads lower case hex digits only, as the specification wants; s is at most 14 long.
func parseHex(s string) (uint64, bool) {
	var v uint64
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}
