package redmetrics

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
)

// Type is what the connector is called in configurations.
var Type = component.MustNewType("red_metrics")

// NewFactory makes the connector.
func NewFactory() connector.Factory {
	return connector.NewFactory(Type, defaultConfig,
		connector.WithTracesToMetrics(createTracesToMetrics, component.StabilityLevelBeta))
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
