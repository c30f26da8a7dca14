package adaptivesampling

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/machinenativeops/weir/collector/documents"
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
	rates := s.rates.Load()
	if rules := s.whole.rules.Load(); rules != nil {
		if err := s.whole.take(ctx, td, rates, rules, time.Now().UnixNano()); err != nil {
			return td, err
		}
		return td, processorhelper.ErrSkipProcessingData
	}
	var all int64
	j := judges.Get().(*judge)
	defer j.release()
	td.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		j.service, j.adaptive = rates.Service(documents.Service(rs.Resource())), rates.Adaptive()
		var kept, dropped int64
		if s.mark == "" {
			kept, dropped = j.filter(rs)
		} else {
			kept, dropped = j.try(rs, s.mark)
		}
		j.counts.add(j.service.Class, kept, dropped)
		all += kept
		return kept == 0 && s.mark == ""
	})
	j.names.tell()
	rates.Kept(all, time.Now().UnixNano())
	j.counts.record(ctx, s.told.WeirSamplingSpans)
	if td.ResourceSpans().Len() == 0 {
		return td, processorhelper.ErrSkipProcessingData
	}
	return td, nil
}

// judge judges the spans of a batch, service by service. It is used again.
type judge struct {
	service  *sampling.Service
	adaptive bool
	names    memo
	state    tracestate
	counts   tally
}

// tracestate is the last one that was read, and what was written in its place: those of spans that come together are mostly alike.
type tracestate struct {
	text  string
	state sampling.State

	writer    sampling.Writer
	threshold sampling.Threshold // that is in written
	written   string             // "": nothing was
}

func (s *tracestate) read(text string) sampling.State {
	if text != s.text {
		s.text, s.state, s.written = text, sampling.ParseState(text), ""
	}
	return s.state
}

// with gives what was read with another threshold.
func (s *tracestate) with(t sampling.Threshold) string {
	if s.written == "" || t != s.threshold {
		s.threshold, s.written = t, s.writer.WithThreshold(s.text, t)
	}
	return s.written
}

var judges = sync.Pool{New: func() any { return new(judge) }}

func (j *judge) release() {
	j.service = nil
	clear(j.names[:])
	j.state.text, j.state.state, j.state.written = "", sampling.State{}, ""
	judges.Put(j)
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
	if n.learnt == nil {
		kept, _ := j.decide(span, n.threshold)
		return kept
	}
	kept, adjusted := j.decide(span, n.learnt.Threshold())
	n.came++
	n.stand += adjusted
	if n.learnt.Unplaced() {
		n.learnt.Placed(routeOf(span))
	}
	return kept
}

func (j *judge) name(text string) *name {
	n := &j.names[memoPlace(text)]
	if n.service != j.service || n.text != text {
		n.tell()
		*n = name{service: j.service, text: text}
		if j.adaptive {
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

// decide decides by a threshold. It gives the adjusted count with which the span came, too.
func (j *judge) decide(span ptrace.Span, threshold sampling.Threshold) (kept bool, adjusted float64) {
	tracestate := span.TraceState().AsRaw()
	chance, chosen := documents.ByChance(span)
	if tracestate == "" && !chosen { // the usual case
		if !threshold.Keep(sampling.FromTraceID(span.TraceID())) {
			return false, 1
		}
		span.TraceState().FromRaw(sampling.WithThreshold("", threshold))
		return true, 1
	}
	earlier := j.state.read(tracestate)
	if chosen = chosen && !earlier.HasThreshold; chosen {
		earlier = earlier.Independent(chance, span.TraceID())
	}
	randomness := earlier.RandomnessOf(span.TraceID())
	adjusted = earlier.AdjustedCount(randomness)
	if threshold = earlier.Final(threshold, randomness); !threshold.Keep(randomness) {
		return false, adjusted
	}
	switch {
	case chosen:
		span.TraceState().FromRaw(sampling.WithRandomness(tracestate, threshold, randomness))
	case !earlier.HasThreshold || earlier.Threshold != threshold:
		span.TraceState().FromRaw(j.state.with(threshold))
	}
	return true, adjusted
}

// routeOf is the route of a proxy by which a request came, if a proxy says so.
func routeOf(span ptrace.Span) string {
	if v, ok := span.Attributes().Get(sampling.RouteAttribute); ok {
		return v.Str()
	}
	return ""
}
