package adaptivesampling

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// tally counts the spans of one batch, so that the shared counter is asked once a class and not once a span. The
// few classes there are make a list faster than a map. It is used again, and keeps the classes with their labels.
type tally []classCount

type classCount struct {
	class         string
	kept, dropped count
}

type count struct {
	spans  int64
	labels []metric.AddOption
}

func (t *tally) add(class string, kept, dropped int64) {
	for i := range *t {
		if c := &(*t)[i]; c.class == class {
			c.kept.spans += kept
			c.dropped.spans += dropped
			return
		}
	}
	*t = append(*t, classCount{class, count{kept, labels(class, "kept")}, count{dropped, labels(class, "dropped")}})
}

// part counts spans by class. It gives how many are kept.
func (t *tally) part(p part, keep bool) (kept int64) {
	spans, scope := int64(p.place().spans), p.place().scope
	if keep {
		kept = spans
	}
	if scope >= 0 { // the usual case
		t.add(p.batch.services[scope].Class, kept, spans-kept)
		return kept
	}
	u := unpacker{data: p.data()}
	for range spans {
		class := p.batch.services[u.uint()].Class
		if keep {
			t.add(class, 1, 0)
		} else {
			t.add(class, 0, 1)
		}
	}
	return kept
}

// record tells the counter, and begins anew.
func (t tally) record(ctx context.Context, counter metric.Int64Counter) {
	for i := range t {
		c := &t[i]
		if c.kept.spans+c.dropped.spans == 0 { // a class of another batch
			continue
		}
		counter.Add(ctx, c.kept.spans, c.kept.labels...)
		counter.Add(ctx, c.dropped.spans, c.dropped.labels...)
		c.kept.spans, c.dropped.spans = 0, 0
	}
}

func labels(class, decision string) []metric.AddOption {
	return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("class", class), attribute.String("decision", decision)))}
}
