package redmetrics

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/redmetrics/internal/metadata"
)

// appendTo writes down all series as they are now, and forgets those without a span for long.
func (r *register) appendTo(to pmetric.ScopeMetrics, now time.Time) {
	w := writer{now: now}
	to.Scope().SetName(metadata.ScopeName)
	w.begin(to.Metrics(), r.cfg.Namespace)
	r.mu.RLock()
	all := make([]*service, 0, len(r.services)+1)
	for _, s := range r.services {
		all = append(all, s)
	}
	r.mu.RUnlock()
	for _, s := range append(all, r.beyond) {
		r.expire(s, now)
		w.service(s)
	}
}

// expire forgets series, and the service if it has none left.
func (r *register) expire(s *service, now time.Time) {
	if r.cfg.SeriesExpiration == 0 {
		return
	}
	old := func(x *series) bool { return now.Sub(x.last) > r.cfg.SeriesExpiration }
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, x := range s.series {
		if old(x) {
			delete(s.series, key)
			r.held.Add(-1)
		}
	}
	if s.overflow != nil && old(s.overflow) {
		s.overflow = nil
	}
	if s != r.beyond && len(s.series) == 0 && s.overflow == nil {
		s.gone = true
		delete(r.services, s.serviceKey)
	}
}

// writer writes series down as data points of two metrics.
type writer struct {
	now      time.Time
	calls    pmetric.NumberDataPointSlice
	duration pmetric.ExponentialHistogramDataPointSlice
}

func (w *writer) begin(to pmetric.MetricSlice, namespace string) {
	calls := to.AppendEmpty()
	calls.SetName(namespace + ".calls")
	calls.SetDescription("Spans there were, whether they were sampled or not.")
	calls.SetUnit("{calls}")
	sum := calls.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	w.calls = sum.DataPoints()

	duration := to.AppendEmpty()
	duration.SetName(namespace + ".duration")
	duration.SetDescription("How long spans took, whether they were sampled or not.")
	duration.SetUnit("s")
	histogram := duration.SetEmptyExponentialHistogram()
	histogram.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	w.duration = histogram.DataPoints()
}

func (w *writer) service(s *service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, x := range s.series {
		w.series(s, x, func(m pcommon.Map) {
			m.PutStr(spanName, key.operation)
			m.PutStr(spanKind, kindName(ptrace.SpanKind(key.kind)))
			m.PutStr(statusCode, statusName(ptrace.StatusCode(key.status)))
		})
	}
	if s.overflow != nil {
		w.series(s, s.overflow, func(pcommon.Map) {})
	}
}

func (w *writer) series(s *service, x *series, more func(pcommon.Map)) {
	began, now := pcommon.NewTimestampFromTime(x.began), pcommon.NewTimestampFromTime(w.now)
	calls := w.calls.AppendEmpty()
	attributes := calls.Attributes()
	x.dimensions.CopyTo(attributes)
	for _, a := range []struct{ name, value string }{{serviceNamespace, s.namespace}, {serviceName, s.name}, {serviceVersion, s.version}} {
		if a.value != "" {
			attributes.PutStr(a.name, a.value)
		}
	}
	more(attributes)
	calls.SetStartTimestamp(began)
	calls.SetTimestamp(now)
	calls.SetDoubleValue(x.calls)

	duration := w.duration.AppendEmpty()
	attributes.CopyTo(duration.Attributes())
	duration.SetStartTimestamp(began)
	duration.SetTimestamp(now)
	x.duration.appendTo(duration)

	for _, e := range x.exemplars {
		e.appendTo(calls.Exemplars())
		e.appendTo(duration.Exemplars())
	}
	x.exemplars = x.exemplars[:0]
}

func (e *exemplar) appendTo(to pmetric.ExemplarSlice) {
	x := to.AppendEmpty()
	x.SetTraceID(e.trace)
	x.SetSpanID(e.span)
	x.SetTimestamp(pcommon.Timestamp(e.at))
	x.SetDoubleValue(e.seconds)
}

// The names are those of OpenTelemetry's protobuf enumerations, which other span metrics use too.
func kindName(k ptrace.SpanKind) string {
	switch k {
	case ptrace.SpanKindInternal:
		return "SPAN_KIND_INTERNAL"
	case ptrace.SpanKindServer:
		return "SPAN_KIND_SERVER"
	case ptrace.SpanKindClient:
		return "SPAN_KIND_CLIENT"
	case ptrace.SpanKindProducer:
		return "SPAN_KIND_PRODUCER"
	case ptrace.SpanKindConsumer:
		return "SPAN_KIND_CONSUMER"
	}
	return "SPAN_KIND_UNSPECIFIED"
}

func statusName(c ptrace.StatusCode) string {
	switch c {
	case ptrace.StatusCodeOk:
		return "STATUS_CODE_OK"
	case ptrace.StatusCodeError:
		return "STATUS_CODE_ERROR"
	}
	return "STATUS_CODE_UNSET"
}
