package whole

import (
	"hash/maphash"
	"sync"
)

// ID is a trace's.
type ID = [16]byte

// Shards is among how many parts, each with a lock of its own, a table spreads traces.
const Shards = 64

// Table holds the traces that are not judged yet, and remembers how so many others were. What holds the spans of a trace
// that came together is a P, which had better have no pointers: there are many. Its methods may be called from many goroutines.
type Table[P any] struct {
	seed   maphash.Seed
	shards [Shards]shard[P]
}

// NewTable makes a table that remembers so many decisions for late spans; each shard remembers one at least.
func NewTable[P any](decisions int) *Table[P] {
	t := &Table[P]{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].init(max(decisions/Shards, 1))
	}
	return t
}

// Judged is traces that are judged, or what came of them late, and their parts.
type Judged[P any] struct {
	Traces []Released
	Parts  []P
}

// Released is one of them.
type Released struct {
	ID      ID
	Verdict Verdict
	Seen    Seen
	Late    bool // the trace was judged before; these spans follow
	Shed    bool // it was judged before its time, for want of room

	from, to int // of the parts
}

// Of gives the parts of a trace, in the order in which they came.
func (j *Judged[P]) Of(r *Released) []P { return j.Parts[r.from:r.to] }

// Append adds a trace with its parts.
func (j *Judged[P]) Append(r *Released, parts []P) {
	from := len(j.Parts)
	j.Parts = append(j.Parts, parts...)
	j.Traces = append(j.Traces, *r)
	last := &j.Traces[len(j.Traces)-1]
	last.from, last.to = from, len(j.Parts)
}

// Reset empties it, to be used again.
func (j *Judged[P]) Reset() {
	clear(j.Traces)
	clear(j.Parts)
	j.Traces, j.Parts = j.Traces[:0], j.Parts[:0]
}

// Add takes a part of a trace, and appends the trace to dst if that judges it: a rule keeps it, nothing that may still
// come could change what its rate says, or it was judged before.
func (t *Table[P]) Add(dst *Judged[P], rules *Rules, id ID, seen *Seen, p P, now int64) {
	hash := maphash.Bytes(t.seed, id[:])
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(id, uint32(hash))
	if r != none && s.records.at(r).held == none {
		s.late(dst, rules, r, seen, p, now)
		return
	}
	known := *seen
	if r == none {
		r = s.begin(id, uint32(hash), seen, now)
	} else {
		known = s.merge(s.trace(r), seen)
	}
	s.append(s.trace(r), p)
	if v := rules.early(&known, seen, now); v.Rule != None {
		s.release(dst, r, &known, v, now)
	}
}

// Sweep judges the traces of the shards from the first on, each step-th, that began at or before an instant, and appends
// them to dst. Shed says that it is before their time.
func (t *Table[P]) Sweep(dst *Judged[P], rules *Rules, first, step int, began, now int64, shed bool) {
	for i := first; i < Shards; i += step {
		t.shards[i].until(dst, rules, began, now, shed)
	}
}

// Remember is that a trace was judged, as Add and Sweep do by themselves.
func (t *Table[P]) Remember(id ID, v Verdict, now int64) {
	hash := maphash.Bytes(t.seed, id[:])
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(id, uint32(hash)) == none {
		s.decide(s.begin(id, uint32(hash), new(Seen), now), v)
	}
}

func (t *Table[P]) shard(hash uint64) *shard[P] { return &t.shards[hash>>32%Shards] }

// none is no index.
const none = -1

// shard is one table for what is held and what is decided: one look finds either. Everything is linked by indexes, so
// that the garbage collector has little to follow.
type shard[P any] struct {
	mu sync.Mutex // guards everything declared below

	// index has a record where its hash says, or the next free place after. Invariant: at most half of it is used, and its
	// length is a power of two.
	index   []place
	records pool[record]
	traces  pool[trace]
	parts   pool[linked[P]]

	// Each subject of traces that are held once, so that those have no pointers.
	subjects pool[shared]
	subject  map[Subject]int32 // by which number

	waiting, decided queue // of records; the first is the oldest
	decisions        int   // most that are decided

	_ [64]byte // a cache line to each
}

