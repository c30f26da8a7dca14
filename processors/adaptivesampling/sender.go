package adaptivesampling

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/sampling/whole"
)

const (
	maxParcel  = 1 << 20 // unpacked bytes that go on at once, which are some 4,000 spans
	maxPooled  = 1 << 23 // bytes of a buffer that is used again
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

// parcel is spans that go on together, packed, and what is to be written on them.
type parcel struct {
	data  string // of its parts
	spans int
	parts []keptPart
}

// keptPart is a part of a trace that is kept. The parcel has its data.
type keptPart struct {
	batch   *batch
	size    int // bytes
	spans   int
	id      whole.ID
	verdict whole.Verdict
	first   bool // of a trace without a root: its first span says why it was kept
}

// pick is a part that is kept, by the number of its trace among those that are judged, and of itself in that. Picks are put
// in order by what shares a head, and then as it came.
type pick struct {
	origin, number uint64
	at             int32 // of the part in its batch
	trace, nth     int32
}

func (p pick) part(judged *whole.Judged[part]) part { return judged.Of(&judged.Traces[p.trace])[p.nth] }

func compare(a, b pick) int {
	return cmp.Or(cmp.Compare(a.origin, b.origin), cmp.Compare(a.number, b.number), cmp.Compare(a.at, b.at))
}

// choice is what is kept of traces that are judged together. It is used again.
type choice struct {
	kept   []pick
	counts tally
}

var choices = sync.Pool{New: func() any { return new(choice) }}

var found = sync.Pool{New: func() any { return new([]part) }}

// send sends on what is kept of traces that the table has judged, and is done with the rest.
func (s *sender) send(ctx context.Context, judged *whole.Judged[entry]) {
	if len(judged.Traces) == 0 {
		return
	}
	parts := found.Get().(*[]part)
	*parts = s.holder.live.of((*parts)[:0], judged.Parts)
	s.settle(ctx, &whole.Judged[part]{Traces: judged.Traces, Parts: *parts})
	clear(*parts)
	found.Put(parts)
}

// settle does that of parts that are found. A trace of which a part is being packed is left to who packs it.
func (s *sender) settle(ctx context.Context, judged *whole.Judged[part]) {
	h := s.holder
	c := choices.Get().(*choice)
	var all int64
	for i := range judged.Traces {
		t := &judged.Traces[i]
		if postpone(t, judged.Of(t)) {
			continue
		}
		h.metrics.count(t)
		if t.Seen.Learnt != nil && !t.Late { // a trace is its root's operation's demand
			t.Seen.Learnt.Latest().Came(t.Seen.Spans, t.Seen.Stand)
		}
		if !t.Verdict.Keep && h.journal != nil {
			h.journal.note(t.ID, t.Verdict, 0)
		}
		for n, p := range judged.Of(t) {
			all += c.counts.part(p, t.Verdict.Keep)
			if !t.Verdict.Keep && !h.cfg.DryRun {
				h.drop(p)
				continue
			}
			c.kept = append(c.kept, pick{p.batch.origin, p.batch.number, p.nth, int32(i), int32(n)})
		}
	}
	h.metrics.record(ctx)
	h.sampler.rates.Load().Kept(all, time.Now().UnixNano())
	c.counts.record(ctx, h.sampler.told.WeirSamplingSpans)
	slices.SortFunc(c.kept, compare)
	for left := c.kept; len(left) > 0; {
		var p *parcel
		p, left = s.pack(judged, left)
		s.forward(ctx, p)
	}
	c.kept = c.kept[:0]
	choices.Put(c)
}

// pack puts the first of what is kept in a parcel, by which it is held no more, and gives the rest.
func (s *sender) pack(judged *whole.Judged[part], kept []pick) (*parcel, []pick) {
	size, unpacked, n := 0, 0, 0
	for ; n < len(kept) && unpacked < maxParcel; n++ {
		of := kept[n].part(judged)
		size += len(of.data())
		unpacked += int(of.place().unpacked)
	}
	p := &parcel{parts: make([]keptPart, n)}
	var data strings.Builder
	data.Grow(size)
	for i, k := range kept[:n] {
		t, of := &judged.Traces[k.trace], k.part(judged)
		p.parts[i] = keptPart{
			batch: of.batch, size: len(of.data()), spans: int(of.place().spans),
			id: t.ID, verdict: t.Verdict, first: k.nth == 0 && !t.Seen.Rooted && !t.Late,
		}
		p.spans += p.parts[i].spans
		data.WriteString(of.data())
		s.holder.release(of)
	}
	p.data = data.String()
	return p, kept[n:]
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
	td, err := s.unpack(p)
	if err != nil {
		s.lost(p, "they are malformed", zap.Error(err))
		return true
	}
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
	for i := range p.parts {
		k := &p.parts[i]
		if s.holder.journal != nil {
			s.holder.journal.note(k.id, k.verdict, k.batch.number)
		}
		s.holder.finish(k.batch)
	}
}

// unpack makes the spans of a parcel anew, where they belong, and writes on them what they stand for, and on the root, or
// where there is none on the first, why it was kept.
func (s *sender) unpack(p *parcel) (ptrace.Traces, error) {
	w := writers.Get().(*writer)
	defer w.release()
	w.begin(s.holder.cfg, p.data)
	for parts := p.parts; len(parts) > 0; {
		same := 1
		for same < len(parts) && parts[same].batch.origin == parts[0].batch.origin {
			same++
		}
		w.spans, w.places, w.scopes = w.spans[:0], w.places[:0], w.scopes[:0]
		for i := range parts[:same] {
			w.part(&parts[i])
		}
		w.under(parts[0].batch.head)
		parts = parts[same:]
	}
	return new(ptrace.ProtoUnmarshaler).UnmarshalTraces(w.request)
}
