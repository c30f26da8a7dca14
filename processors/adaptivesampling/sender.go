package adaptivesampling

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

const (
	maxParcel  = 1 << 20 // bytes that go on at once
	retryFirst = 100 * time.Millisecond
	retryLast  = 5 * time.Second
)

// sender sends on what is kept. What the next component refuses, unless for good, waits and is sent again until it is
// taken: senders have been told that it was.
type sender struct {
	holder *holder
	next   consumer.Traces

	bytes atomic.Int64 // that wait
	spans atomic.Int64

	mu      sync.Mutex // guards what follows
	waiting []*parcel
	delay   time.Duration
	again   time.Time // when to try
}

// parcel is spans that go on together, encoded as they came, and what is to be written on them. It has everything that is
// kept of the batches that it is of.
type parcel struct {
	data  []byte
	spans int
	marks []mark
	last  uint64 // number of its last batch
	owed  []owed // where there is a journal
}

// mark is what is to be written on so many spans of one trace.
type mark struct {
	verdict whole.Verdict
	spans   uint32
	first   bool // of a trace without a root: its first span says why it was kept
}

// owed is a part that is done with when its parcel is taken.
type owed struct {
	batch   *batch
	id      whole.ID
	verdict whole.Verdict
}

// pick is a run that is kept.
type pick struct {
	batch *batch
	run   *run
	trace *whole.Released
	first bool
}

var picks = sync.Pool{New: func() any { return new([]pick) }}

// send sends on what is kept of traces that are judged, and is done with the rest.
func (s *sender) send(ctx context.Context, judged *whole.Judged[part]) {
	if len(judged.Traces) == 0 {
		return
	}
	h := s.holder
	kept := picks.Get().(*[]pick)
	var counts tally
	var all int64
	for i := range judged.Traces {
		t := &judged.Traces[i]
		h.metrics.count(t)
		if t.Seen.Learnt != nil && !t.Late { // a trace is its root's operation's demand
			t.Seen.Learnt.Latest().Came(t.Seen.Spans, t.Seen.Stand)
		}
		if !t.Verdict.Keep && h.journal != nil {
			h.journal.note(t.ID, t.Verdict, 0)
		}
		for n, p := range judged.Of(t) {
			runs := p.runs()
			spans := classes(&counts, p.batch, runs, t.Verdict.Keep)
			if t.Verdict.Keep {
				all += spans
			} else if !h.cfg.DryRun {
				h.drop(p)
				continue
			}
			first := n == 0 && !t.Seen.Rooted && !t.Late
			for k := range runs {
				*kept = append(*kept, pick{p.batch, &runs[k], t, first && k == 0})
			}
		}
	}
	h.metrics.record(ctx)
	h.sampler.rates.Load().Kept(all, time.Now().UnixNano())
	counts.record(ctx, h.sampler.told.WeirSamplingSpans)
	s.sendPicked(ctx, judged, *kept)
	clear(*kept)
	*kept = (*kept)[:0]
	picks.Put(kept)
}

// classes counts spans by class.
func classes(counts *tally, b *batch, runs []run, keep bool) (spans int64) {
	for i := range runs {
		n, class := int64(runs[i].spans), b.origins[runs[i].origin].service.Class
		if spans += n; keep {
			counts.add(class, n, 0)
		} else {
			counts.add(class, 0, n)
		}
	}
	return spans
}

// sendPicked puts what came together together again, and sends it.
func (s *sender) sendPicked(ctx context.Context, judged *whole.Judged[part], kept []pick) {
	slices.SortFunc(kept, func(a, b pick) int {
		return cmp.Or(cmp.Compare(a.batch.number, b.batch.number), cmp.Compare(a.run.start, b.run.start))
	})
	var parcels []*parcel
	for len(kept) > 0 {
		size, n := 0, 0
		for n < len(kept) && (size < maxParcel || kept[n].batch == kept[n-1].batch) {
			size += int(kept[n].run.end - kept[n].run.start)
			n++
		}
		parcels = append(parcels, pack(kept[:n], size))
		kept = kept[n:]
	}
	s.owe(judged, parcels)
	for _, p := range parcels {
		s.forward(ctx, p)
	}
}

func pack(kept []pick, size int) *parcel {
	p := &parcel{data: make([]byte, 0, size+size/4), marks: make([]mark, len(kept)), last: kept[len(kept)-1].batch.number}
	for i, k := range kept {
		p.marks[i] = mark{k.trace.Verdict, k.run.spans, k.first}
		p.spans += int(k.run.spans)
	}
	for len(kept) > 0 {
		same := 1
		for same < len(kept) && kept[same].batch == kept[0].batch && kept[same].run.origin == kept[0].run.origin {
			same++
		}
		p.append(kept[:same])
		kept = kept[same:]
	}
	return p
}

// append appends spans of one origin as a ResourceSpans message.
func (p *parcel) append(kept []pick) {
	data := kept[0].batch.data
	o := &kept[0].batch.origins[kept[0].run.origin]
	scope := len(o.scope[0]) + len(o.scope[1])
	for i := range kept {
		scope += int(kept[i].run.end - kept[i].run.start)
	}
	resource := len(o.resource[0]) + len(o.resource[1]) + headSize(scope) + scope
	p.data = appendHead(p.data, tracesResourceSpans, resource)
	p.data = append(append(p.data, o.resource[0]...), o.resource[1]...)
	p.data = appendHead(p.data, resourceSpansScopes, scope)
	p.data = append(append(p.data, o.scope[0]...), o.scope[1]...)
	for i := range kept {
		p.data = append(p.data, data[kept[i].run.start:kept[i].run.end]...)
	}
}

