package archiveexporter

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"

	"github.com/machinenativeops/weir/collector/archiveexporter/internal/metadata"
	"github.com/machinenativeops/weir/collector/documents"
)

// NewFactory makes the exporter.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type, func() component.Config { return defaultConfig() },
		exporter.WithTraces(createTraces, metadata.TracesStability))
}

func createTraces(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
	c := cfg.(*Config)
	a := &archiver{override: c.S3}
	watcher := documents.NewWatcher(c.Policy, set.Logger, a.apply)
	return exporterhelper.NewTraces(ctx, set, cfg, a.push,
		exporterhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
		exporterhelper.WithTimeout(c.TimeoutConfig),
		exporterhelper.WithQueue(c.Queue),
		exporterhelper.WithRetry(c.Backoff),
		exporterhelper.WithStart(watcher.Start),
		exporterhelper.WithShutdown(watcher.Shutdown))
}
