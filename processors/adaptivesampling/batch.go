package adaptivesampling

import (
	"errors"
	"hash/maphash"
	"math"
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

// batch is spans that came together, held as the protobuf bytes in which OTLP sends them: a span takes a tenth of the
// memory that pdata does, there is nothing for the garbage collector to follow, and what is dropped is never decoded.
type batch struct {
	number  uint64 // in the order in which batches came
	arrived int64
	spans   int
	size    int64  // what it counts as held
	data    []byte // nil when none of its spans is held, as are the others
	runs    []run
	origins []origin

	held atomic.Int64 // parts that are not judged
	owed atomic.Int64 // parts that are neither dropped nor taken by the next component
}

// origin is what spans of a batch that stand together share: fields of the resource's and the scope's message.
type origin struct {
	service  *sampling.Service
	resource [2][]byte // the resource and its schema
	scope    [2][]byte
}

// run is spans of one trace that stand one after another: fields of a scope's message in the data.
type run struct{ origin, spans, start, end uint32 }

// part is all runs of one trace in a batch.
type part struct {
	batch    *batch
	from, to uint32
}

func (p part) runs() []run { return p.batch.runs[p.from:p.to] }

// Numbers of the fields in OTLP's trace.proto.
const (
	tracesResourceSpans = 1

	resourceSpansResource = 1
	resourceSpansScopes   = 2

	scopeSpansScope = 1
	scopeSpansSpans = 2

	resourceAttributes = 1

	keyValueKey   = 1
	keyValueValue = 2

	anyValueString = 1
	anyValueBool   = 2
	anyValueDouble = 4

	spanTraceID    = 1
	spanTracestate = 3
	spanParent     = 4
	spanName       = 5
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanStatus     = 15

	statusCode = 3
)

var (
	errMalformed = errors.New("a batch of spans is malformed")
	errTooLarge  = errors.New("a batch of spans is larger than 4 GB")
)

// reader finds out of a batch what its traces are and what is known of them. It is used again.
type reader struct {
	holder *holder
	rates  *sampling.Rates
	rules  *rules
	now    int64

	groups []group
	runs   []linkedRun
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

type linkedRun struct {
	run
	after int32
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

// read goes through a batch.
func (r *reader) read(b *batch) error {
	if len(b.data) > math.MaxUint32 {
		return errTooLarge
	}
	clear(r.index)
	f := read(b.data)
	for f.next() {
		if f.number == tracesResourceSpans {
			if err := r.resource(b, f.value, f.at-len(f.value)); err != nil {
				return err
			}
		}
	}
	if f.bad {
		return errMalformed
	}
	b.runs = make([]run, 0, len(r.runs))
	for i := range r.groups {
		g := &r.groups[i]
		g.part = part{batch: b, from: uint32(len(b.runs))}
		for n := g.first; n >= 0; n = r.runs[n].after {
			b.runs = append(b.runs, r.runs[n].run)
		}
		g.part.to = uint32(len(b.runs))
	}
	b.held.Store(int64(len(r.groups)))
	b.owed.Store(int64(len(r.groups)))
	return nil
}

func (r *reader) resource(b *batch, message []byte, at int) error {
	var o origin
	var resource []byte
	f := read(message)
	for f.next() {
		switch f.number {
		case resourceSpansResource:
			o.resource[0], resource = f.raw(), f.value
		case resourceSpansScopes:
		default:
			o.resource[1] = f.raw()
		}
	}
	var claimed string
	r.ref, claimed = serviceOf(resource, o.resource[0])
	r.service = r.rates.Service(r.ref, claimed)
	o.service = r.service
	for f = read(message); f.next(); {
		if f.number == resourceSpansScopes {
			if err := r.scope(b, o, f.value, at+f.at-len(f.value)); err != nil {
				return err
			}
		}
	}
	if f.bad {
		return errMalformed
	}
	return nil
}

func (r *reader) scope(b *batch, o origin, message []byte, at int) error {
	place := uint32(len(b.origins))
	f := read(message)
	for f.next() {
		switch f.number {
		case scopeSpansScope:
			o.scope[0] = f.raw()
		case scopeSpansSpans:
			if !r.span(f.value, run{place, 1, uint32(at + f.start), uint32(at + f.at)}) {
				return errMalformed
			}
			b.spans++
		default:
			o.scope[1] = f.raw()
		}
	}
	if f.bad {
		return errMalformed
	}
	b.origins = append(b.origins, o)
	return nil
}

// span notes what is known of a span, and adds it to its trace's group.
func (r *reader) span(message []byte, place run) bool {
	var id, state, called []byte
	var start, end uint64
	seen := whole.Seen{Spans: 1, Rooted: true}
	f := read(message)
	for f.next() {
		switch f.number {
		case spanTraceID:
			id = f.value
		case spanTracestate:
			state = f.value
		case spanParent:
			seen.Rooted = len(f.value) == 0
		case spanName:
			called = f.value
		case spanStart:
			start = f.bits
		case spanEnd:
			end = f.bits
		case spanAttributes:
			seen.Marked = seen.Marked || r.rules.marks(f.value)
		case spanStatus:
			seen.Failed = failed(f.value)
		}
	}
	if f.bad {
		return false
	}
	var trace whole.ID
	copy(trace[:], id)
	if start > 0 && end >= start && end <= math.MaxInt64 { // a clock that makes no sense says nothing
		seen.Start, seen.End = int64(start), int64(end)
		seen.Longest = time.Duration(end - start)
		if seen.Rooted {
			seen.Took = seen.Longest
		}
	}
	r.rate(&seen, trace, state, called, message)
	r.add(trace, &seen, place)
	return true
}

func failed(status []byte) bool {
	f := read(status)
	for f.next() {
		if f.number == statusCode {
			return f.bits == uint64(ptrace.StatusCodeError)
		}
	}
	return false
}

// marks says whether an attribute marks a trace: it is one of those that do, and neither false nor empty.
func (r *rules) marks(attribute []byte) bool {
	if len(r.marked) == 0 {
		return false
	}
	f := read(attribute)
	var marks, named bool
	for f.next() {
		switch f.number {
		case keyValueKey:
			for _, name := range r.marked {
				named = named || string(f.value) == name
			}
		case keyValueValue:
			marks = truthy(f.value)
		}
	}
	return marks && named
}

func truthy(value []byte) bool {
	f := read(value)
	if !f.next() {
		return false
	}
	switch f.number {
	case anyValueString:
		return len(f.value) > 0 && string(f.value) != "false"
	case anyValueBool:
		return f.bits != 0
	}
	return true
}

// rate notes at which rate a span's trace would be kept by itself.
func (r *reader) rate(seen *whole.Seen, id whole.ID, tracestate, called, message []byte) {
	var state sampling.State
	if len(tracestate) > 0 {
		state = sampling.ParseState(string(tracestate))
	}
	if seen.Rooted && !state.HasThreshold {
		if at, chosen := chanceIn(message); chosen {
			seen.Chance = at
			state = state.Independent(at, id)
		}
	}
	n := r.name(called)
	seen.Randomness = state.RandomnessOf(id)
	seen.Threshold, seen.Operation, seen.Learnt = n.threshold, n.history, n.learnt
	if n.learnt != nil {
		seen.Stand = max(state.AdjustedCount(seen.Randomness), 1)
		if n.learnt.Unplaced() {
			n.learnt.Placed(routeIn(message))
		}
	}
}

func (r *reader) name(b []byte) *name {
	n := &r.names[place(b)]
	if n.service != r.service || n.text != string(b) {
		*n = name{service: r.service, text: string(b)}
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
func (r *reader) add(id whole.ID, seen *whole.Seen, place run) {
	if 2*len(r.groups) >= len(r.index) {
		r.grow()
	}
	n := int32(len(r.runs))
	at := r.place(&id)
	if r.index[at] == 0 {
		r.groups = append(r.groups, group{id: id, seen: *seen, first: n, last: n})
		r.index[at] = int32(len(r.groups))
		r.runs = append(r.runs, linkedRun{place, -1})
		return
	}
	g := &r.groups[r.index[at]-1]
	g.seen.Merge(seen)
	last := &r.runs[g.last]
	if last.end == place.start && last.origin == place.origin {
		last.end = place.end
		last.spans++
		return
	}
	last.after, g.last = n, n
	r.runs = append(r.runs, linkedRun{place, -1})
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

// serviceOf names the service of an encoded resource, and the class that it claims, as [documents.Service] does.
func serviceOf(resource, field []byte) (ref policy.Ref, class string) {
	for f := read(resource); f.next(); {
		if f.number != resourceAttributes {
			continue
		}
		var key, value []byte
		for kv := read(f.value); kv.next(); {
			switch kv.number {
			case keyValueKey:
				key = kv.value
			case keyValueValue:
				value = kv.value
			}
		}
		var to *string
		switch string(key) {
		case "service.name":
			to = &ref.Name
		case "service.namespace":
			to = &ref.Namespace
		case sampling.ClassAttribute:
			to = &class
		default:
			continue
		}
		text := read(value)
		if !text.next() || text.number != anyValueString { // unusual: pdata knows what it is as text
			return documents.Service(decodeResource(field))
		}
		*to = string(text.value)
	}
	return ref, class
}

func decodeResource(field []byte) pcommon.Resource {
	var u ptrace.ProtoUnmarshaler
	td, err := u.UnmarshalTraces(append(appendHead(nil, tracesResourceSpans, len(field)), field...))
	if err != nil || td.ResourceSpans().Len() == 0 {
		return pcommon.NewResource()
	}
	return td.ResourceSpans().At(0).Resource()
}
