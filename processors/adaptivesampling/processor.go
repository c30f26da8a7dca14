package adaptivesampling

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/processors/adaptivesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/fleet"
)

// sampler drops the spans that the rates in force don't keep.
type sampler struct {
	replicas int
	mark     string                         // the attribute of a dry run; "": it is none
	rates    atomic.Pointer[sampling.Rates] // nil before the first documents are applied
	told     *metadata.TelemetryBuilder
	whole    *holder
	leave    func() // those who publish the rates; nil before they are told
}

// maxTold is how many operations' rates are told as metrics.
const maxTold = 1000

func newSampler(set component.TelemetrySettings, cfg *Config, next consumer.Traces) (*sampler, error) {
	told, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	s := &sampler{replicas: cfg.Replicas, told: told}
	if cfg.DryRun {
		s.mark = cfg.Why + ".keep"
	}
	if s.whole, err = newHolder(set, told, cfg, s, next); err != nil {
		return nil, err
	}
	return s, errors.Join(
		told.RegisterWeirSamplingBudgetCallback(s.tellBudget),
		told.RegisterWeirSamplingRateCallback(s.tell(func(r sampling.Rate) (float64, bool) { return r.Percent / 100, true })),
		told.RegisterWeirSamplingDemandCallback(s.tell(func(r sampling.Rate) (float64, bool) { return r.Demand, s.rates.Load().Adaptive() })))
}

// tell gives something of the rates in force, where it is known.
func (s *sampler) tell(what func(sampling.Rate) (n float64, known bool)) metric.Float64Callback {
	return func(_ context.Context, o metric.Float64Observer) error {
		rates := s.rates.Load()
		if rates == nil {
			return nil
		}
		for _, r := range rates.InForce(maxTold) {
			n, known := what(r)
			if !known {
				continue
			}
			o.Observe(n, metric.WithAttributes(attribute.String("service", r.Service), attribute.String("operation", r.Operation), attribute.String("class", r.Class)))
		}
		return nil
	}
}

func (s *sampler) tellBudget(_ context.Context, o metric.Float64Observer) error {
	if rates := s.rates.Load(); rates != nil {
		if budget, adaptive := rates.Budget(); adaptive {
			o.Observe(budget)
		}
	}
	return nil
}

// share takes which shares of the budgets are this collector's.
func (s *sampler) share(held fleet.Held, now time.Time) {
	if rates := s.rates.Load(); rates != nil {
		rates.Share(held.At(now, 1/float64(s.replicas)))
	}
}

func (s *sampler) shutdown() {
	if s.leave != nil {
		s.leave()
	}
	s.told.Shutdown()
}

// apply puts new rates in force, between two batches.
func (s *sampler) apply(set *policy.Set) error {
	s.whole.apply(&set.Sampling.Spec)
	s.rates.Store(sampling.NewRates(&set.Sampling.Spec, set.Services, s.replicas, s.rates.Load()))
	return nil
}

func (s *sampler) process(ctx context.Context, td ptrace.Traces) (ptrace.Traces, error) {
	if request, spans, rest := lazy.Take(ctx); request != nil {
		return td, cmp.Or(s.processRequest(rest, request, spans), processorhelper.ErrSkipProcessingData)
	}
	rates := s.rates.Load()
	if rules := s.whole.rules.Load(); rules != nil {
		request, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
		if err == nil {
			err = s.whole.take(ctx, request, td.SpanCount(), rates, rules, time.Now().UnixNano())
		}
		return td, cmp.Or(err, processorhelper.ErrSkipProcessingData)
	}
	j := judges.Get().(*judge)
	defer j.release()
	j.rates = rates
	td.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		j.begin(documents.Service(rs.Resource()))
		var kept, dropped int64
		if s.mark == "" {
			kept, dropped = j.filter(rs)
		} else {
			kept, dropped = j.try(rs, s.mark)
		}
		j.count(kept, dropped)
		return kept == 0 && s.mark == ""
	})
	j.tell(ctx, s.told.WeirSamplingSpans)
	if td.ResourceSpans().Len() == 0 {
		return td, processorhelper.ErrSkipProcessingData
	}
	return td, nil
}

// processRequest judges the spans of a request that nobody has decoded, and sends on those that are kept.
func (s *sampler) processRequest(ctx context.Context, request []byte, spans int) error {
	rates := s.rates.Load()
	if rules := s.whole.rules.Load(); rules != nil {
		return s.whole.take(ctx, request, spans, rates, rules, time.Now().UnixNano())
	}
	j := judges.Get().(*judge)
	defer j.release()
	j.rates = rates
	j.request(request, s.mark)
	j.tell(ctx, s.told.WeirSamplingSpans)
	if len(j.out) == 0 {
		return nil
	}
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(j.out)
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	return s.whole.sender.next.ConsumeTraces(ctx, td)
}

