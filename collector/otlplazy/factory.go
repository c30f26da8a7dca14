package otlplazy

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"

	"github.com/machinenativeops/weir/collector/otlplazy/internal/metadata"
)

// NewFactory makes the receiver.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(metadata.Type, defaultConfig,
		receiver.WithTraces(createTraces, metadata.TracesStability),
		receiver.WithMetrics(createMetrics, metadata.MetricsStability),
		receiver.WithLogs(createLogs, metadata.LogsStability))
}

// defaultConfig is that of the collector's own receiver, with everything decoded.
func defaultConfig() component.Config {
	return &Config{Protocols: otlpreceiver.NewFactory().CreateDefaultConfig().(*otlpreceiver.Config).Protocols}
}

func createTraces(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	r := shared(set, cfg.(*Config))
	r.traces = next
	return r, nil
}

func createMetrics(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	r := shared(set, cfg.(*Config))
	r.metrics = next
	return r, nil
}

func createLogs(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	r := shared(set, cfg.(*Config))
	r.logs = next
	return r, nil
}
