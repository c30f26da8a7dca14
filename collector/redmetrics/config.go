package redmetrics

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Config is the connector's configuration.
type Config struct {
	// Namespace begins the names of the metrics: NAMESPACE.calls and NAMESPACE.duration.
	Namespace string `mapstructure:"namespace"`
	// FlushInterval is how often metrics are sent on.
	FlushInterval time.Duration `mapstructure:"flush_interval"`
	// Dimensions are attributes of spans, or else of their resources, by which to count beside the usual ones.
	Dimensions []string `mapstructure:"dimensions"`
	// MaxSeries is how many are held; what comes beyond is counted together.
	MaxSeries int `mapstructure:"max_series"`
	// SeriesExpiration is how long a series is told of without a new span; 0 is for ever.
	SeriesExpiration time.Duration `mapstructure:"series_expiration"`
	// MaxBuckets is how many buckets a histogram may have. The fewer, the coarser.
	MaxBuckets int `mapstructure:"max_buckets"`
	// Exemplars is how many spans each series names at a flush.
	Exemplars int `mapstructure:"exemplars"`
}

// minBuckets is enough for all durations there are at the coarsest scale in use.
const minBuckets = 4

// Validate says what is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.Namespace == "" {
		errs = append(errs, errors.New("namespace: must not be empty"))
	}
	if c.FlushInterval <= 0 {
		errs = append(errs, errors.New("flush_interval: must be above 0"))
	}
	if c.MaxSeries < 1 {
		errs = append(errs, errors.New("max_series: must be at least 1"))
	}
	if c.SeriesExpiration < 0 {
		errs = append(errs, errors.New("series_expiration: must not be below 0"))
	}
	if c.MaxBuckets < minBuckets {
		errs = append(errs, fmt.Errorf("max_buckets: must be at least %d", minBuckets))
	}
	if c.Exemplars < 0 {
		errs = append(errs, errors.New("exemplars: must not be below 0"))
	}
	for i, name := range c.Dimensions {
		switch {
		case name == "":
			errs = append(errs, fmt.Errorf("dimensions[%d]: must not be empty", i))
		case slices.Contains(usual, name):
			errs = append(errs, fmt.Errorf("dimensions[%d]: %s is counted by already", i, name))
		case slices.Contains(c.Dimensions[:i], name):
			errs = append(errs, fmt.Errorf("dimensions[%d]: %s is there twice", i, name))
		}
	}
	return errors.Join(errs...)
}