// owe notes with each parcel which parts are done with when it is taken. They are held no more.
func (s *sender) owe(judged *whole.Judged[part], parcels []*parcel) {
	h := s.holder
	for i := range judged.Traces {
		t := &judged.Traces[i]
		if !t.Verdict.Keep && !h.cfg.DryRun {
			continue
		}
		for _, p := range judged.Of(t) {
			if h.journal != nil {
				n, _ := slices.BinarySearchFunc(parcels, p.batch.number, func(p *parcel, number uint64) int { return cmp.Compare(p.last, number) })
				parcels[n].owed = append(parcels[n].owed, owed{p.batch, t.ID, t.Verdict})
			}
			h.release(p.batch)
		}
	}
}

// forward sends a parcel, or has it wait behind those that do.
func (s *sender) forward(ctx context.Context, p *parcel) {
	s.mu.Lock()
	wait := len(s.waiting) > 0
	if wait {
		s.queue(p)
	}
	s.mu.Unlock()
	if wait || s.deliver(ctx, p) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(p)
}

// queue has a parcel wait. The caller holds mu.
func (s *sender) queue(p *parcel) {
	if len(s.waiting) == 0 {
		s.delay = retryFirst
		s.again = time.Now().Add(s.delay)
	}
	s.waiting = append(s.waiting, p)
	s.bytes.Add(int64(len(p.data)))
	s.spans.Add(int64(p.spans))
}

// retry sends what waits, until it is refused again. Without an instant it is time for that whatever was the last.
func (s *sender) retry(ctx context.Context, now time.Time) {
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 || !now.IsZero() && now.Before(s.again) {
			s.mu.Unlock()
			return
		}
		p := s.waiting[0]
		s.mu.Unlock()
		taken := s.deliver(ctx, p)
		s.mu.Lock()
		if !taken {
			s.delay = min(2*s.delay, retryLast)
			s.again = time.Now().Add(s.delay)
			s.mu.Unlock()
			return
		}
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		s.bytes.Add(-int64(len(p.data)))
		s.spans.Add(-int64(p.spans))
	}
}

// lose gives up what waits.
func (s *sender) lose() {
	for _, p := range s.waiting {
		s.lost(p, "the next component refused them until the end, and there is no storage")
	}
	s.waiting = nil
}

func (s *sender) lost(p *parcel, why string, fields ...zap.Field) {
	s.holder.metrics.lost.Add(context.Background(), int64(p.spans))
	s.holder.log.Error("spans of kept traces are lost: "+why, append(fields, zap.Int("spans", p.spans))...)
	s.finish(p)
}

// deliver hands a parcel over, and says whether it is done with.
func (s *sender) deliver(ctx context.Context, p *parcel) bool {
	var u ptrace.ProtoUnmarshaler
	td, err := u.UnmarshalTraces(p.data)
	if err != nil {
		s.lost(p, "they are malformed", zap.Error(err))
		return true
	}
	s.write(td, p.marks)
	switch err := s.next.ConsumeTraces(ctx, td); {
	case err == nil:
		s.finish(p)
		return true
	case consumererror.IsPermanent(err):
		s.lost(p, "the next component refuses them for good", zap.Error(err))
		return true
	default:
		s.holder.log.Warn("the next component refuses spans of kept traces; they are sent again", zap.Int("spans", p.spans), zap.Error(err))
		return false
	}
}

// finish is done with a parcel.
func (s *sender) finish(p *parcel) {
	for _, o := range p.owed {
		s.holder.journal.note(o.id, o.verdict, o.batch.number)
		s.holder.finish(o.batch)
	}
}

// write writes on spans what they stand for, and on the root, or where there is none on the first, why it was kept. The
// marks are in the order of the spans.
func (s *sender) write(td ptrace.Traces, marks []mark) {
	w := writer{cfg: &s.holder.cfg}
	left := uint32(0)
	var m *mark
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				first := left == 0
				if first {
					m, marks = &marks[0], marks[1:]
					left = m.spans
				}
				left--
				w.write(span, m, first && m.first)
			}
		}
	}
}

type writer struct {
	cfg *WholeConfig
	sampling.Writer
}

func (w *writer) write(span ptrace.Span, m *mark, first bool) {
	chance := m.verdict.Chance
	if chance == sampling.Always { // of a root that came late
		chance, _ = byChance(span)
	}
	before := span.TraceState().AsRaw()
	switch {
	case w.cfg.DryRun:
		span.Attributes().PutBool(w.cfg.Why+".keep", m.verdict.Keep)
	case chance > sampling.Always && !sampling.ParseState(before).HasThreshold:
		state := sampling.ParseState(before).Independent(chance, span.TraceID())
		span.TraceState().FromRaw(sampling.WithRandomness(before, state.Final(m.verdict.Threshold, state.Randomness), state.Randomness))
	default:
		threshold := m.verdict.Threshold
		if before != "" {
			state := sampling.ParseState(before)
			threshold = state.Final(threshold, state.RandomnessOf(span.TraceID()))
		}
		span.TraceState().FromRaw(w.WithThreshold(before, threshold))
	}
	if w.cfg.Why != "" && (first || span.ParentSpanID().IsEmpty()) {
		span.Attributes().PutStr(w.cfg.Why+".rule", m.verdict.Rule.String())
		span.Attributes().PutDouble(w.cfg.Why+".rate", m.verdict.Threshold.Probability())
	}
}
