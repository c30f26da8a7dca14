package adaptivesampling

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/collector/inforce"
	"github.com/machinenativeops/weir/processors/adaptivesampling/internal/metadata"
)

// NewFactory makes the processor.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type, defaultConfig,
		processor.WithTraces(createTraces, metadata.TracesStability))
}

func defaultConfig() component.Config {
	return &Config{Replicas: 1, Why: "weir.sampling", Whole: WholeConfig{MaxSpans: 4_000_000, MaxBytes: 512 << 20, Decisions: 200_000}}
}

func createTraces(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	s, err := newSampler(set.TelemetrySettings, cfg.(*Config), next)
	if err != nil {
		return nil, err
	}
	watcher := documents.NewWatcher(cfg.(*Config).Policy, set.Logger, s.apply)
	return processorhelper.NewTraces(ctx, set, cfg, next, s.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
		processorhelper.WithStart(func(ctx context.Context, host component.Host) error {
			if err := watcher.Start(ctx, host); err != nil {
				return err
			}
			var j *journal
			if id := cfg.(*Config).Storage; id != nil {
				var err error
				if j, err = openJournal(ctx, host, *id, set.ID, set.Logger); err != nil {
					return err
				}
			}
			if err := s.whole.start(ctx, j); err != nil {
				return err
			}
			s.leave = inforce.Join(host, s.rates.Load, s.share)
			return nil
		}),
		processorhelper.WithShutdown(func(ctx context.Context) error {
			defer s.shutdown()
			return errors.Join(watcher.Shutdown(ctx), s.whole.shutdown(ctx))
		}))
}
