package remotesampling

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
)

// Type is what the extension is called in configurations.
var Type = component.MustNewType("remote_sampling")

// NewFactory makes the extension.
func NewFactory() extension.Factory {
	return extension.NewFactory(Type, func() component.Config { return defaultConfig() }, create, component.StabilityLevelBeta)
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	return newServer(set.TelemetrySettings, cfg.(*Config))
}
