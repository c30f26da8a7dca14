package whole

import (
	"sync"
	"sync/atomic"
)

// ID is a trace's.
type ID = [16]byte

// Limits bound what a [Table] holds.
type Limits struct {
	Spans, Bytes int // of traces that are not judged
	Decisions    int // remembered for late spans
}

// Shards is among how many parts, each with a lock of its own, a table spreads traces. Each has its part of the limits,
// so that they hold without a word between the shards.
const Shards = 64

// Table holds the traces that are not judged yet. What holds the spans of a trace that came together is a P. Its
// methods may be called from many goroutines.
type Table[P any] struct {
	shards [Shards]shard[P]
}

type shard[P any] struct {
	mu sync.Mutex // guards everything declared below

	spans, bytes       int // Invariant: at most the limits, when mu is free
	maxSpans, maxBytes int
	traces             map[ID]*trace[P]
	oldest, newest     *trace[P] // in the order in which they began

	decided map[ID]Verdict
	order   []ID // of decided, a ring; the next to be forgotten is at next
	next    int

	held atomic.Int64 // spans, to be read without mu
	_    [64]byte     // a cache line to each
}

type trace[P any] struct {
	id            ID
	began         int64
	seen          Seen
	parts         []P
	before, after *trace[P]
}

// Released is a trace, or what came of it late, that is judged.
type Released[P any] struct {
	ID      ID
	Verdict Verdict
	Seen    Seen
	Parts   []P
	Late    bool // the trace was judged before; these spans follow
	Shed    bool // it was judged before its time, for want of room
}

// NewTable makes a table. Each shard has room for one span and one decision at least.
func NewTable[P any](l Limits) *Table[P] {
	t := new(Table[P])
	for i := range t.shards {
		s := &t.shards[i]
		s.maxSpans, s.maxBytes = max(l.Spans/Shards, 1), max(l.Bytes/Shards, 1)
		s.traces, s.decided = map[ID]*trace[P]{}, map[ID]Verdict{}
		s.order = make([]ID, max(l.Decisions/Shards, 1))
	}
	return t
}

func (t *Table[P]) shard(id ID) *shard[P] { return &t.shards[id[15]%Shards] }

// Add takes spans of one trace, and appends to dst what is judged by that: the trace, where a rule keeps it or it was
// judged before, and others that are shed, oldest first, to make room. Spans that a shard has no room for even when it
// is empty are judged at once, by what is known.
func (t *Table[P]) Add(dst []Released[P], rules *Rules, id ID, seen Seen, part P, now int64) []Released[P] {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.decided[id]; ok {
		if seen.Rooted { // its operation is told all the same
			seen.Operation.slowest(seen.Took, rules.SlowestPercent, now)
			if v.Keep {
				seen.Operation.keep(now)
			}
		}
		return append(dst, Released[P]{ID: id, Verdict: v, Seen: seen, Parts: []P{part}, Late: true})
	}
	tr := s.traces[id]
	if tr == nil {
		tr = &trace[P]{id: id, began: now, seen: seen}
		s.link(tr)
	} else {
		tr.seen.Merge(&seen)
	}
	tr.parts = append(tr.parts, part)
	s.count(seen.Spans, seen.Bytes)
	if v := rules.early(&tr.seen, &seen, now); v.Rule != None {
		return append(dst, s.release(tr, v, now))
	}
	for s.spans > s.maxSpans || s.bytes > s.maxBytes {
		oldest := s.oldest
		r := s.release(oldest, rules.final(&oldest.seen, now), now)
		r.Shed = true
		dst = append(dst, r)
	}
	return dst
}

// Sweep judges the traces whose wait is over, and appends them to dst.
func (t *Table[P]) Sweep(dst []Released[P], rules *Rules, now int64) []Released[P] {
	for i := range t.shards {
		dst = t.shards[i].until(dst, rules, now-int64(rules.Wait), now)
	}
	return dst
}

// Flush judges all traces, and appends them to dst.
func (t *Table[P]) Flush(dst []Released[P], rules *Rules, now int64) []Released[P] {
	for i := range t.shards {
		dst = t.shards[i].until(dst, rules, 1<<63-1, now)
	}
	return dst
}

func (s *shard[P]) until(dst []Released[P], rules *Rules, began, now int64) []Released[P] {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tr := s.oldest; tr != nil && tr.began <= began; tr = s.oldest {
		dst = append(dst, s.release(tr, rules.final(&tr.seen, now), now))
	}
	return dst
}

// Held is how many spans wait to be judged.
func (t *Table[P]) Held() (spans int64) {
	for i := range t.shards {
		spans += t.shards[i].held.Load()
	}
	return spans
}

// release takes a trace out and remembers what was decided.
func (s *shard[P]) release(tr *trace[P], v Verdict, now int64) Released[P] {
	s.unlink(tr)
	s.count(-tr.seen.Spans, -tr.seen.Bytes)
	if v.Keep {
		tr.seen.Operation.keep(now)
	}
	// No id is remembered twice: one that is would not have been held. What is overwritten is the oldest, or nothing.
	if len(s.decided) == len(s.order) {
		delete(s.decided, s.order[s.next])
	}
	s.order[s.next] = tr.id
	s.next = (s.next + 1) % len(s.order)
	s.decided[tr.id] = v
	return Released[P]{ID: tr.id, Verdict: v, Seen: tr.seen, Parts: tr.parts}
}

func (s *shard[P]) count(spans, bytes int) {
	s.spans += spans
	s.bytes += bytes
	s.held.Store(int64(s.spans))
}

func (s *shard[P]) link(tr *trace[P]) {
	s.traces[tr.id] = tr
	if tr.before = s.newest; tr.before != nil {
		tr.before.after = tr
	} else {
		s.oldest = tr
	}
	s.newest = tr
}

func (s *shard[P]) unlink(tr *trace[P]) {
	delete(s.traces, tr.id)
	if tr.before != nil {
		tr.before.after = tr.after
	} else {
		s.oldest = tr.after
	}
	if tr.after != nil {
		tr.after.before = tr.before
	} else {
		s.newest = tr.before
	}
	tr.before, tr.after = nil, nil
}
