package sampling

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

const (
	vendor     = "ot"
	maxMembers = 32  // of a tracestate; W3C lets the last ones go first
	maxValue   = 256 // bytes of a member's value
)

// State is what the ot member of a tracestate says of sampling. What is missing or malformed is not there.
type State struct {
	Threshold     Threshold
	HasThreshold  bool
	Randomness    Randomness
	HasRandomness bool
}

// ParseState reads the ot member of a tracestate.
func ParseState(tracestate string) State {
	var s State
	for field := range strings.SplitSeq(member(tracestate), ";") {
		name, value, _ := strings.Cut(field, ":")
		switch name {
		case "th":
			s.Threshold, s.HasThreshold = ParseThreshold(value)
		case "rv":
			s.Randomness, s.HasRandomness = ParseRandomness(value)
		}
	}
	return s
}

// RandomnessOf is what decides on the trace: explicit randomness, or else the trace id's.
func (s State) RandomnessOf(traceID [16]byte) Randomness {
	if s.HasRandomness {
		return s.Randomness
	}
	return FromTraceID(traceID)
}

// AdjustedCount is how many spans one with this state stands for: 1 where nothing, or nothing true, is said of a threshold.
func (s State) AdjustedCount(r Randomness) float64 {
	if s.HasThreshold && s.Threshold.Keep(r) {
		return s.Threshold.AdjustedCount()
	}
	return 1
}

// Final is the threshold of a span which others may have sampled before: the higher of theirs and ours. Theirs is
// ignored where it contradicts itself, because the span would not have come through it.
func (s State) Final(ours Threshold, r Randomness) Threshold {
	if s.HasThreshold && s.Threshold.Keep(r) {
		return max(ours, s.Threshold)
	}
	return ours
}

// WithThreshold gives the tracestate with the threshold written into its ot member, which comes to stand first as
// W3C wants of a changed one. Everything else stays, other vendors' members included. [Never] takes it out.
func WithThreshold(tracestate string, t Threshold) string {
	if tracestate == "" { // the usual case
		if t >= Never {
			return ""
		}
		return vendor + "=th:" + t.String()
	}
	if t >= Never {
		return with(tracestate, newMember(member(tracestate)))
	}
	return with(tracestate, newMember(member(tracestate), "th:"+t.String()))
}

// with puts another ot member in the place of the old one, or none for "".
func with(tracestate, ours string) string {
	var b strings.Builder
	b.Grow(len(tracestate) + 1 + len(ours))
	b.WriteString(ours)
	members := min(b.Len(), 1)
	for m := range strings.SplitSeq(tracestate, ",") {
		m = strings.Trim(m, " \t")
		if key, _, _ := strings.Cut(m, "="); m == "" || key == vendor || members == maxMembers {
			continue
		}
		if members++; b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(m)
	}
	return b.String()
}

// newMember is the ot member with our fields before what else the old one said. There is no threshold but ours.
func newMember(old string, ours ...string) string {
	fields, size := ours, (hexDigits+len("th:"))*max(len(ours), 1)
	for field := range strings.SplitSeq(old, ";") {
		name, _, ok := strings.Cut(field, ":")
		if !ok || name == "th" || name == "rv" && len(ours) > 1 || size+1+len(field) > maxValue { // ours, malformed or too much
			continue
		}
		size += 1 + len(field)
		fields = append(fields, field)
	}
	if len(fields) == 0 {
		return ""
	}
	return vendor + "=" + strings.Join(fields, ";")
}

// member gives the value of the ot member, or "".
func member(tracestate string) string {
	for m := range strings.SplitSeq(tracestate, ",") {
		if key, value, _ := strings.Cut(strings.Trim(m, " \t"), "="); key == vendor {
			return value
		}
	}
	return ""
}

// Independent is the state of a span that was kept at a threshold by chance, and not by its randomness: by SDKs' samplers,
// which look at other bits of the trace id or in another order, and by proxies, which look at the request's id. It gives
// randomness that does agree with the threshold: evenly spread above it, and the same for all spans of a trace that came
// through the same threshold. Later stages that decide by it therefore don't sample twice, and counts stay true. A state
// that has a threshold already stays.
func (s State) Independent(t Threshold, traceID [16]byte) State {
	if s.HasThreshold || t >= Never {
		return s
	}
	r := uint64(mixed(traceID))
	if s.HasRandomness {
		r = uint64(s.Randomness)
	}
	high, low := bits.Mul64(r, uint64(Never-t))
	return State{Threshold: t, HasThreshold: true, Randomness: Randomness(uint64(t) + (high<<8 | low>>56)), HasRandomness: true}
}

// mixed is 56 bits to which all bits of a trace id contribute, so that they say nothing of whatever else was decided by
// some of them. It is the finalizer of MurmurHash3, once for each half.
func mixed(traceID [16]byte) Randomness {
	h := finalize(binary.BigEndian.Uint64(traceID[8:]))
	return Randomness(finalize(h^binary.BigEndian.Uint64(traceID[:8])) >> 8)
}

func finalize(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// WithRandomness gives the tracestate with the threshold and explicit randomness written into it.
func WithRandomness(tracestate string, t Threshold, r Randomness) string {
	return with(tracestate, newMember(member(tracestate), "th:"+t.String(), fmt.Sprintf("rv:%014x", uint64(r))))
}
