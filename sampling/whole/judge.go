// Package whole judges traces as a whole: it holds what has come of each until enough is known, and says once whether
// the trace is kept, by which rule and at which threshold.
//
// Rules look at what a trace did (it failed, it was slow, its operation is rare) and never at its randomness, and they
// are asked before the rate is. A trace that a rule keeps would have been kept whatever its randomness was, so it stands
// for itself alone (threshold 0); any other is kept at its rate and stands for what was dropped. Sums of adjusted counts
// therefore stay unbiased. Late spans follow the decision of their trace at the same threshold, for the same reason.
//
// The package holds no clock and starts no goroutines: now is nanoseconds since 1970, and whoever owns a [Table] calls
// Sweep. Spans are opaque to it.
package whole

import (
	"time"

	"github.com/machinenativeops/weir/sampling"
)

// Rule is what kept or dropped a trace.
type Rule uint8

// In the order in which they are asked.
const (
	None    Rule = iota // nothing is decided
	Marked              // somebody asked for this trace
	Errors              // a span failed
	Slow                // a span, or the trace from its first start to its last end, took too long
	Slowest             // the root took longer than nearly all of its operation did
	Rare                // nothing of its operation was kept for long
	Rate                // its rate decided
)

func (r Rule) String() string {
	return [...]string{"none", "marked", "error", "slow", "slowest", "rare", "rate"}[r]
}

// Rules are what is kept beside the share that rates give. The zero value keeps nothing more.
type Rules struct {
	Errors         bool
	SlowerThan     time.Duration // 0: however slow
	SlowestPercent float64       // of an operation's roots; 0: none
	RarerThan      time.Duration // each operation is kept at least once in so long; 0: it need not be
	Marks          bool          // spans may be marked
	Wait           time.Duration // from a trace's first span until it is judged at the latest
}

// Seen is what is known of a trace, or of the spans of it that came together.
type Seen struct {
	Facts
	Subject
}

// Facts are what is known but for whose they are. They have no pointers: many are held.
type Facts struct {
	Spans      int
	Start, End int64 // the first and the last, nanoseconds since 1970; both 0 where nothing is known
	Longest    time.Duration
	Failed     bool
	Marked     bool

	// Rooted says that the root is among the spans. Then the [Subject], Threshold and Took are the root's; otherwise
	// Threshold is the lowest among the spans, and the Subject that span's.
	Rooted    bool
	Threshold sampling.Threshold
	Stand     float64 // for how many spans these stood when they came
	Took      time.Duration

	Randomness sampling.Randomness
	Chance     sampling.Threshold // at which the root was kept by chance before, which the randomness agrees with
}

// Subject is the operation by which a trace is judged. Operation, which has its history, may be nil. Learnt is nil where rates
// don't move; where they do, the trace is judged by its threshold at that time.
type Subject struct {
	Operation *Operation
	Learnt    *sampling.Operation
}

// Merge adds what came later. The randomness stays what it was, until the root says.
func (s *Seen) Merge(later *Seen) {
	if s.merge(&later.Facts) {
		s.Subject = later.Subject
	}
}

// merge says whether the subject is that of the later from now on.
func (f *Facts) merge(later *Facts) bool {
	if later.Start != 0 || later.End != 0 {
		if f.Start == 0 && f.End == 0 {
			f.Start, f.End = later.Start, later.End
		}
		f.Start, f.End = min(f.Start, later.Start), max(f.End, later.End)
	}
	f.Spans += later.Spans
	f.Stand += later.Stand
	f.Longest = max(f.Longest, later.Longest)
	f.Failed = f.Failed || later.Failed
	f.Marked = f.Marked || later.Marked
	if f.Rooted || !later.Rooted && later.Threshold >= f.Threshold {
		return false
	}
	f.Rooted, f.Threshold, f.Took = later.Rooted, later.Threshold, later.Took
	if later.Rooted {
		f.Randomness, f.Chance = later.Randomness, later.Chance
	}
	return true
}

// Verdict is what becomes of a trace. Rule is None as long as there is none.
type Verdict struct {
	Keep      bool
	Rule      Rule
	Threshold sampling.Threshold
	Chance    sampling.Threshold // at which the trace was kept by chance before
}

// early says what is certain before the wait is over: that a rule keeps the trace, or, where no rule could keep it for
// what may still come, what its root's rate says. A root is taken note of by its operation, so it must be shown once.
func (r *Rules) early(s, arrived *Seen, now int64) Verdict {
	slowest := arrived.Rooted && arrived.Operation.slowest(arrived.Took, r.SlowestPercent, now)
	switch {
	case s.Marked:
		return Verdict{true, Marked, sampling.Always, s.Chance}
	case r.Errors && s.Failed:
		return Verdict{true, Errors, sampling.Always, s.Chance}
	case r.SlowerThan > 0 && (s.Longest > r.SlowerThan || time.Duration(s.End-s.Start) > r.SlowerThan):
		return Verdict{true, Slow, sampling.Always, s.Chance}
	case slowest:
		return Verdict{true, Slowest, sampling.Always, s.Chance}
	case arrived.Rooted && s.Operation.rare(r.RarerThan, now):
		return Verdict{true, Rare, sampling.Always, s.Chance}
	case s.Rooted && !r.Errors && r.SlowerThan == 0 && !r.Marks:
		return r.final(s, now)
	}
	return Verdict{}
}

// final judges by what there is. No rule that needs no waiting holds for the trace: early would have said so.
func (r *Rules) final(s *Seen, now int64) Verdict {
	if !s.Rooted && s.Operation.rare(r.RarerThan, now) {
		return Verdict{true, Rare, sampling.Always, s.Chance}
	}
	threshold := s.Threshold
	if s.Learnt != nil {
		threshold = s.Learnt.Latest().Threshold()
	}
	return Verdict{threshold.Keep(s.Randomness), Rate, threshold, s.Chance}
}
