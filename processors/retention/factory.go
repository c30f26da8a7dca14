package retention

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/processors/retention/internal/metadata"
)

// NewFactory makes the processor.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type, func() component.Config { return &Config{} },
		processor.WithTraces(createTraces, metadata.TracesStability))
}

func createTraces(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	var m marker
	watcher := documents.NewWatcher(cfg.(*Config).Policy, set.Logger, m.apply)
	return processorhelper.NewTraces(ctx, set, cfg, next, m.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
		processorhelper.WithStart(watcher.Start),
		processorhelper.WithShutdown(watcher.Shutdown))
}
