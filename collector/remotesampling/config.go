package remotesampling

import (
	"errors"

	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
)

// Config is the extension's configuration.
type Config struct {
	// HTTP answers GET /sampling?service=NAME; where it is left out, nothing does.
	HTTP configoptional.Optional[confighttp.ServerConfig] `mapstructure:"http"`
	// GRPC answers jaeger.api_v2.SamplingManager; where it is left out, nothing does.
	GRPC configoptional.Optional[configgrpc.ServerConfig] `mapstructure:"grpc"`
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if !c.HTTP.HasValue() && !c.GRPC.HasValue() {
		return errors.New("want http, grpc or both: the protocols by which SDKs ask")
	}
	return nil
}

func defaultConfig() *Config {
	http, grpc := confighttp.NewDefaultServerConfig(), configgrpc.NewDefaultServerConfig()
	http.NetAddr.Endpoint, grpc.NetAddr.Endpoint = "127.0.0.1:5778", "127.0.0.1:5779"
	return &Config{HTTP: configoptional.Default(http), GRPC: configoptional.Default(grpc)}
}
