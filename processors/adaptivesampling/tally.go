package adaptivesampling

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// tally counts the spans of one batch, so that the shared counter is asked once a class and not once a span. The
// few classes there are make a list faster than a map.
type tally []classCount

type classCount struct {
	class         string
	kept, dropped int64
}

func (t *tally) add(class string, kept, dropped int64) {
	for i := range *t {
		if c := &(*t)[i]; c.class == class {
			c.kept += kept
			c.dropped += dropped
			return
		}
	}
	*t = append(*t, classCount{class, kept, dropped})
}

func (t tally) record(ctx context.Context, counter metric.Int64Counter) {
	for _, c := range t {
		counter.Add(ctx, c.kept, labels(c.class, "kept"))
		counter.Add(ctx, c.dropped, labels(c.class, "dropped"))
	}
}

func labels(class, decision string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("class", class), attribute.String("decision", decision)))
}
