package adaptivesampling

import (
	"context"
	"fmt"
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
	"github.com/machinenativeops/weir/sampling"
)

const scopeName = "github.com/machinenativeops/weir/processors/adaptivesampling"

// sampler drops the spans that the rates in force don't keep.
type sampler struct {
	replicas int
	rates    atomic.Pointer[sampling.Rates] // nil before the first documents are applied
	spans    metric.Int64Counter
	told     metric.Registration
	whole    *holder
	leave    func() // those who publish the rates; nil before they are told
}

// maxTold is how many operations' rates are told as metrics.
const maxTold = 1000

func newSampler(set component.TelemetrySettings, cfg *Config, next consumer.Traces) (*sampler, error) {
	spans, err := set.MeterProvider.Meter(scopeName).Int64Counter("weir_sampling_spans",
		metric.WithDescription("Spans judged, by class and decision (kept or dropped)."), metric.WithUnit("{spans}"))
	if err != nil {
		return nil, fmt.Errorf("metric weir_sampling_spans: %w", err)
	}
	s := &sampler{replicas: cfg.Replicas, spans: spans}
	if s.whole, err = newHolder(set, cfg.Whole, s, next); err != nil {
		return nil, err
	}
	return s, s.tell(set)
}

// tell gives the rates in force as metrics, where they move.
func (s *sampler) tell(set component.TelemetrySettings) error {
	meter := set.MeterProvider.Meter(scopeName)
	rate, err := meter.Float64ObservableGauge("weir_sampling_rate",
		metric.WithDescription("Share of an operation's spans that is kept, of those with the highest demand."), metric.WithUnit("1"))
	if err != nil {
		return fmt.Errorf("metric weir_sampling_rate: %w", err)
	}
	demand, err := meter.Float64ObservableGauge("weir_sampling_demand",
		metric.WithDescription("Spans a second of an operation, before any sampling."), metric.WithUnit("{spans}/s"))
	if err != nil {
		return fmt.Errorf("metric weir_sampling_demand: %w", err)
	}
	s.told, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		rates := s.rates.Load()
		if rates == nil {
			return nil
		}
		for _, r := range rates.InForce(maxTold) {
			labels := metric.WithAttributes(attribute.String("service", r.Service), attribute.String("operation", r.Operation), attribute.String("class", r.Class))
			o.ObserveFloat64(rate, r.Percent/100, labels)
			o.ObserveFloat64(demand, r.Demand, labels)
		}
		return nil
	}, rate, demand)
	return err
}

func (s *sampler) shutdown(context.Context) error {
	if s.leave != nil {
		s.leave()
	}
	return s.told.Unregister()
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
	var counts tally
	var all int64
	td.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		service := rates.Service(documents.Service(rs.Resource()))
		kept, dropped := filter(rs, service, rates.Adaptive())
		counts.add(service.Class, kept, dropped)
		all += kept
		return kept == 0
	})
	rates.Kept(all, time.Now().UnixNano())
	counts.record(ctx, s.spans)
	if td.ResourceSpans().Len() == 0 {
		return td, processorhelper.ErrSkipProcessingData
	}
	return td, nil
}

// filter drops spans of one service, and scopes that become empty.
func filter(rs ptrace.ResourceSpans, service *sampling.Service, adaptive bool) (kept, dropped int64) {
	rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
		before := ss.Spans().Len()
		ss.Spans().RemoveIf(func(span ptrace.Span) bool { return !judge(span, service, adaptive) })
		after := ss.Spans().Len()
		kept += int64(after)
		dropped += int64(before - after)
		return after == 0
	})
	return kept, dropped
}

// judge says whether the span is kept, and if so writes on it at which threshold.
func judge(span ptrace.Span, service *sampling.Service, adaptive bool) bool {
	if !adaptive {
		kept, _ := keep(span, service.Threshold(span.Name()))
		return kept
	}
	operation := service.Operation(span.Name())
	kept, adjusted := keep(span, operation.Threshold())
	operation.Seen(adjusted, kept)
	if operation.Unplaced() {
		operation.Placed(routeOf(span))
	}
	return kept
}

// keep decides by a threshold. It gives the adjusted count with which the span came, too.
func keep(span ptrace.Span, threshold sampling.Threshold) (kept bool, adjusted float64) {
	tracestate := span.TraceState().AsRaw()
	adjusted = 1
	chance, chosen := byChance(span)
	if tracestate == "" && !chosen { // the usual case
		if !threshold.Keep(sampling.FromTraceID(span.TraceID())) {
			return false, adjusted
		}
		span.TraceState().FromRaw(sampling.WithThreshold("", threshold))
		return true, adjusted
	}
	earlier := sampling.ParseState(tracestate)
	if chosen = chosen && !earlier.HasThreshold; chosen {
		earlier = earlier.Independent(chance, span.TraceID())
	}
	randomness := earlier.RandomnessOf(span.TraceID())
	adjusted = earlier.AdjustedCount(randomness)
	if threshold = earlier.Final(threshold, randomness); !threshold.Keep(randomness) {
		return false, adjusted
	}
	if chosen {
		tracestate = sampling.WithRandomness(tracestate, threshold, randomness)
	} else {
		tracestate = sampling.WithThreshold(tracestate, threshold)
	}
	span.TraceState().FromRaw(tracestate)
	return true, adjusted
}
