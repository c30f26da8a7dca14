package sampling

import "strings"

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
	var b strings.Builder
	b.Grow(len(tracestate) + len("ot=th:;") + hexDigits)
	b.WriteString(newMember(t, member(tracestate)))
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

// newMember is the ot member with the threshold before what else the old one said.
func newMember(t Threshold, old string) string {
	var fields []string
	if t < Never {
		fields = append(fields, "th:"+t.String())
	}
	size := hexDigits + len("th:")
	for field := range strings.SplitSeq(old, ";") {
		name, _, ok := strings.Cut(field, ":")
		if !ok || name == "th" || size+1+len(field) > maxValue { // ours, malformed or too much
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
