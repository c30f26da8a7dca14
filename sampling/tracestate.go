package sampling

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"sync/atomic"
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
	for rest := member(tracestate); rest != ""; {
		var field string
		field, rest = cut(rest, ';')
		switch {
		case strings.HasPrefix(field, "th:"):
			s.Threshold, s.HasThreshold = ParseThreshold(field[3:])
		case strings.HasPrefix(field, "rv:"):
			s.Randomness, s.HasRandomness = ParseRandomness(field[3:])
		}
	}
	return s
}

// Reader reads tracestates, and remembers the last: those of spans that come together are mostly alike. The zero value is ready.
type Reader struct {
	text  string
	state State
}

// Read does what [ParseState] does, and keeps the text until the next.
func (r *Reader) Read(tracestate string) State {
	if tracestate != r.text {
		r.text, r.state = tracestate, ParseState(tracestate)
	}
	return r.state
}

// Text is what was read last.
func (r *Reader) Text() string { return r.text }

func cut(s string, at byte) (before, after string) {
	if i := strings.IndexByte(s, at); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
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
	return new(Writer).WithThreshold(tracestate, t)
}

// Writer writes tracestates, many into one piece of memory, so that writing them takes next to no allocations. It is
// for one goroutine at a time.
type Writer struct{ piece strings.Builder }

const pieceSize = 4096

// WithThreshold does what [WithThreshold] does.
func (w *Writer) WithThreshold(tracestate string, t Threshold) string {
	if tracestate == "" { // the usual case
		return alone(t)
	}
	most := len(tracestate) + len("ot=th:;,") + hexDigits
	if w.piece.Cap()-w.piece.Len() < most {
		size := most // of the first, which may be the only one
		if w.piece.Cap() > 0 {
			size = max(most, pieceSize)
		}
		w.piece.Reset() // what was written stays, for who has it
		w.piece.Grow(size)
	}
	from := w.piece.Len()
	w.write(tracestate, t)
	return w.piece.String()[from:]
}

func (w *Writer) write(tracestate string, t Threshold) {
	members := 0
	if w.member(t, member(tracestate)) {
		members++
	}
	for rest := tracestate; rest != ""; {
		var m string
		m, rest = cut(rest, ',')
		m = strings.Trim(m, " \t")
		if key, _, _ := strings.Cut(m, "="); m == "" || key == vendor || members == maxMembers {
			continue
		}
		if members++; members > 1 {
			w.piece.WriteByte(',')
		}
		w.piece.WriteString(m)
	}
}

// member writes the ot member, with the threshold before what else the old one said, if there is anything in it.
func (w *Writer) member(t Threshold, old string) (some bool) {
	next := func() {
		if some {
			w.piece.WriteByte(';')
		} else {
			w.piece.WriteString(vendor + "=")
		}
		some = true
	}
	if t < Never {
		next()
		w.piece.WriteString("th:")
		w.threshold(t)
	}
	size := hexDigits + len("th:")
	for old != "" {
		var field string
		field, old = cut(old, ';')
		name, _, ok := strings.Cut(field, ":")
		if !ok || name == "th" || size+1+len(field) > maxValue { // ours, malformed or too much
			continue
		}
		size += 1 + len(field)
		next()
		w.piece.WriteString(field)
	}
	return some
}

// threshold writes what [Threshold.String] gives.
func (w *Writer) threshold(t Threshold) {
	for shift := 4 * (hexDigits - 1); ; shift -= 4 {
		w.piece.WriteByte("0123456789abcdef"[t>>shift&15])
		if t&(1<<shift-1) == 0 {
			return
		}
	}
}

// texts are tracestates with nothing but a threshold. Few thresholds are in force at once, so that nearly all of them
// are found here, each where its threshold says.
var texts [256]atomic.Pointer[text]

type text struct {
	threshold Threshold
	state     string
}

func alone(t Threshold) string {
	if t >= Never {
		return ""
	}
	place := &texts[uint64(t)*0x9e3779b97f4a7c15>>56]
	if known := place.Load(); known != nil && known.threshold == t {
		return known.state
	}
	state := vendor + "=th:" + t.String()
	place.Store(&text{t, state})
	return state
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
	for tracestate != "" {
		var m string
		m, tracestate = cut(tracestate, ',')
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
