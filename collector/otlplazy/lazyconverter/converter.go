// Package lazyconverter has receivers of package otlplazy hand requests on undecoded where that is right, so that nobody has
// to say it: it looks at the whole configuration before the collector does.
//
// It is right where whoever gets the receiver's spans takes undecoded requests: in each of its pipelines of traces, that is
// the first processor beside memory_limiter, or where there is none, each exporter. A receiver of which that is not
// true decodes everything; one that was told not to is an error.
package lazyconverter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"
)

// The types that are known here.
const (
	lazyReceiver  = "otlp_lazy"
	memoryLimiter = "memory_limiter" // for which what passes need not be decoded
	takes         = "adaptive_sampling"
	takesAsLast   = "red_metrics"
)

// NewFactory makes the converter.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(set confmap.ConverterSettings) confmap.Converter { return converter{set.Logger} })
}

type converter struct{ logger *zap.Logger }

// Convert sets `undecoded` of each such receiver that does not say it.
func (c converter) Convert(_ context.Context, conf *confmap.Conf) error {
	all := conf.ToStringMap() // with what references gave
	receivers, _ := all["receivers"].(map[string]any)
	service, _ := all["service"].(map[string]any)
	pipelines, _ := service["pipelines"].(map[string]any)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(receivers)) {
		settings, is := receivers[key].(map[string]any)
		id := idOf(key)
		if id.Type().String() != lazyReceiver || !is && receivers[key] != nil { // whoever reads the configuration refuses that
			continue
		}
		fit, unfit := pipelinesOf(id, pipelines)
		value, said := settings["undecoded"]
		switch {
		case value == true && len(unfit) > 0:
			errs = append(errs, fmt.Errorf(
				"receivers::%s::undecoded: the pipeline %s would get no spans: it needs %s as its first processor beside %s, or no such processor and %s alone as exporter; leave undecoded out, or give that pipeline a receiver of its own",
				key, unfit[0], takes, memoryLimiter, takesAsLast))
		case said:
		case len(unfit) > 0:
			c.logger.Info("the receiver decodes all spans, since a pipeline needs them decoded", zap.String("receiver", key), zap.Strings("pipelines", unfit))
		case len(fit) > 0 && referred(conf, key, settings):
			c.logger.Info("the receiver decodes all spans, which it need not: say undecoded: true where its settings are", zap.String("receiver", key))
		case len(fit) > 0:
			errs = append(errs, conf.Merge(confmap.NewFromStringMap(map[string]any{"receivers": map[string]any{key: map[string]any{"undecoded": true}}})))
		}
	}
	return errors.Join(errs...)
}

// referred says whether a receiver's settings are what a reference gave, such as ${file:receiver.yaml}. To merge something would be to
// replace them.
func referred(conf *confmap.Conf, key string, settings map[string]any) bool {
	whole := conf.AllKeys() // those of values that are not maps to it, as references are
	return slices.Contains(whole, "receivers") || len(settings) > 0 && slices.Contains(whole, "receivers"+confmap.KeyDelimiter+key)
}

// pipelinesOf are those of traces from the receiver: where everybody takes undecoded requests, and where not.
func pipelinesOf(receiver component.ID, pipelines map[string]any) (fit, unfit []string) {
	for _, key := range slices.Sorted(maps.Keys(pipelines)) {
		pipeline, _ := pipelines[key].(map[string]any)
		switch {
		case idOf(key).Type().String() != "traces" || !slices.Contains(list(pipeline["receivers"]), receiver):
		case isFit(pipeline):
			fit = append(fit, key)
		default:
			unfit = append(unfit, key)
		}
	}
	return fit, unfit
}

func isFit(pipeline map[string]any) bool {
	for _, processor := range list(pipeline["processors"]) {
		if kind := processor.Type().String(); kind != memoryLimiter {
			return kind == takes
		}
	}
	return !slices.ContainsFunc(list(pipeline["exporters"]), func(id component.ID) bool { return id.Type().String() != takesAsLast })
}

// idOf reads an ID as the collector does. What is none is that of nothing.
func idOf(text string) (id component.ID) {
	if id.UnmarshalText([]byte(text)) != nil {
		return component.ID{}
	}
	return id
}

// list gives a list's IDs.
func list(value any) (ids []component.ID) {
	values, _ := value.([]any)
	for _, v := range values {
		text, _ := v.(string)
		ids = append(ids, idOf(text))
	}
	return ids
}