// place is one in an index: a record's number + 1, and its hash, so that others need not be looked at; 0 is free.
type place struct {
	hash   uint32
	record int32
}

// record is a trace of which something is known.
type record struct {
	id            ID
	hash          uint32
	before, after int32 // in its queue
	held          int32 // its trace, or none where it is decided
	verdict       Verdict
}

// trace is what a record has while it is held.
type trace struct {
	began       int64
	facts       Facts
	subject     int32
	first, last int32 // of its parts
}

type shared struct {
	Subject
	traces int32
}

type linked[P any] struct {
	part  P
	after int32
}

type queue struct {
	first, last int32
	n           int
}

func (s *shard[P]) init(decisions int) {
	s.decisions = decisions
	s.index = make([]place, 16)
	s.subject = map[Subject]int32{}
	s.waiting, s.decided = queue{none, none, 0}, queue{none, none, 0}
}

// find gives the record of an id, or none.
func (s *shard[P]) find(id ID, hash uint32) int32 {
	mask := uint32(len(s.index) - 1)
	for i := hash & mask; s.index[i].record != 0; i = (i + 1) & mask {
		if at := s.index[i]; at.hash == hash && s.records.at(at.record-1).id == id {
			return at.record - 1
		}
	}
	return none
}

// begin makes a record of a trace that is held.
func (s *shard[P]) begin(id ID, hash uint32, seen *Seen, now int64) int32 {
	if n := s.waiting.n + s.decided.n; 2*n >= len(s.index) {
		s.grow()
	}
	held, r := s.traces.take(), s.records.take()
	*s.traces.at(held) = trace{now, seen.Facts, s.share(&seen.Subject), none, none}
	*s.records.at(r) = record{id: id, hash: hash, held: held}
	s.place(r, hash)
	s.push(&s.waiting, r)
	return r
}

// trace is what a record that is held has.
func (s *shard[P]) trace(r int32) *trace { return s.traces.at(s.records.at(r).held) }

func (s *shard[P]) seen(tr *trace) Seen { return Seen{tr.facts, s.subjects.at(tr.subject).Subject} }

// merge adds what came later to a trace, and gives all that is known.
func (s *shard[P]) merge(tr *trace, later *Seen) Seen {
	if tr.facts.merge(&later.Facts) {
		before := tr.subject
		tr.subject = s.share(&later.Subject)
		s.unshare(before)
	}
	return s.seen(tr)
}

// share gives the number of a subject for one more trace.
func (s *shard[P]) share(of *Subject) int32 {
	n, known := s.subject[*of]
	if !known {
		n = s.subjects.take()
		*s.subjects.at(n) = shared{Subject: *of}
		s.subject[*of] = n
	}
	s.subjects.at(n).traces++
	return n
}

// unshare is that it is so no more. The last one forgets the subject.
func (s *shard[P]) unshare(n int32) {
	of := s.subjects.at(n)
	if of.traces--; of.traces == 0 {
		delete(s.subject, of.Subject)
		s.subjects.give(n)
	}
}

func (s *shard[P]) place(r int32, hash uint32) {
	mask := uint32(len(s.index) - 1)
	i := hash & mask
	for s.index[i].record != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = place{hash, r + 1}
}

func (s *shard[P]) grow() {
	old := s.index
	s.index = make([]place, 2*len(old))
	for _, at := range old {
		if at.record != 0 {
			s.place(at.record-1, at.hash)
		}
	}
}

