package adaptivesampling

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

const (
	sweepEach     = 100 * time.Millisecond
	forgetEach    = time.Minute
	forgotten     = time.Hour // an operation without traces, or twice rarerThan where that is longer
	maxOperations = 10_000    // with a history; 0.7 KB each
	// spanOverhead is what a span takes beside its bytes on the wire, which take twice as much in memory.
	spanOverhead = 512
)

// holder holds spans until their traces are judged, and sends on what is kept.
type holder struct {
	cfg     WholeConfig
	log     *zap.Logger
	sampler *sampler
	next    consumer.Traces
	traces  metric.Int64Counter
	told    metric.Registration

	rules      atomic.Pointer[rules] // nil: spans are judged one by one
	table      *whole.Table[part]
	operations *whole.Operations

	done chan struct{} // closed to stop the sweeper
	wait sync.WaitGroup
	once sync.Once
}

type rules struct {
	whole.Rules
	marked []string
}

// origin is what spans that came together share. It is read only.
type origin struct {
	resource ptrace.ResourceSpans // without spans
	scope    ptrace.ScopeSpans    // without spans
	service  *sampling.Service
}

// part is spans of one trace from one origin.
type part struct {
	*origin
	spans []ptrace.Span // each a pointer, so that none keeps the others of its batch in memory
}

func newHolder(set component.TelemetrySettings, cfg WholeConfig, s *sampler, next consumer.Traces) (*holder, error) {
	h := &holder{
		cfg: cfg, log: set.Logger, sampler: s, next: next, done: make(chan struct{}), operations: whole.NewOperations(maxOperations),
		table: whole.NewTable[part](whole.Limits{Spans: cfg.MaxSpans, Bytes: cfg.MaxBytes, Decisions: cfg.Decisions}),
	}
	meter := set.MeterProvider.Meter(scopeName)
	var err error
	h.traces, err = meter.Int64Counter("weir_sampling_traces",
		metric.WithDescription("Traces judged whole, by rule, decision (kept or dropped) and whether they were shed (judged early for want of room)."), metric.WithUnit("{traces}"))
	if err != nil {
		return nil, fmt.Errorf("metric weir_sampling_traces: %w", err)
	}
	held, err := meter.Int64ObservableGauge("weir_sampling_held_spans", metric.WithDescription("Spans whose traces are not judged yet."), metric.WithUnit("{spans}"))
	if err != nil {
		return nil, fmt.Errorf("metric weir_sampling_held_spans: %w", err)
	}
	h.told, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(held, h.table.Held())
		return nil
	}, held)
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
		RarerThan: time.Duration(k.RarerThan), Wait: time.Duration(spec.Wait),
	}})
}

func (h *holder) start() { h.wait.Go(h.sweep) }

// sweep judges the traces whose wait is over, until the end. Where documents no longer hold traces, those that are
// held go at once.
func (h *holder) sweep() {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	forget := time.Now()
	for {
		select {
		case <-h.done:
			return
		case now := <-tick.C:
			if rules := h.rules.Load(); rules != nil {
				h.send(context.Background(), h.table.Sweep(nil, &rules.Rules, now.UnixNano()))
				if now.Sub(forget) > forgetEach {
					forget = now
					h.operations.Forget(now.Add(-max(forgotten, 2*rules.RarerThan)).UnixNano())
				}
			} else if h.table.Held() > 0 {
				h.flush(context.Background())
			}
		}
	}
}

func (h *holder) flush(ctx context.Context) {
	var none rules
	r := h.rules.Load()
	if r == nil {
		r = &none
	}
	h.send(ctx, h.table.Flush(nil, &r.Rules, time.Now().UnixNano()))
}

func (h *holder) shutdown(ctx context.Context) (err error) {
	h.once.Do(func() {
		close(h.done)
		h.wait.Wait()
		h.flush(ctx)
		err = h.told.Unregister()
	})
	return err
}

// take moves all spans into the table, and sends on what is judged by that.
func (h *holder) take(ctx context.Context, td ptrace.Traces, rates *sampling.Rates, rules *rules, now int64) {
	var released []whole.Released[part]
	for _, rs := range td.ResourceSpans().All() {
		ref, claimed := documents.Service(rs.Resource())
		service := rates.Service(ref, claimed)
		resource := ptrace.NewResourceSpans()
		rs.Resource().MoveTo(resource.Resource())
		resource.SetSchemaUrl(rs.SchemaUrl())
		for _, ss := range rs.ScopeSpans().All() {
			o := &origin{resource: resource, scope: ptrace.NewScopeSpans(), service: service}
			ss.Scope().MoveTo(o.scope.Scope())
			o.scope.SetSchemaUrl(ss.SchemaUrl())
			s := scratches.Get().(*scratch)
			h.group(s, ss.Spans(), o, ref, rates.Adaptive(), rules, now)
			for _, g := range s.groups {
				released = h.table.Add(released, &rules.Rules, g.id, g.seen, part{o, g.spans}, now)
			}
			s.clear()
			scratches.Put(s)
		}
	}
	h.send(ctx, released)
}

type group struct {
	id    whole.ID
	seen  whole.Seen
	spans []ptrace.Span
}

// scratch is the groups of one scope's spans; it is used again.
type scratch struct {
	groups []group
	index  map[whole.ID]int // of groups
}

var scratches = sync.Pool{New: func() any { return &scratch{index: map[whole.ID]int{}} }}

func (s *scratch) clear() {
	clear(s.groups)
	s.groups = s.groups[:0]
	clear(s.index)
}

