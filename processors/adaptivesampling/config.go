package adaptivesampling

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/component"

	"github.com/machinenativeops/weir/sampling/whole"
)

// Config is the processor's configuration.
type Config struct {
	// Policy are the files and directories of policy documents.
	Policy []string `mapstructure:"policy"`
	// Replicas is how many collectors share the budget of the documents where no Weir says so.
	Replicas int `mapstructure:"replicas"`
	// Storage is an extension that keeps held spans over a restart and a crash; without one, a crash loses them.
	Storage *component.ID `mapstructure:"storage"`
	// Why begins the names of attributes: Why.rule and Why.rate tell on the root of a trace that was judged whole why it was
	// kept, and Why.keep what a dry run found. "" writes none.
	Why string `mapstructure:"why"`
	// DryRun drops nothing and writes no thresholds, but marks each span with Why.keep: true or false.
	DryRun bool `mapstructure:"dry_run"`

	// Whole is of use where the documents have traces judged whole (keep).
	Whole WholeConfig `mapstructure:"whole"`
}

// WholeConfig bounds what is held and remembered of traces that are judged whole.
type WholeConfig struct {
	// MaxSpans and MaxBytes bound what is held. When there is more, the oldest traces are judged before their time.
	MaxSpans int `mapstructure:"max_spans"`
	MaxBytes int `mapstructure:"max_bytes"`
	// Decisions is how many are remembered for late spans.
	Decisions int `mapstructure:"decisions"`
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if len(c.Policy) == 0 {
		return errors.New("policy: must name at least one file or directory of policy documents")
	}
	if c.Replicas < 1 {
		return errors.New("replicas: must be at least 1")
	}
	w := c.Whole
	if w.MaxSpans < whole.Shards || w.MaxBytes < whole.Shards || w.Decisions < whole.Shards {
		return fmt.Errorf("whole: max_spans, max_bytes and decisions must be at least %d", whole.Shards)
	}
	if c.DryRun && c.Why == "" {
		return errors.New("dry_run: needs why, by which spans are marked")
	}
	return nil
}
