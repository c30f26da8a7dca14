package adaptivesampling

import (
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

// batch is spans that came together, held packed: they take a small part of the memory that pdata does, and there is nothing
// for the garbage collector to follow.
type batch struct {
	number  uint64 // in the order in which batches came
	slot    int32  // of those that are live
	arrived int64
	spans   int    // that were not dropped as they came
	size    int64  // what it counts as held
	data    string // its parts, without the spans of those that were dropped as they came; "" when none is held
	parts   []place

	// What its spans share: entries of a dictionary, and what stands above them, as protobuf without spans.
	dictionary string
	head       string
	origin     uint64              // says which head it is: that of batches with the same is the same
	services   []*sampling.Service // of each scope in the head, in order

	packed    atomic.Bool        // until then there is only what its spans share
	packing   sync.Mutex         // guards what follows
	postponed whole.Judged[part] // traces with parts of it that were judged before it was packed

	held atomic.Int64 // parts that are not judged
	owed atomic.Int64 // parts that are neither dropped nor taken by the next component
}

// part is all spans of one trace in a batch: of each which of the batch's scopes it belongs to, and then each as a [packer] has
// it.
type part struct {
	batch *batch
	nth   int32
}

// entry is a part as the table has it: by the slot of its batch, so that the garbage collector has nothing to follow there.
type entry struct{ slot, nth int32 }

// place is where a part is in its batch's data.
type place struct {
	from, to uint32
	unpacked uint32 // bytes
	spans    int32
	scope    int32 // one of theirs, if they are of one class; -1 if not
}

func (p part) place() *place { return &p.batch.parts[p.nth] }

func (p part) data() string { return p.batch.data[p.place().from:p.place().to] }

const pieceSize = 1 << 18

// reader finds out of a batch what its traces are and what is known of them, and packs what is not dropped. It is used again.
type reader struct {
	holder *holder
	rates  *sampling.Rates
	rules  *rules
	now    int64

	head   []byte // the request without its spans
	one    otlp.Span
	packer packer
	data   strings.Builder // a piece of memory for many batches
	groups []group
	runs   []run
	index  []int32 // by hash of the trace id: a group's number + 1; 0 is free

	service *sampling.Service
	ref     policy.Ref
	names   memo

	judged whole.Judged[entry]
}

// group is what came of one trace.
type group struct {
	id          whole.ID
	seen        whole.Seen
	first, last int32 // of its runs
	done        bool  // by those who had the batch before a restart
	dropped     bool
}

// run is a span of a group.
type run struct {
	message      []byte // of the request
	scope, after int32
}

// memo is what is known of names that were met in a batch. Batches have few, so that most are found without asking those
// who know all of them, under their locks. Each is where it says itself.
type memo [64]name

type name struct {
	service   *sampling.Service // whose it is; nil: the place is free
	text      string
	threshold sampling.Threshold
	learnt    *sampling.Operation // nil where rates don't move
	history   *whole.Operation

	came  int // spans that learnt was not told of yet, and for how many they stood
	stand float64
}

func memoPlace[T ~string | ~[]byte](name T) uint {
	n := uint(len(name))
	if n == 0 {
		return 0
	}
	return (n*31 + uint(name[n/2])*7 + uint(name[n-1])) % uint(len(memo{}))
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func (r *reader) release() {
	clear(r.groups)
	clear(r.runs)
	r.groups, r.runs, r.head, r.one = r.groups[:0], r.runs[:0], r.head[:0], otlp.Span{}
	clear(r.names[:])
	r.judged.Reset()
	r.rates, r.rules, r.service, r.holder = nil, nil, nil, nil
	if cap(r.packer.out) <= maxPooled && cap(r.head) <= maxPooled {
		readers.Put(r)
	}
}

// look goes through a request.
func (r *reader) look(b *batch, request []byte) {
	clear(r.index)
	r.packer.begin()
	for f := otlp.FieldsOf(request); f.Next(); {
		if f.Number == otlp.RequestResourceSpans {
			r.resource(b, f.Body)
		}
	}
	b.head, b.origin = r.packer.dictionary.head(r.head)
}

func (r *reader) resource(b *batch, message []byte) {
	var claimed string
	r.ref, claimed = documents.ServiceOf(otlp.ResourceOf(message))
	r.service = r.rates.Service(r.ref, claimed)
	var at int
	r.head, at = otlp.Begin(r.head, otlp.RequestResourceSpans)
	for f := otlp.FieldsOf(message); f.Next(); {
		if f.Number == otlp.ResourceSpansScopeSpans {
			r.scope(b, f.Body)
		} else {
			r.head = append(r.head, f.Whole...)
		}
	}
	otlp.End(r.head, at)
}

func (r *reader) scope(b *batch, message []byte) {
	var at int
	r.head, at = otlp.Begin(r.head, otlp.ResourceSpansScopeSpans)
	for f := otlp.FieldsOf(message); f.Next(); {
		if f.Number == otlp.ScopeSpansSpans {
			r.span(f.Body, int32(len(b.services)))
		} else {
			r.head = append(r.head, f.Whole...)
		}
	}
	otlp.End(r.head, at)
	b.services = append(b.services, r.service)
}

// judge puts the batch's traces into the table, and packs them, but for those which that drops.
func (r *reader) judge(b *batch, done map[doneWith]bool) {
	r.holder.live.begin(b)
	for i := range r.groups {
		g := &r.groups[i]
		if g.done = done[doneWith{g.id, b.number}]; !g.done {
			r.holder.table.Add(&r.judged, &r.rules.Rules, g.id, &g.seen, entry{b.slot, int32(i)}, r.now)
		}
	}
	for i := range r.judged.Traces {
		t := &r.judged.Traces[i]
		for _, p := range r.judged.Of(t) {
			if p.slot == b.slot {
				r.groups[p.nth].dropped = !t.Verdict.Keep && !r.holder.cfg.DryRun
			}
		}
	}
	r.pack(b)
}

// pack packs the batch's spans, trace by trace. It does not hold them yet.
func (r *reader) pack(b *batch) {
	b.parts = make([]place, len(r.groups))
	for i := range r.groups {
		g := &r.groups[i]
		part := place{from: uint32(len(r.packer.out)), spans: int32(g.seen.Spans), scope: r.runs[g.first].scope}
		for n := g.first; n >= 0; n = r.runs[n].after {
			scope := r.runs[n].scope
			if part.scope >= 0 && b.services[scope].Class != b.services[part.scope].Class {
				part.scope = -1
			}
			r.packer.uint(int(scope))
		}
		if !g.dropped && !g.done {
			for n := g.first; n >= 0; n = r.runs[n].after {
				r.packer.span(r.runs[n].message)
				part.unpacked += uint32(len(r.runs[n].message))
			}
			b.spans += g.seen.Spans
		}
		part.to = uint32(len(r.packer.out))
		b.parts[i] = part
	}
	b.size = int64(len(r.packer.out) + len(b.head) + r.packer.dictionary.grown() + spanOverhead*b.spans)
	b.held.Store(int64(len(r.groups)))
	b.owed.Store(int64(len(r.groups)))
}

// hold gives the batch what is packed. It gives the traces that were judged before that.
func (r *reader) hold(b *batch) (postponed whole.Judged[part]) {
	b.data = r.keep(r.packer.out)
	b.dictionary = r.packer.dictionary.text.String()
	b.packing.Lock()
	defer b.packing.Unlock()
	b.packed.Store(true)
	postponed, b.postponed = b.postponed, whole.Judged[part]{}
	return postponed
}

// postpone leaves a judged trace to those who pack one of its parts, if somebody yet does.
func postpone(t *whole.Released, parts []part) bool {
	return slices.ContainsFunc(parts, func(p part) bool {
		if p.batch.packed.Load() { // the usual case
			return false
		}
		p.batch.packing.Lock()
		defer p.batch.packing.Unlock()
		if p.batch.packed.Load() {
			return false
		}
		p.batch.postponed.Append(t, parts)
		return true
	})
}

// keep gives a copy, which is in the piece of memory, or in a new one if need be: the old is left to those who have it. What is
// large has its own, or much of each piece would be left over.
func (r *reader) keep(packed []byte) string {
	if len(packed) > pieceSize/8 {
		return string(packed)
	}
	if r.data.Cap()-r.data.Len() < len(packed) {
		r.data.Reset()
		r.data.Grow(pieceSize)
	}
	from := r.data.Len()
	r.data.Write(packed)
	return r.data.String()[from:]
}

// span notes what is known of a span, and adds it to its trace's group.
func (r *reader) span(message []byte, scope int32) {
	s := &r.one
	s.Read(message)
	seen := whole.Seen{Facts: whole.Facts{
		Spans: 1, Rooted: s.Root(), Failed: s.Status == statusError,
		Marked: len(r.rules.marked) > 0 && r.rules.marks(s.Attributes()),
	}}
	if s.Start > 0 && s.End >= s.Start && s.End <= math.MaxInt64 { // a clock that makes no sense says nothing
		seen.Start, seen.End = int64(s.Start), int64(s.End)
		seen.Longest = time.Duration(s.End - s.Start)
		if seen.Rooted {
			seen.Took = seen.Longest
		}
	}
	r.rate(&seen, r.name(s.Name), s)
	r.add(s.TraceID, &seen, run{message, scope, -1})
}

const statusError = int32(ptrace.StatusCodeError)

// marks says whether an attribute marks a trace: it is one of those that do, and neither false nor empty.
func (r *rules) marks(all otlp.Attributes) bool {
	for _, name := range r.marked {
		if v, ok := all.Get(name); ok && truthy(v) {
			return true
		}
	}
	return false
}

func truthy(v otlp.Value) bool {
	switch v.Type() {
	case pcommon.ValueTypeEmpty:
		return false
	case pcommon.ValueTypeStr:
		return v.Str() != "" && v.Str() != "false"
	case pcommon.ValueTypeBool:
		return v.Bool()
	}
	return true
}

// rate notes at which rate a span's trace would be kept by itself.
func (r *reader) rate(seen *whole.Seen, n *name, s *otlp.Span) {
	var state sampling.State
	if s.TraceState != "" {
		state = sampling.ParseState(s.TraceState)
	}
	if seen.Rooted && !state.HasThreshold {
		if at, chosen := documents.ByChanceIn(s.Attributes()); chosen {
			seen.Chance = at
			state = state.Independent(at, s.TraceID)
		}
	}
	seen.Randomness = state.RandomnessOf(s.TraceID)
	seen.Threshold, seen.Operation, seen.Learnt = n.threshold, n.history, n.learnt
	if n.learnt != nil {
		seen.Stand = max(state.AdjustedCount(seen.Randomness), 1)
		if n.learnt.Unplaced() {
			n.learnt.Placed(routeOf(s.Attributes()))
		}
	}
}

func (r *reader) name(text string) *name {
	n := &r.names[memoPlace(text)]
	if n.service != r.service || n.text != text {
		*n = name{service: r.service, text: text}
		n.history = r.holder.operations.Of(r.ref, text, r.now)
		if r.rates.Adaptive() {
			n.learnt = r.service.Operation(text)
			n.threshold = n.learnt.Threshold()
		} else {
			n.threshold = r.service.Threshold(text)
		}
	}
	return n
}

// add adds a span to the group of its trace.
func (r *reader) add(id whole.ID, seen *whole.Seen, one run) {
	if 2*len(r.groups) >= len(r.index) {
		r.grow()
	}
	n := int32(len(r.runs))
	r.runs = append(r.runs, one)
	at := r.indexOf(&id)
	if r.index[at] == 0 {
		r.groups = append(r.groups, group{id: id, seen: *seen, first: n, last: n})
		r.index[at] = int32(len(r.groups))
		return
	}
	g := &r.groups[r.index[at]-1]
	g.seen.Merge(seen)
	r.runs[g.last].after, g.last = n, n
}

// indexOf is where a trace is in the index, or may be put.
func (r *reader) indexOf(id *whole.ID) uint64 {
	mask := uint64(len(r.index) - 1)
	at := maphash.Bytes(seed, id[:]) & mask
	for r.index[at] != 0 && r.groups[r.index[at]-1].id != *id {
		at = (at + 1) & mask
	}
	return at
}

func (r *reader) grow() {
	r.index = make([]int32, max(2*len(r.index), 256))
	for i := range r.groups {
		r.index[r.indexOf(&r.groups[i].id)] = int32(i + 1)
	}
}

var seed = maphash.MakeSeed()
