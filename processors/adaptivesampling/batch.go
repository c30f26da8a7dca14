package adaptivesampling

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

// batch is spans that came together, held packed: they take a small part of the memory that pdata does, and there is nothing
// for the garbage collector to follow.
type batch struct {
	number  uint64 // in the order in which batches came
	arrived int64
	spans   int
	size    int64  // what it counts as held
	data    string // its parts; "" when none of its spans is held

	// What its spans share: entries of a dictionary, and what stands above them, as protobuf without spans.
	dictionary string
	head       string
	origin     uint64              // says which head it is: that of batches with the same is the same
	services   []*sampling.Service // of each scope in the head, in order

	held atomic.Int64 // parts that are not judged
	owed atomic.Int64 // parts that are neither dropped nor taken by the next component
}

// part is all spans of one trace in a batch: of each which of the batch's scopes it belongs to, and then each as a [packer] has
// it.
type part struct {
	batch    *batch
	from, to uint32 // in the batch's data
	spans    int32
	scope    int32 // one of theirs, if they are of one service; -1 if not
}

func (p part) data() string { return p.batch.data[p.from:p.to] }

func (p part) size() int { return int(p.to - p.from) }

const pieceSize = 1 << 18

var errTooLarge = errors.New("a batch of spans is larger than 4 GB")

// reader finds out of a batch what its traces are and what is known of them, and packs its spans. It is used again.
type reader struct {
	holder *holder
	rates  *sampling.Rates
	rules  *rules
	now    int64

	packer packer
	data   strings.Builder // a piece of memory for many batches
	groups []group
	runs   []run
	index  []int32 // by hash of the trace id: a group's number + 1; 0 is free

	service *sampling.Service
	ref     policy.Ref
	names   memo

	judged whole.Judged[part]
}

// group is what came of one trace.
type group struct {
	id          whole.ID
	seen        whole.Seen
	first, last int32 // of its runs
	part        part
}

// run is where in what is packed a span is.
type run struct{ scope, start, end, after int32 }

// memo is what is known of names that were met in a batch. Batches have few, so that most are found without asking those
// who know all of them, under their locks. Each is where it says itself.
type memo [64]name

type name struct {
	service   *sampling.Service // whose it is; nil: the place is free
	text      string
	threshold sampling.Threshold
	learnt    *sampling.Operation // nil where rates don't move
	history   *whole.Operation
	packed    int // where the dictionary has the text, or 0
}

