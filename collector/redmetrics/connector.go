package redmetrics

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/collector/redmetrics/internal/metadata"
)

// counter counts spans and sends on what it has counted.
type counter struct {
	cfg      *Config
	logger   *zap.Logger
	resource pcommon.Resource // the collector's own
	next     consumer.Metrics
	series   *register
	told     *metadata.TelemetryBuilder

	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
}

func newCounter(set connector.Settings, cfg *Config, next consumer.Metrics) (*counter, error) {
	c := &counter{
		cfg: cfg, logger: set.Logger, resource: set.Resource, next: next,
		series: newRegister(cfg), stop: make(chan struct{}),
	}
	var err error
	if c.told, err = metadata.NewTelemetryBuilder(set.TelemetrySettings); err != nil {
		return nil, err
	}
	return c, errors.Join(
		c.told.RegisterConnectorRedMetricsSeriesCallback(observe(&c.series.held)),
		c.told.RegisterConnectorRedMetricsOverflowCallback(observe(&c.series.overflown)))
}

func observe(n *atomic.Int64) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(n.Load())
		return nil
	}
}

// Capabilities implements [consumer.Traces].
func (c *counter) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start implements [component.Component].
func (c *counter) Start(context.Context, component.Host) error {
	c.done.Go(c.run)
	return nil
}

func (c *counter) run() {
	tick := time.NewTicker(c.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case now := <-tick.C:
			c.flush(context.Background(), now)
		}
	}
}

// Shutdown implements [component.Component]. It sends on what was counted since the last flush.
func (c *counter) Shutdown(ctx context.Context) error {
	c.once.Do(func() {
		close(c.stop)
		c.done.Wait()
		c.flush(ctx, time.Now())
		c.told.Shutdown()
	})
	return nil
}

// flush sends on all series. What the next component refuses is in the next flush: sums only grow.
func (c *counter) flush(ctx context.Context, now time.Time) {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	c.resource.CopyTo(rm.Resource())
	c.series.appendTo(rm.ScopeMetrics().AppendEmpty(), now)
	if md.DataPointCount() == 0 {
		return
	}
	if err := c.next.ConsumeMetrics(ctx, md); err != nil {
		c.logger.Error("metrics of spans are not taken; the next ones have all that these had", zap.Error(err))
	}
}

// ConsumeTraces implements [consumer.Traces]: it counts the spans, and those of a request that nobody has decoded. It neither
// changes nor keeps them.
func (c *counter) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	now := time.Now()
	request, _, _ := lazy.Take(ctx)
	c.series.countUndecoded(request, now)
	c.series.countDecoded(td, now)
	return nil
}
