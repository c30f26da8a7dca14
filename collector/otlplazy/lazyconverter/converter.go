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
	"strings"

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
	var errs []error
	receivers, _ := conf.Get("receivers").(map[string]any)
	pipelines, _ := conf.Get("service::pipelines").(map[string]any)
	for _, id := range slices.Sorted(maps.Keys(receivers)) {
		settings, is := receivers[id].(map[string]any)
		if typeOf(id) != lazyReceiver || !is && receivers[id] != nil { // whoever reads the configuration refuses that
			continue
		}
		unfit := unfitPipelines(id, pipelines)
		value, said := settings["undecoded"]
		switch {
		case value == true && len(unfit) > 0:
			errs = append(errs, fmt.Errorf(
				"receivers::%s::undecoded: the pipeline %s needs spans decoded: its first processor beside %s is not %s, and without such a processor its exporters are not %s alone; leave undecoded out, or give that pipeline a receiver of its own",
				id, unfit[0], memoryLimiter, takes, takesAsLast))
		case !said && len(unfit) > 0:
			c.logger.Info("the receiver decodes all spans, since a pipeline needs them decoded", zap.String("receiver", id), zap.Strings("pipelines", unfit))
		case !said:
			if err := conf.Merge(confmap.NewFromStringMap(map[string]any{"receivers": map[string]any{id: map[string]any{"undecoded": true}}})); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// unfitPipelines are those of traces from the receiver of which not everybody takes undecoded requests.
func unfitPipelines(receiver string, pipelines map[string]any) (unfit []string) {
	for _, id := range slices.Sorted(maps.Keys(pipelines)) {
		pipeline, _ := pipelines[id].(map[string]any)
		if typeOf(id) == "traces" && slices.Contains(list(pipeline["receivers"]), receiver) && !fit(pipeline) {
			unfit = append(unfit, id)
		}
	}
	return unfit
}

func fit(pipeline map[string]any) bool {
	for _, processor := range list(pipeline["processors"]) {
		if typeOf(processor) != memoryLimiter {
			return typeOf(processor) == takes
		}
	}
	return !slices.ContainsFunc(list(pipeline["exporters"]), func(id string) bool { return typeOf(id) != takesAsLast })
}

// typeOf is the part of an ID before its name.
func typeOf(id string) string {
	kind, _, _ := strings.Cut(id, "/")
	return strings.TrimSpace(kind)
}

// list gives a list's IDs.
func list(value any) (ids []string) {
	values, _ := value.([]any)
	for _, v := range values {
		if id, is := v.(string); is {
			ids = append(ids, strings.TrimSpace(id))
		}
	}
	return ids
}
