package remotesampling

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
)

// Config is the extension's configuration.
type Config struct {
	// HTTP answers GET /sampling?service=NAME; where it is left out, nothing does.
	HTTP configoptional.Optional[confighttp.ServerConfig] `mapstructure:"http"`
	// GRPC answers jaeger.api_v2.SamplingManager; where it is left out, nothing does.
	GRPC configoptional.Optional[configgrpc.ServerConfig] `mapstructure:"grpc"`
	// Report is the Weir that is told what proxies need not make; where it is left out, nobody is.
	Report configoptional.Optional[ReportConfig] `mapstructure:"report"`
}

// maxInterval lets two reports be lost before Weir takes the collector for gone.
const maxInterval = 10 * time.Second

// ReportConfig is where reports go, and how often.
type ReportConfig struct {
	confighttp.ClientConfig `mapstructure:",squash"` // the endpoint is http://HOST:PORT of weir serve

	// Others are the other replicas of Weir, where there are several: each is told, so that each knows all collectors.
	Others   []string      `mapstructure:"others"`
	Interval time.Duration `mapstructure:"interval"`
	// Budget has Weir say which share of the budget is this collector's, of all that report to it.
	Budget bool `mapstructure:"budget"`
}

// Unmarshal implements confmap.Unmarshaler, which the embedded one would otherwise do for the whole.
func (c *ReportConfig) Unmarshal(conf *confmap.Conf) error { return conf.Unmarshal(c) }

// Validate says what is missing.
func (c *Config) Validate() error {
	if !c.HTTP.HasValue() && !c.GRPC.HasValue() && !c.Report.HasValue() {
		return errors.New("want http or grpc, the protocols by which SDKs ask, or report")
	}
	if r := c.Report.Get(); r != nil && (r.Interval < 100*time.Millisecond || r.Interval > maxInterval) {
		return fmt.Errorf("report.interval: want 100ms to %s, got %s", maxInterval, r.Interval)
	}
	if r := c.Report.Get(); r != nil {
		return r.validateOthers()
	}
	return nil
}

func (c *ReportConfig) validateOthers() error {
	for i, other := range c.Others {
		if u, err := url.Parse(other); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("report.others[%d]: want http://HOST:PORT of a weir serve, got %q", i, other)
		}
		if other == c.Endpoint || slices.Contains(c.Others[:i], other) {
			return fmt.Errorf("report.others[%d]: %s is told already", i, other)
		}
	}
	return nil
}

func defaultConfig() *Config {
	http, grpc := confighttp.NewDefaultServerConfig(), configgrpc.NewDefaultServerConfig()
	http.NetAddr.Endpoint, grpc.NetAddr.Endpoint = "127.0.0.1:5778", "127.0.0.1:5779"
	report := ReportConfig{ClientConfig: confighttp.NewDefaultClientConfig(), Interval: 2 * time.Second, Budget: true}
	report.Endpoint, report.Timeout = "http://127.0.0.1:18002", 5*time.Second
	return &Config{HTTP: configoptional.Default(http), GRPC: configoptional.Default(grpc), Report: configoptional.Default(report)}
}
