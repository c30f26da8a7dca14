package otlplazy

import (
	"errors"
	"fmt"
	"slices"

	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// Config is the receiver's configuration.
type Config struct {
	// Protocols are as the collector's own OTLP receiver has them.
	Protocols otlpreceiver.Protocols `mapstructure:"protocols"`
	// Undecoded is whether requests of spans are handed on as they came, to components that take them so. The
	// converter of package lazyconverter sets it.
	Undecoded bool `mapstructure:"undecoded"`
}

// Validate says what is wrong.
func (c *Config) Validate() error {
	if !c.Protocols.GRPC.HasValue() && !c.Protocols.HTTP.HasValue() {
		return errors.New("protocols: must have grpc, http or both")
	}
	if paths := c.paths(); c.Protocols.HTTP.HasValue() {
		for i, path := range paths {
			if slices.Contains(paths[:i], path) {
				return fmt.Errorf("protocols::http: %s is the path of two signals", path)
			}
		}
	}
	return nil
}

// paths are the URL paths of traces, metrics and logs.
func (c *Config) paths() []string {
	http := c.Protocols.HTTP.Get()
	if http == nil {
		return make([]string, 3)
	}
	return []string{string(http.TracesURLPath), string(http.MetricsURLPath), string(http.LogsURLPath)}
}
