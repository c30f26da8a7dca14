// Package documents is how the collector's components follow the policy documents: they are read when a component
// starts, and watched until it stops.
//
// The last good version stays in force: what is wrong in the documents, or a folder that has gone, is logged and
// changes nothing. Only a component that starts without any readable documents refuses to.
package documents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
)

// Watcher hands the documents to a component, now and whenever they change.
type Watcher struct {
	source *source.Source
	logger *zap.Logger
	apply  func(*policy.Set) error

	reported []policy.Problem // already logged; of Start, then of the goroutine

	cancel context.CancelFunc // nil before Start
	tasks  sync.WaitGroup
}

// NewWatcher watches files and directories; it starts nothing yet. Apply is called with the first set by Start,
// and from one goroutine after that. An error of it is Start's, and logged later on.
func NewWatcher(paths []string, logger *zap.Logger, apply func(*policy.Set) error) *Watcher {
	logger = logger.WithOptions(zap.AddStacktrace(zap.FatalLevel)) // where in the documents it is says more than where in the program
	return &Watcher{source: source.New(paths, slog.New(zapHandler{logger})), logger: logger, apply: apply}
}

// Start reads the documents, applies them and starts to watch them.
func (w *Watcher) Start(ctx context.Context, _ component.Host) error {
	set, problems, err := w.source.Load()
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	w.report(problems)
	if err := w.apply(set); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	// The context of a start ends with it.
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.tasks.Go(func() { w.run(ctx) })
	return nil
}

func (w *Watcher) run(ctx context.Context) {
	if err := w.source.Run(ctx, w.update); err != nil && !errors.Is(err, context.Canceled) {
		w.logger.Error("policy documents are no longer watched", zap.Error(err))
	}
}

func (w *Watcher) update(u source.Update) {
	w.report(u.Problems)
	if u.Set == nil {
		return
	}
	if err := w.apply(u.Set); err != nil {
		w.logger.Error("policy documents are not applied, the last good ones stay", zap.Error(err))
	}
}

// report logs problems once for as long as they stay the same.
func (w *Watcher) report(problems []policy.Problem) {
	if slices.Equal(problems, w.reported) {
		return
	}
	w.reported = problems
	for _, p := range problems {
		w.logger.Error("policy document refused",
			zap.String("file", p.File), zap.Int("line", p.Line), zap.Int("column", p.Column),
			zap.Stringer("document", p.Document), zap.String("path", p.Path), zap.String("problem", p.Message))
	}
}

// Shutdown stops watching, and returns when apply is called no more.
func (w *Watcher) Shutdown(context.Context) error {
	if w.cancel != nil {
		w.cancel()
		w.tasks.Wait()
	}
	return nil
}
