package adaptivesampling

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/metric"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
)

const scopeName = "github.com/machinenativeops/weir/processors/adaptivesampling"

// sampler drops the spans that the rates in force don't keep.
type sampler struct {
	rates atomic.Pointer[sampling.Rates] // nil before the first documents are applied
	spans metric.Int64Counter
}

func newSampler(set component.TelemetrySettings) (*sampler, error) {
	spans, err := set.MeterProvider.Meter(scopeName).Int64Counter("weir_sampling_spans",
		metric.WithDescription("Spans judged, by class and decision (kept or dropped)."), metric.WithUnit("{spans}"))
	if err != nil {
		return nil, fmt.Errorf("metric weir_sampling_spans: %w", err)
	}
	return &sampler{spans: spans}, nil
}

// apply puts new rates in force, between two batches.
func (s *sampler) apply(set *policy.Set) error {
	s.rates.Store(sampling.NewRates(&set.Sampling.Spec, set.Services))
	return nil
}

func (s *sampler) process(ctx context.Context, td ptrace.Traces) (ptrace.Traces, error) {
	rates := s.rates.Load()
	var counts tally
	td.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		service := rates.Service(documents.Service(rs.Resource()))
		kept, dropped := filter(rs, service)
		counts.add(service.Class, kept, dropped)
		return kept == 0
	})
	counts.record(ctx, s.spans)
	if td.ResourceSpans().Len() == 0 {
		return td, processorhelper.ErrSkipProcessingData
	}
	return td, nil
}

// filter drops spans of one service, and scopes that become empty.
func filter(rs ptrace.ResourceSpans, service *sampling.Service) (kept, dropped int64) {
	rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
		before := ss.Spans().Len()
		ss.Spans().RemoveIf(func(span ptrace.Span) bool { return !judge(span, service) })
		after := ss.Spans().Len()
		kept += int64(after)
		dropped += int64(before - after)
		return after == 0
	})
	return kept, dropped
}

// judge says whether the span is kept, and if so writes on it at which threshold.
func judge(span ptrace.Span, service *sampling.Service) bool {
	threshold := service.Threshold(span.Name())
	tracestate := span.TraceState().AsRaw()
	if tracestate == "" { // the usual case
		if !threshold.Keep(sampling.FromTraceID(span.TraceID())) {
			return false
		}
	} else {
		earlier := sampling.ParseState(tracestate)
		randomness := earlier.RandomnessOf(span.TraceID())
		if threshold = earlier.Final(threshold, randomness); !threshold.Keep(randomness) {
			return false
		}
	}
	span.TraceState().FromRaw(sampling.WithThreshold(tracestate, threshold))
	return true
}
