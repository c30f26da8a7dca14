package adaptivesampling

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/processors/adaptivesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

const (
	sweepEach     = 100 * time.Millisecond
	forgetEach    = time.Minute
	forgotten     = time.Hour // an operation without traces, or twice rarerThan where that is longer
	maxOperations = 10_000    // with a history; 0.7 KB each
	maxSweepers   = 16
	spanOverhead  = 64 // bytes that a held span takes beside its own, with its part of what is known of its trace
	shedParts     = 32 // of what may be held one is shed at a time
)

var errFull = errors.New("what is kept is not taken by the next component, and whole.max_bytes of it wait: try again later")

// holder holds spans until their traces are judged, and sends on what is kept.
type holder struct {
	cfg     *Config
	log     *zap.Logger
	sampler *sampler
	sender  *sender
	journal *journal // nil: nothing is kept over a restart
	metrics *wholeMetrics

	rules      atomic.Pointer[rules] // nil: spans are judged one by one
	table      *whole.Table[entry]
	operations *whole.Operations
	live       live
	short      atomic.Int32 // how many want room that there was not
	shedding   sync.Mutex   // held by one of them

	done chan struct{} // closed to stop the sweepers
	wait sync.WaitGroup
	once sync.Once
}

type rules struct {
	whole.Rules
	marked []string
}

func newHolder(set component.TelemetrySettings, told *metadata.TelemetryBuilder, cfg *Config, s *sampler, next consumer.Traces) (*holder, error) {
	h := &holder{
		cfg: cfg, log: set.Logger, sampler: s, done: make(chan struct{}),
		operations: whole.NewOperations(maxOperations), table: whole.NewTable[entry](cfg.Whole.Decisions),
	}
	h.sender = &sender{holder: h, next: next}
	var err error
	h.metrics, err = newWholeMetrics(told, h)
	return h, err
}

// apply puts the rules of new documents in force, for what is held too.
func (h *holder) apply(spec *policy.SamplingSpec) {
	k := spec.Keep
	if k == nil {
		h.rules.Store(nil)
		return
	}
	h.rules.Store(&rules{marked: k.Marked, Rules: whole.Rules{
		Errors: k.Errors, SlowerThan: time.Duration(k.SlowerThan), SlowestPercent: k.SlowestPercent,
		RarerThan: time.Duration(k.RarerThan), Marks: len(k.Marked) > 0, Wait: time.Duration(spec.Wait),
	}})
}

// inForce are the rules; without any, what is held is judged by its rates.
func (h *holder) inForce() *rules {
	if r := h.rules.Load(); r != nil {
		return r
	}
	return new(rules)
}

// start takes up what is in the journal, which may be nil, and starts the sweepers.
func (h *holder) start(ctx context.Context, j *journal) error {
	h.journal = j
	if j != nil {
		if err := j.replay(ctx, h); err != nil {
			return err
		}
	}
	sweepers := min(runtime.GOMAXPROCS(0), maxSweepers)
	for i := range sweepers {
		h.wait.Go(func() { h.sweep(i, sweepers) })
	}
	h.wait.Go(h.tidy)
	return nil
}

// sweep judges the traces whose wait is over, of the shards that are this sweeper's, until the end. Where documents no
// longer hold traces, those that are held go at once.
func (h *holder) sweep(first, step int) {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	var judged whole.Judged[entry]
	for {
		select {
		case <-h.done:
			return
		case now := <-tick.C:
			rules := h.inForce()
			h.table.Sweep(&judged, &rules.Rules, first, step, now.UnixNano()-int64(rules.Wait), now.UnixNano(), false)
			h.sender.send(context.Background(), &judged)
			judged.Reset()
		}
	}
}

// tidy sends again what was refused, writes down what is done with, and forgets operations that are no more.
func (h *holder) tidy() {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	forget := time.Now()
	for {
		select {
		case <-h.done:
			return
		case now := <-tick.C:
			h.sender.retry(context.Background(), now)
			if h.journal != nil {
				h.journal.flush()
			}
			if now.Sub(forget) > forgetEach {
				forget = now
				h.operations.Forget(now.Add(-max(forgotten, 2*h.inForce().RarerThan)).UnixNano())
			}
		}
	}
}

// judgeAll judges everything that is held.
func (h *holder) judgeAll(ctx context.Context) {
	var judged whole.Judged[entry]
	now := time.Now().UnixNano()
	h.table.Sweep(&judged, &h.inForce().Rules, 0, 1, math.MaxInt64, now, false)
	h.sender.send(ctx, &judged)
}

// shutdown leaves what is held to the journal, or judges it and sends it on.
func (h *holder) shutdown(ctx context.Context) (err error) {
	h.once.Do(func() {
		close(h.done)
		h.wait.Wait()
		if h.journal == nil {
			h.judgeAll(ctx)
			h.sender.retry(ctx, time.Time{})
			h.sender.lose()
		} else {
			h.journal.flush()
			err = h.journal.client.Close(ctx)
		}
	})
	return err
}

// take takes a request of so many spans, which is kept no longer than the call, and sends on what is judged by that. They are
// kept over a crash from then on, where there is a journal.
func (h *holder) take(ctx context.Context, request []byte, spans int, rates *sampling.Rates, rules *rules, now int64) error {
	if h.full() {
		h.metrics.refused.Add(ctx, int64(spans))
		return errFull
	}
	b := &batch{number: h.live.next(), arrived: now}
	if h.journal != nil {
		if err := h.journal.put(b.number, request); err != nil {
			return err
		}
	}
	h.add(ctx, request, b, rates, rules, now, nil)
	return nil
}

