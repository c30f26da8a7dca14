package adaptivesampling

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/machinenativeops/weir/processors/adaptivesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling/whole"
)

// wholeMetrics is what is told of traces that are judged whole.
type wholeMetrics struct {
	traces        metric.Int64Counter
	lost, refused metric.Int64Counter

	counts  [whole.Rate + 1][4]atomic.Int64 // traces that traces was not told yet
	options [whole.Rate + 1][4]metric.AddOption
}

func newWholeMetrics(told *metadata.TelemetryBuilder, h *holder) (*wholeMetrics, error) {
	m := &wholeMetrics{traces: told.WeirSamplingTraces, lost: told.WeirSamplingLostSpans, refused: told.WeirSamplingRefusedSpans}
	err := errors.Join(
		told.RegisterWeirSamplingHeldSpansCallback(observe(h.live.spans.Load)),
		told.RegisterWeirSamplingHeldBytesCallback(observe(func() int64 { return h.live.bytes.Load() + h.sender.bytes.Load() })),
		told.RegisterWeirSamplingRetrySpansCallback(observe(h.sender.spans.Load)))
	for rule := range m.options {
		for i, decision := range []string{"dropped", "kept", "dropped", "kept"} {
			m.options[rule][i] = metric.WithAttributeSet(attribute.NewSet(attribute.String("rule", whole.Rule(rule).String()),
				attribute.String("decision", decision), attribute.Bool("shed", i >= 2)))
		}
	}
	return m, err
}

func observe(n func() int64) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(n())
		return nil
	}
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
