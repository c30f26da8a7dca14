package adaptivesampling

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/machinenativeops/weir/collector/documents"
)

// Type is what the processor is called in configurations.
var Type = component.MustNewType("adaptive_sampling")

// NewFactory makes the processor.
func NewFactory() processor.Factory {
	return processor.NewFactory(Type, func() component.Config { return &Config{Replicas: 1} },
		processor.WithTraces(createTraces, component.StabilityLevelBeta))
}

func createTraces(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	s, err := newSampler(set.TelemetrySettings, cfg.(*Config).Replicas)
	if err != nil {
		return nil, err
	}
	watcher := documents.NewWatcher(cfg.(*Config).Policy, set.Logger, s.apply)
	return processorhelper.NewTraces(ctx, set, cfg, next, s.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
		processorhelper.WithStart(watcher.Start),
		processorhelper.WithShutdown(func(ctx context.Context) error { return errors.Join(watcher.Shutdown(ctx), s.shutdown(ctx)) }))
}