// forget takes a record out of the index, and moves those behind it up, so that each is still found from where its
// hash says.
func (s *shard[P]) forget(r int32) {
	mask := uint32(len(s.index) - 1)
	gap := s.records.at(r).hash & mask
	for s.index[gap].record != r+1 {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; s.index[i].record != 0; i = (i + 1) & mask {
		home := s.index[i].hash & mask
		if (i-home)&mask >= (i-gap)&mask { // the gap lies between its home and where it is
			s.index[gap], gap = s.index[i], i
		}
	}
	s.index[gap] = place{}
	s.records.give(r)
}

func (s *shard[P]) append(tr *trace, p P) {
	n := s.parts.take()
	*s.parts.at(n) = linked[P]{p, none}
	if tr.last == none {
		tr.first = n
	} else {
		s.parts.at(tr.last).after = n
	}
	tr.last = n
}

// late follows the decision of a trace. The root's operation is told all the same.
func (s *shard[P]) late(dst *Judged[P], rules *Rules, r int32, seen *Seen, p P, now int64) {
	v := s.records.at(r).verdict
	if seen.Rooted {
		seen.Operation.slowest(seen.Took, rules.SlowestPercent, now)
		if v.Keep {
			seen.Operation.keep(now)
		}
	}
	from := len(dst.Parts)
	dst.Parts = append(dst.Parts, p)
	dst.Traces = append(dst.Traces, Released{ID: s.records.at(r).id, Verdict: v, Seen: *seen, Late: true, from: from, to: len(dst.Parts)})
}

func (s *shard[P]) until(dst *Judged[P], rules *Rules, began, now int64, shed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := s.waiting.first; r != none; r = s.waiting.first {
		tr := s.trace(r)
		if tr.began > began {
			return
		}
		seen := s.seen(tr)
		s.release(dst, r, &seen, rules.final(&seen, now), now)
		dst.Traces[len(dst.Traces)-1].Shed = shed
	}
}

// release appends a trace and its parts to dst, and remembers what was decided.
func (s *shard[P]) release(dst *Judged[P], r int32, seen *Seen, v Verdict, now int64) {
	tr := s.trace(r)
	if v.Keep {
		seen.Operation.keep(now)
	}
	from := len(dst.Parts)
	for n := tr.first; n != none; {
		p := s.parts.at(n)
		dst.Parts = append(dst.Parts, p.part)
		after := p.after
		s.parts.give(n)
		n = after
	}
	dst.Traces = append(dst.Traces, Released{ID: s.records.at(r).id, Verdict: v, Seen: *seen, from: from, to: len(dst.Parts)})
	s.decide(r, v)
}

// decide makes of a record that is held one that is decided; the oldest of those is forgotten where there are too many.
func (s *shard[P]) decide(r int32, v Verdict) {
	s.pull(&s.waiting, r)
	if s.decided.n == s.decisions {
		oldest := s.decided.first
		s.pull(&s.decided, oldest)
		s.forget(oldest)
	}
	s.unshare(s.trace(r).subject)
	s.traces.give(s.records.at(r).held)
	s.records.at(r).held, s.records.at(r).verdict = none, v
	s.push(&s.decided, r)
}

func (s *shard[P]) push(q *queue, r int32) {
	s.records.at(r).before, s.records.at(r).after = q.last, none
	if q.last == none {
		q.first = r
	} else {
		s.records.at(q.last).after = r
	}
	q.last = r
	q.n++
}

func (s *shard[P]) pull(q *queue, r int32) {
	before, after := s.records.at(r).before, s.records.at(r).after
	if before == none {
		q.first = after
	} else {
		s.records.at(before).after = after
	}
	if after == none {
		q.last = before
	} else {
		s.records.at(after).before = before
	}
	q.n--
}

// pool is items that are used again, in pages that stay where they are: none is ever copied.
type pool[T any] struct {
	pages []*[pageSize]T
	n     int32 // items so far
	free  []int32
}

const pageSize = 128

func (p *pool[T]) at(i int32) *T { return &p.pages[uint32(i)/pageSize][uint32(i)%pageSize] }

// take gives the number of an item, which the caller sets.
func (p *pool[T]) take() int32 {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i
	}
	if p.n%pageSize == 0 {
		p.pages = append(p.pages, new([pageSize]T))
	}
	p.n++
	return p.n - 1
}

func (p *pool[T]) give(i int32) {
	var zero T
	*p.at(i) = zero // it keeps nothing in memory
	p.free = append(p.free, i)
}