// judge judges the spans of a batch, service by service. It is used again.
type judge struct {
	rates   *sampling.Rates
	service *sampling.Service
	names   memo
	state   tracestate
	counts  tally
	all     int64 // that are kept

	one otlp.Span
	out []byte // what is kept of a request
}

// begin begins with the spans of a service.
func (j *judge) begin(ref policy.Ref, claimed string) { j.service = j.rates.Service(ref, claimed) }

func (j *judge) count(kept, dropped int64) {
	j.counts.add(j.service.Class, kept, dropped)
	j.all += kept
}

// tell tells what came of a batch.
func (j *judge) tell(ctx context.Context, counter metric.Int64Counter) {
	j.names.tell()
	j.rates.Kept(j.all, time.Now().UnixNano())
	j.counts.record(ctx, counter)
}

// tracestate is the last one that was read, and what was written in its place: those of spans that come together are mostly alike.
type tracestate struct {
	sampling.Reader

	writer    sampling.Writer
	threshold sampling.Threshold // that is in written
	written   string             // "": nothing was
}

func (s *tracestate) read(text string) sampling.State {
	if text != s.Text() {
		s.written = ""
	}
	return s.Read(text)
}

// with gives what was read with another threshold.
func (s *tracestate) with(t sampling.Threshold) string {
	if s.written == "" || t != s.threshold {
		s.threshold, s.written = t, s.writer.WithThreshold(s.Text(), t)
	}
	return s.written
}

var judges = sync.Pool{New: func() any { return new(judge) }}

func (j *judge) release() {
	j.rates, j.service, j.all, j.one, j.out = nil, nil, 0, otlp.Span{}, j.out[:0]
	clear(j.names[:])
	j.state.Reader, j.state.written = sampling.Reader{}, ""
	if cap(j.out) <= maxPooled {
		judges.Put(j)
	}
}

// filter drops spans of the service, and scopes that become empty.
func (j *judge) filter(rs ptrace.ResourceSpans) (kept, dropped int64) {
	rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
		before := ss.Spans().Len()
		ss.Spans().RemoveIf(func(span ptrace.Span) bool { return !j.keep(span) })
		after := ss.Spans().Len()
		kept += int64(after)
		dropped += int64(before - after)
		return after == 0
	})
	return kept, dropped
}

// try marks spans of the service with what would become of them, and drops none.
func (j *judge) try(rs ptrace.ResourceSpans, mark string) (kept, dropped int64) {
	for _, ss := range rs.ScopeSpans().All() {
		for _, span := range ss.Spans().All() {
			before := span.TraceState().AsRaw()
			keep := j.keep(span)
			span.TraceState().FromRaw(before)
			span.Attributes().PutBool(mark, keep)
			if keep {
				kept++
			} else {
				dropped++
			}
		}
	}
	return kept, dropped
}

// keep says whether the span is kept, and if so writes on it at which threshold.
func (j *judge) keep(span ptrace.Span) bool {
	n := j.name(span.Name())
	if n.learnt != nil && n.learnt.Unplaced() {
		n.learnt.Placed(routeOf(span.Attributes()))
	}
	chance, _ := documents.ByChance(span)
	before := span.TraceState().AsRaw()
	kept, state := j.decide(n, span.TraceID(), before, chance)
	if state != before {
		span.TraceState().FromRaw(state)
	}
	return kept
}

// request goes through a request, and appends to out what is kept, or all of it with a mark.
func (j *judge) request(request []byte, mark string) {
	for f := otlp.FieldsOf(request); f.Next(); {
		if f.Number == otlp.RequestResourceSpans {
			j.resource(f.Body, mark)
		}
	}
}

func (j *judge) resource(message []byte, mark string) {
	j.begin(documents.ServiceOf(otlp.ResourceOf(message)))
	from := len(j.out)
	var at int
	j.out, at = otlp.Begin(j.out, otlp.RequestResourceSpans)
	var kept, dropped int64
	for f := otlp.FieldsOf(message); f.Next(); {
		if f.Number == otlp.ResourceSpansScopeSpans {
			k, d := j.scope(f.Body, mark)
			kept, dropped = kept+k, dropped+d
		} else {
			j.out = append(j.out, f.Whole...)
		}
	}
	otlp.End(j.out, at)
	if kept == 0 && mark == "" {
		j.out = j.out[:from]
	}
	j.count(kept, dropped)
}