// group takes the spans out of their batch, into one slice for each trace.
func (h *holder) group(s *scratch, batch ptrace.SpanSlice, o *origin, ref policy.Ref, adaptive bool, rules *rules, now int64) {
	var size ptrace.ProtoMarshaler
	spans := ptrace.NewSpanSlice()
	batch.MoveAndAppendTo(spans) // so that whoever owns the batch can't reuse them
	shared := 2 * (size.ResourceSpansSize(o.resource) + size.ScopeSpansSize(o.scope)) / max(spans.Len(), 1)
	for _, span := range spans.All() {
		seen := whole.Seen{Spans: 1, Bytes: spanOverhead + shared + 2*size.SpanSize(span)}
		look(span, &seen, rules.marked)
		state := stateOf(span)
		seen.Randomness = state.RandomnessOf(span.TraceID())
		if adaptive {
			operation := o.service.Operation(span.Name())
			seen.Threshold = operation.Threshold()
			adjusted := 1.0
			if state.HasThreshold && state.Threshold.Keep(seen.Randomness) {
				adjusted = state.Threshold.AdjustedCount()
			}
			operation.Seen(adjusted, false)
		} else {
			seen.Threshold = o.service.Threshold(span.Name())
		}
		seen.Operation = h.operations.Of(ref, span.Name(), now)
		i, ok := s.index[span.TraceID()]
		if !ok {
			s.index[span.TraceID()] = len(s.groups)
			s.groups = append(s.groups, group{span.TraceID(), seen, []ptrace.Span{span}})
			continue
		}
		g := &s.groups[i]
		g.seen.Merge(&seen)
		g.spans = append(g.spans, span)
	}
}

func stateOf(span ptrace.Span) sampling.State {
	tracestate := span.TraceState().AsRaw()
	if tracestate == "" { // the usual case
		return sampling.State{}
	}
	return sampling.ParseState(tracestate)
}

// look notes what rules ask of a span.
func look(span ptrace.Span, seen *whole.Seen, marked []string) {
	start, end := int64(span.StartTimestamp()), int64(span.EndTimestamp())
	if start > 0 && end >= start { // a clock that makes no sense says nothing
		seen.Start, seen.End = start, end
		seen.Longest = time.Duration(end - start)
	}
	seen.Failed = span.Status().Code() == ptrace.StatusCodeError
	if seen.Rooted = span.ParentSpanID().IsEmpty(); seen.Rooted {
		seen.Took = seen.Longest
	}
	for _, name := range marked {
		if v, ok := span.Attributes().Get(name); ok && marks(v) {
			seen.Marked = true
		}
	}
}

func marks(v pcommon.Value) bool {
	s := v.AsString()
	return s != "" && s != "false"
}

// send sends on what is kept. What the next component refuses is lost, since its senders were told long ago that it
// was taken: a queue belongs behind.
func (h *holder) send(ctx context.Context, released []whole.Released[part]) {
	if len(released) == 0 {
		return
	}
	out := ptrace.NewTraces()
	var counts tally
	var all int64
	places := map[*origin]ptrace.SpanSlice{} // what came together goes together
	for i := range released {
		r := &released[i]
		h.count(ctx, r)
		told := false
		for _, p := range r.Parts {
			n := int64(len(p.spans))
			if r.Verdict.Keep {
				all += n
				counts.add(p.service.Class, n, 0)
			} else {
				counts.add(p.service.Class, 0, n)
				if !h.cfg.DryRun {
					continue
				}
			}
			told = h.mark(r, p.spans, told)
			spans, ok := places[p.origin]
			if !ok {
				spans = p.appendTo(out)
				places[p.origin] = spans
			}
			for _, span := range p.spans {
				span.MoveTo(spans.AppendEmpty())
			}
		}
	}
	h.sampler.rates.Load().Kept(all, time.Now().UnixNano())
	counts.record(ctx, h.sampler.spans)
	if out.ResourceSpans().Len() == 0 {
		return
	}
	n := out.SpanCount()
	if err := h.next.ConsumeTraces(ctx, out); err != nil && !errors.Is(err, context.Canceled) {
		h.log.Error("spans of kept traces are lost: the next component refuses them; put a queue behind", zap.Int("spans", n), zap.Error(err))
	}
}

func (h *holder) count(ctx context.Context, r *whole.Released[part]) {
	if r.Late {
		return
	}
	decision := "dropped"
	if r.Verdict.Keep {
		decision = "kept"
	}
	h.traces.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("rule", r.Verdict.Rule.String()),
		attribute.String("decision", decision), attribute.Bool("shed", r.Shed))))
}

// mark writes on spans what they stand for, and on the root, or where there is none on the first, why it was kept.
func (h *holder) mark(r *whole.Released[part], spans []ptrace.Span, told bool) bool {
	for _, span := range spans {
		if h.cfg.DryRun {
			span.Attributes().PutBool(h.cfg.Why+".keep", r.Verdict.Keep)
		} else {
			state := stateOf(span)
			span.TraceState().FromRaw(sampling.WithThreshold(span.TraceState().AsRaw(), state.Final(r.Verdict.Threshold, state.RandomnessOf(span.TraceID()))))
		}
		root := span.ParentSpanID().IsEmpty()
		if h.cfg.Why != "" && (root || !told && !r.Seen.Rooted && !r.Late) {
			told = true
			span.Attributes().PutStr(h.cfg.Why+".rule", r.Verdict.Rule.String())
			span.Attributes().PutDouble(h.cfg.Why+".rate", r.Verdict.Threshold.Probability())
		}
	}
	return told
}

// appendTo gives a place for spans of the origin.
func (o *origin) appendTo(td ptrace.Traces) ptrace.SpanSlice {
	rs := td.ResourceSpans().AppendEmpty()
	o.resource.CopyTo(rs)
	ss := rs.ScopeSpans().AppendEmpty()
	o.scope.CopyTo(ss)
	return ss.Spans()
}
