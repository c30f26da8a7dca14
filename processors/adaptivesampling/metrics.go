package adaptivesampling

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/machinenativeops/weir/sampling/whole"
)

// wholeMetrics is what is told of traces that are judged whole.
type wholeMetrics struct {
	traces        metric.Int64Counter
	lost, refused metric.Int64Counter
	told          metric.Registration

	counts  [whole.Rate + 1][4]atomic.Int64 // traces that traces was not told yet
	options [whole.Rate + 1][4]metric.AddOption
}

func newWholeMetrics(set component.TelemetrySettings, h *holder) (*wholeMetrics, error) {
	meter := set.MeterProvider.Meter(scopeName)
	m := new(wholeMetrics)
	var errs [7]error
	m.traces, errs[0] = meter.Int64Counter("weir_sampling_traces",
		metric.WithDescription("Traces judged whole, by rule, decision (kept or dropped) and whether they were shed (judged early for want of room)."), metric.WithUnit("{traces}"))
	m.lost, errs[1] = meter.Int64Counter("weir_sampling_lost_spans",
		metric.WithDescription("Spans of kept traces that the next component refused for good, or until the end."), metric.WithUnit("{spans}"))
	m.refused, errs[2] = meter.Int64Counter("weir_sampling_refused_spans",
		metric.WithDescription("Spans whose senders were told to try again, since too much waits to be taken by the next component."), metric.WithUnit("{spans}"))
	held, err := meter.Int64ObservableGauge("weir_sampling_held_spans", metric.WithDescription("Spans whose traces are not judged yet."), metric.WithUnit("{spans}"))
	errs[3] = err
	bytes, err := meter.Int64ObservableGauge("weir_sampling_held_bytes", metric.WithDescription("Memory of held spans, and of kept ones that wait to be sent again."), metric.WithUnit("By"))
	errs[4] = err
	waiting, err := meter.Int64ObservableGauge("weir_sampling_retry_spans", metric.WithDescription("Spans of kept traces that the next component refused, and that are sent again."), metric.WithUnit("{spans}"))
	errs[5] = err
	m.told, errs[6] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(held, h.table.Held())
		o.ObserveInt64(bytes, h.live.bytes.Load()+h.sender.bytes.Load())
		o.ObserveInt64(waiting, h.sender.spans.Load())
		return nil
	}, held, bytes, waiting)
	for rule := range m.options {
		for i, decision := range []string{"dropped", "kept", "dropped", "kept"} {
			m.options[rule][i] = metric.WithAttributeSet(attribute.NewSet(attribute.String("rule", whole.Rule(rule).String()),
				attribute.String("decision", decision), attribute.Bool("shed", i >= 2)))
		}
	}
	return m, errors.Join(errs[:]...)
}

func (m *wholeMetrics) count(t *whole.Released) {
	if t.Late {
		return
	}
	i := 0
	if t.Verdict.Keep {
		i = 1
	}
	if t.Shed {
		i += 2
	}
	m.counts[t.Verdict.Rule][i].Add(1)
}

// record tells what was counted.
func (m *wholeMetrics) record(ctx context.Context) {
	for rule := range m.counts {
		for i := range m.counts[rule] {
			if c := &m.counts[rule][i]; c.Load() != 0 {
				m.traces.Add(ctx, c.Swap(0), m.options[rule][i])
			}
		}
	}
}