func (j *judge) scope(message []byte, mark string) (kept, dropped int64) {
	from := len(j.out)
	var at int
	j.out, at = otlp.Begin(j.out, otlp.ResourceSpansScopeSpans)
	for f := otlp.FieldsOf(message); f.Next(); {
		switch {
		case f.Number != otlp.ScopeSpansSpans:
			j.out = append(j.out, f.Whole...)
		case j.span(f.Body, mark):
			kept++
		default:
			dropped++
		}
	}
	otlp.End(j.out, at)
	if kept == 0 && mark == "" {
		j.out = j.out[:from]
	}
	return kept, dropped
}

// span says whether a span is kept, and appends it if so, or if it is to be marked with that.
func (j *judge) span(message []byte, mark string) bool {
	s := &j.one
	s.Read(message)
	n := j.name(s.Name)
	if n.learnt != nil && n.learnt.Unplaced() {
		n.learnt.Placed(routeOf(s.Attributes()))
	}
	var chance sampling.Threshold
	if s.Root() {
		chance, _ = documents.ByChanceIn(s.Attributes())
	}
	kept, state := j.decide(n, s.TraceID, s.TraceState, chance)
	if !kept && mark == "" {
		return false
	}
	var at int
	j.out, at = otlp.Begin(j.out, otlp.ScopeSpansSpans)
	j.out = append(j.out, message...)
	switch {
	case mark != "":
		j.out = otlp.AppendBool(without(j.out, at, mark), otlp.SpanAttributes, mark, kept)
	case state != s.TraceState:
		j.out = otlp.AppendBytes(j.out, otlp.SpanState, state) // the last one holds
	}
	otlp.End(j.out, at)
	return kept
}

func (j *judge) name(text string) *name {
	n := &j.names[memoPlace(text)]
	if n.service != j.service || n.text != text {
		n.tell()
		*n = name{service: j.service, text: text}
		if j.rates.Adaptive() {
			n.learnt = j.service.Operation(text)
		} else {
			n.threshold = j.service.Threshold(text)
		}
	}
	return n
}

// tell tells an operation what came of it in a batch.
func (n *name) tell() {
	if n.came > 0 {
		n.learnt.Came(n.came, n.stand)
		n.came, n.stand = 0, 0
	}
}

func (m *memo) tell() {
	for i := range m {
		m[i].tell()
	}
}

// decide says whether a span of that name is kept, and which tracestate it is to have then. Chance is the threshold at which
// it was kept by chance before; [sampling.Always] is none.
func (j *judge) decide(n *name, id [16]byte, tracestate string, chance sampling.Threshold) (kept bool, state string) {
	if n.learnt == nil {
		kept, state, _ = j.by(n.threshold, id, tracestate, chance)
		return kept, state
	}
	kept, state, adjusted := j.by(n.learnt.Threshold(), id, tracestate, chance)
	n.came++
	n.stand += adjusted
	return kept, state
}

// by decides by a threshold. It gives the adjusted count with which the span came, too.
func (j *judge) by(threshold sampling.Threshold, id [16]byte, tracestate string, chance sampling.Threshold) (kept bool, state string, adjusted float64) {
	if tracestate == "" && chance == sampling.Always { // the usual case
		if !threshold.Keep(sampling.FromTraceID(id)) {
			return false, "", 1
		}
		return true, sampling.WithThreshold("", threshold), 1
	}
	earlier := j.state.read(tracestate)
	chosen := chance > sampling.Always && !earlier.HasThreshold
	if chosen {
		earlier = earlier.Independent(chance, id)
	}
	randomness := earlier.RandomnessOf(id)
	adjusted = earlier.AdjustedCount(randomness)
	if threshold = earlier.Final(threshold, randomness); !threshold.Keep(randomness) {
		return false, tracestate, adjusted
	}
	switch {
	case chosen:
		state = sampling.WithRandomness(tracestate, threshold, randomness)
	case !earlier.HasThreshold || earlier.Threshold != threshold:
		state = j.state.with(threshold)
	default:
		state = tracestate
	}
	return true, state, adjusted
}

// routeOf is the route of a proxy by which a request came, if a proxy says so.
func routeOf[A documents.Attributes[V], V documents.Value](all A) string {
	if v, ok := all.Get(sampling.RouteAttribute); ok {
		return v.Str()
	}
	return ""
}
