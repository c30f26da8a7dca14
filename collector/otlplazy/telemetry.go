package otlplazy

import (
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ofNoSignal takes from what a component tells of itself the attribute that names the signal it was made for: this one is
// made for the first, and then serves all. What the service gives components has these methods, without saying so.
func ofNoSignal(set component.TelemetrySettings) component.TelemetrySettings {
	const signal = "otelcol.signal"
	set.Logger = set.Logger.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		if d, is := c.(interface{ DropInjectedAttributes(...string) zapcore.Core }); is {
			return d.DropInjectedAttributes(signal)
		}
		return c
	}))
	if d, is := set.TracerProvider.(interface {
		DropInjectedAttributes(...string) trace.TracerProvider
	}); is {
		set.TracerProvider = d.DropInjectedAttributes(signal)
	}
	if d, is := set.MeterProvider.(interface {
		DropInjectedAttributes(...string) metric.MeterProvider
	}); is {
		set.MeterProvider = d.DropInjectedAttributes(signal)
	}
	return set
}