// add puts a batch into the table. What is done with of one that was in the journal is left out.
func (h *holder) add(ctx context.Context, request []byte, b *batch, rates *sampling.Rates, rules *rules, now int64, done map[doneWith]bool) {
	r := readers.Get().(*reader)
	defer r.release()
	r.holder, r.rates, r.rules, r.now = h, rates, rules, now
	r.look(b, request)
	if spans := int64(len(r.runs)); !h.makeRoom(ctx, func() bool { return h.reserveSpans(spans) }) {
		h.live.spans.Add(spans) // it is too large, and judged below
	}
	r.judge(b, done)
	if !h.makeRoom(ctx, func() bool { return h.reserveBytes(b.size) }) {
		h.live.bytes.Add(b.size) // so here
	}
	h.live.enter(b)
	postponed := r.hold(b)
	if len(r.groups) == 0 { // nobody else will
		h.live.end(b)
		h.finish(b)
	}
	for i := range r.groups {
		if r.groups[i].done {
			h.drop(part{b, int32(i)})
		}
	}
	h.sender.send(ctx, &r.judged)
	h.sender.settle(ctx, &postponed)
	h.makeRoom(ctx, func() bool { return h.reserveSpans(0) && h.reserveBytes(0) })
}

// full says whether too much that is kept waits to be taken by the next component: then senders are to keep their spans.
func (h *holder) full() bool { return h.sender.bytes.Load() > int64(h.cfg.Whole.MaxBytes)/2 }

// reserveSpans takes room for so many, if there is.
func (h *holder) reserveSpans(n int64) bool {
	return reserve(&h.live.spans, n, int64(h.cfg.Whole.MaxSpans))
}

// reserveBytes takes room for so many, if there is.
func (h *holder) reserveBytes(n int64) bool {
	return reserve(&h.live.bytes, n, int64(h.cfg.Whole.MaxBytes)-h.sender.bytes.Load())
}

func reserve(held *atomic.Int64, n, most int64) bool {
	for {
		now := held.Load()
		if now+n > most {
			return false
		}
		if held.CompareAndSwap(now, now+n) {
			return true
		}
	}
}

// makeRoom judges the oldest traces before their time until there is enough room, and says whether there is.
func (h *holder) makeRoom(ctx context.Context, enough func() bool) bool {
	if h.short.Load() == 0 && enough() { // the usual case
		return true
	}
	h.short.Add(1) // nobody takes what is made now
	defer h.short.Add(-1)
	h.shedding.Lock()
	defer h.shedding.Unlock()
	var judged whole.Judged[entry]
	for parts := shedParts; parts > 0; parts /= 2 {
		if enough() {
			return true
		}
		now := time.Now().UnixNano()
		began := int64(math.MaxInt64)
		if parts > 1 {
			began = h.live.oldest(int64(h.cfg.Whole.MaxBytes/parts), h.cfg.Whole.MaxSpans/parts)
		}
		h.table.Sweep(&judged, &h.inForce().Rules, 0, 1, began, now, true)
		h.sender.send(ctx, &judged)
		judged.Reset()
	}
	return enough()
}

// drop is done with a part that is not sent on.
func (h *holder) drop(p part) {
	h.release(p)
	h.finish(p.batch)
}

// release is that a part of a batch is held no more. The last one frees the spans.
func (h *holder) release(p part) {
	h.live.spans.Add(-int64(p.place().spans))
	if b := p.batch; b.held.Add(-1) == 0 {
		b.data = ""
		h.live.end(b)
	}
}

// finish is done with a part of a batch: it is dropped, or taken by the next component.
func (h *holder) finish(b *batch) {
	if b.owed.Add(-1) <= 0 && h.journal != nil {
		h.journal.remove(b.number)
	}
}

// live is the batches of which spans are held, in the order in which they came.
type live struct {
	spans   atomic.Int64
	bytes   atomic.Int64
	numbers atomic.Uint64

	mu      sync.Mutex // guards what follows
	batches []*batch
	slots   []*batch // whose slot says where; nil: it is free
	free    []int32
}

func (l *live) next() uint64 { return l.numbers.Add(1) }

// begin gives a batch a slot, by which its parts are found for as long as one is held.
func (l *live) begin(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		b.slot, l.free = l.free[n-1], l.free[:n-1]
		l.slots[b.slot] = b
		return
	}
	b.slot = int32(len(l.slots))
	l.slots = append(l.slots, b)
}

// end is that nothing of a batch is held any more.
func (l *live) end(b *batch) {
	l.bytes.Add(-b.size)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[b.slot] = nil
	l.free = append(l.free, b.slot)
}

// of finds parts that are held, and appends them to dst.
func (l *live) of(dst []part, all []entry) []part {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range all {
		dst = append(dst, part{l.slots[p.slot], p.nth})
	}
	return dst
}

// enter puts a batch behind those that came before. Its bytes are counted already.
func (l *live) enter(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := 0
	for gone < len(l.batches) && l.batches[gone].held.Load() == 0 {
		gone++
	}
	clear(l.batches[:gone])
	l.batches = append(l.batches[gone:], b)
}

// oldest gives when the last of the oldest batches came that have so many bytes or spans together.
func (l *live) oldest(bytes int64, spans int) (arrived int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.batches {
		if b.held.Load() == 0 {
			continue
		}
		bytes -= b.size
		spans -= b.spans
		if arrived = max(arrived, b.arrived); bytes <= 0 || spans <= 0 {
			break
		}
	}
	return arrived
}