func place[T ~string | ~[]byte](name T) uint {
	n := uint(len(name))
	if n == 0 {
		return 0
	}
	return (n*31 + uint(name[n/2])*7 + uint(name[n-1])) % uint(len(memo{}))
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func (r *reader) release() {
	clear(r.groups)
	r.groups, r.runs = r.groups[:0], r.runs[:0]
	clear(r.names[:])
	r.judged.Reset()
	r.rates, r.rules, r.service, r.holder = nil, nil, nil, nil
	readers.Put(r)
}

// read goes through a batch. Its spans are not to be used any more.
func (r *reader) read(b *batch, td ptrace.Traces) error {
	clear(r.index)
	r.packer.begin()
	head := ptrace.NewTraces()
	for _, rs := range td.ResourceSpans().All() {
		var claimed string
		r.ref, claimed = documents.Service(rs.Resource())
		r.service = r.rates.Service(r.ref, claimed)
		above := head.ResourceSpans().AppendEmpty()
		rs.Resource().MoveTo(above.Resource())
		above.SetSchemaUrl(rs.SchemaUrl())
		for _, ss := range rs.ScopeSpans().All() {
			scope := above.ScopeSpans().AppendEmpty()
			ss.Scope().MoveTo(scope.Scope())
			scope.SetSchemaUrl(ss.SchemaUrl())
			for _, span := range ss.Spans().All() {
				r.span(span, int32(len(b.services)))
			}
			b.spans += ss.Spans().Len()
			b.services = append(b.services, r.service)
		}
	}
	if len(r.packer.out) > math.MaxInt32 {
		return errTooLarge
	}
	return r.finish(b, head)
}

// finish gives the batch what its spans share, and its spans trace by trace.
func (r *reader) finish(b *batch, head ptrace.Traces) error {
	message, err := new(ptrace.ProtoMarshaler).MarshalTraces(head)
	if err != nil {
		return err
	}
	from := r.room(len(r.packer.out) + binary.MaxVarintLen32*b.spans)
	var scopes []byte
	for i := range r.groups {
		g := &r.groups[i]
		g.part = part{batch: b, from: uint32(r.data.Len() - from), spans: int32(g.seen.Spans), scope: r.runs[g.first].scope}
		scopes = scopes[:0]
		for n := g.first; n >= 0; n = r.runs[n].after {
			scope := r.runs[n].scope
			if g.part.scope >= 0 && b.services[scope] != b.services[g.part.scope] {
				g.part.scope = -1
			}
			scopes = binary.AppendUvarint(scopes, uint64(scope))
		}
		r.data.Write(scopes)
		for n := g.first; n >= 0; n = r.runs[n].after {
			r.data.Write(r.packer.out[r.runs[n].start:r.runs[n].end])
		}
		g.part.to = uint32(r.data.Len() - from)
	}
	b.data = r.data.String()[from:]
	b.head, b.origin = r.packer.dictionary.head(message)
	b.dictionary = r.packer.dictionary.text.String()
	b.size = int64(len(b.data) + len(b.head) + r.packer.dictionary.grown() + spanOverhead*b.spans)
	b.held.Store(int64(len(r.groups)))
	b.owed.Store(int64(len(r.groups)))
	return nil
}

// room has so many bytes be free in the piece of memory, a new one if need be: the old is left to those who have it. It gives
// where they are.
func (r *reader) room(bytes int) int {
	if r.data.Cap()-r.data.Len() < bytes {
		r.data.Reset()
		r.data.Grow(max(bytes, pieceSize))
	}
	return r.data.Len()
}

// span notes what is known of a span, packs it, and adds it to its trace's group.
func (r *reader) span(span ptrace.Span, scope int32) {
	start, end := span.StartTimestamp(), span.EndTimestamp()
	seen := whole.Seen{
		Spans: 1, Rooted: span.ParentSpanID().IsEmpty(), Marked: r.rules.marks(span.Attributes()),
		Failed: span.Status().Code() == ptrace.StatusCodeError,
	}
	if start > 0 && end >= start && end <= math.MaxInt64 { // a clock that makes no sense says nothing
		seen.Start, seen.End = int64(start), int64(end)
		seen.Longest = time.Duration(end - start)
		if seen.Rooted {
			seen.Took = seen.Longest
		}
	}
	n := r.name(span.Name())
	r.rate(&seen, n, span)
	from := int32(len(r.packer.out))
	n.packed = r.packer.span(span, n.packed)
	r.add(span.TraceID(), &seen, run{scope, from, int32(len(r.packer.out)), -1})
}

// marks says whether an attribute marks a trace: it is one of those that do, and neither false nor empty.
func (r *rules) marks(attributes pcommon.Map) bool {
	for _, name := range r.marked {
		if v, ok := attributes.Get(name); ok && truthy(v) {
			return true
		}
	}
	return false
}

func truthy(v pcommon.Value) bool {
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
func (r *reader) rate(seen *whole.Seen, n *name, span ptrace.Span) {
	var state sampling.State
	if s := span.TraceState().AsRaw(); s != "" {
		state = sampling.ParseState(s)
	}
	id := span.TraceID()
	if !state.HasThreshold {
		if at, chosen := byChance(span); chosen {
			seen.Chance = at
			state = state.Independent(at, id)
		}
	}
	seen.Randomness = state.RandomnessOf(id)
	seen.Threshold, seen.Operation, seen.Learnt = n.threshold, n.history, n.learnt
	if n.learnt != nil {
		seen.Stand = max(state.AdjustedCount(seen.Randomness), 1)
		if n.learnt.Unplaced() {
			n.learnt.Placed(routeOf(span))
		}
	}
}

func (r *reader) name(text string) *name {
	n := &r.names[place(text)]
	if n.service != r.service || n.text != text {
		*n = name{service: r.service, text: text}
		n.history = r.holder.operations.Of(r.ref, n.text, r.now)
		if r.rates.Adaptive() {
			n.learnt = r.service.Operation(n.text)
			n.threshold = n.learnt.Threshold()
		} else {
			n.threshold = r.service.Threshold(n.text)
		}
	}
	return n
}

// add adds a span to the group of its trace.
func (r *reader) add(id whole.ID, seen *whole.Seen, packed run) {
	if 2*len(r.groups) >= len(r.index) {
		r.grow()
	}
	n := int32(len(r.runs))
	r.runs = append(r.runs, packed)
	at := r.place(&id)
	if r.index[at] == 0 {
		r.groups = append(r.groups, group{id: id, seen: *seen, first: n, last: n})
		r.index[at] = int32(len(r.groups))
		return
	}
	g := &r.groups[r.index[at]-1]
	g.seen.Merge(seen)
	r.runs[g.last].after, g.last = n, n
}

// place is where a trace is in the index, or may be put.
func (r *reader) place(id *whole.ID) uint64 {
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
		r.index[r.place(&r.groups[i].id)] = int32(i + 1)
	}
}

var seed = maphash.MakeSeed()
