package redmetrics

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"

	"github.com/machinenativeops/weir/collector/redmetrics/internal/metadata"
)

// NewFactory makes the connector.
func NewFactory() connector.Factory {
	return connector.NewFactory(metadata.Type, defaultConfig,
		connector.WithTracesToMetrics(createTracesToMetrics, metadata.TracesToMetricsStability))
}

func defaultConfig() component.Config {
	return &Config{
		Namespace: "traces.span.metrics", FlushInterval: 15 * time.Second,
		MaxSeries: 20_000, SeriesExpiration: time.Hour, MaxBuckets: 160, Exemplars: 4,
	}
}

func createTracesToMetrics(_ context.Context, set connector.Settings, cfg component.Config, next consumer.Metrics) (connector.Traces, error) {
	return newCounter(set, cfg.(*Config), next)
}
