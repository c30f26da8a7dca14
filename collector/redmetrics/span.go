package redmetrics

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
)

// asked is what is asked of some spans beside what is read of all.
type asked interface {
	// chance is what a root says of how it was chosen, as [documents.ByChance] has it.
	chance() (sampling.Threshold, bool)
	// text is a dimension's value as a text, which is not kept.
	text(dimension string) (string, bool)
	// value is a dimension's value, to be copied.
	value(dimension string) (pcommon.Value, bool)
}

// tally counts the spans of a resource, under the lock of its service.
type tally struct {
	*register
	service *service
	now     time.Time
	states  sampling.Reader
}

func newTally[A documents.Attributes[V], V documents.Value](r *register, resource A, now time.Time) tally {
	key := serviceKey{documents.Text(resource, serviceNamespace), documents.Text(resource, serviceName), documents.Text(resource, serviceVersion)}
	return tally{register: r, service: r.lock(key), now: now}
}

// count counts a span. Nothing of it or of its texts is kept.
func (t *tally) count(span *otlp.Span, more asked) {
	t.find(span, more).add(span, t.adjustedCount(span, more), t.cfg.Exemplars)
}

// adjustedCount is by the span's tracestate, or else by what a root says of how an SDK or a proxy chose it.
func (t *tally) adjustedCount(span *otlp.Span, more asked) float64 {
	if state := t.states.Read(span.TraceState); state.HasThreshold {
		return state.AdjustedCount(state.RandomnessOf(span.TraceID))
	}
	if span.Root() {
		if chance, chosen := more.chance(); chosen {
			return chance.AdjustedCount()
		}
	}
	return 1
}

// decoded is a span of pdata.
type decoded struct {
	span     ptrace.Span
	resource pcommon.Map
}

func (r *register) countDecoded(td ptrace.Traces, now time.Time) {
	var d decoded
	for _, rs := range td.ResourceSpans().All() {
		d.resource = rs.Resource().Attributes()
		d.count(r, rs.ScopeSpans(), now)
	}
}

func (d *decoded) count(r *register, scopes ptrace.ScopeSpansSlice, now time.Time) {
	t := newTally(r, d.resource, now)
	defer t.service.mu.Unlock()
	var span otlp.Span
	for _, ss := range scopes.All() {
		for _, s := range ss.Spans().All() {
			d.span = s
			span.TraceID = s.TraceID()
			span.SpanID = s.SpanID()
			span.ParentID = s.ParentSpanID()
			span.TraceState = s.TraceState().AsRaw()
			span.Name = s.Name()
			span.Start = uint64(s.StartTimestamp())
			span.End = uint64(s.EndTimestamp())
			span.Kind = int32(s.Kind())
			span.Status = int32(s.Status().Code())
			t.count(&span, d)
		}
	}
}

func (d *decoded) chance() (sampling.Threshold, bool) { return documents.ByChance(d.span) }

func (d *decoded) text(dimension string) (string, bool) {
	v, ok := d.value(dimension)
	if !ok {
		return "", false
	}
	return v.AsString(), true
}

func (d *decoded) value(dimension string) (pcommon.Value, bool) {
	return get(dimension, d.span.Attributes(), d.resource)
}

// undecoded is a span of a request that nobody has decoded, and whose memory will be used for something else.
type undecoded struct {
	span     otlp.Span
	resource otlp.Attributes
}

func (r *register) countUndecoded(request []byte, now time.Time) {
	var u undecoded
	for f := otlp.FieldsOf(request); f.To(otlp.RequestResourceSpans); {
		u.resource = otlp.ResourceOf(f.Body).Attributes()
		u.count(r, f.Body, now)
	}
}

func (u *undecoded) count(r *register, resourceSpans []byte, now time.Time) {
	t := newTally(r, u.resource, now)
	defer t.service.mu.Unlock()
	for ss := otlp.FieldsOf(resourceSpans); ss.To(otlp.ResourceSpansScopeSpans); {
		for s := otlp.FieldsOf(ss.Body); s.To(otlp.ScopeSpansSpans); {
			u.span.Read(s.Body)
			t.count(&u.span, u)
		}
	}
}

func (u *undecoded) chance() (sampling.Threshold, bool) {
	return documents.ByChanceIn(u.span.Attributes())
}

func (u *undecoded) text(dimension string) (string, bool) {
	v, ok := get(dimension, u.span.Attributes(), u.resource)
	return v.AsString(), ok
}

func (u *undecoded) value(dimension string) (pcommon.Value, bool) {
	v, ok := get(dimension, u.span.Attributes(), u.resource)
	return v.Decode(), ok
}

// get gives an attribute of a span, or else of its resource.
func get[A documents.Attributes[V], V documents.Value](name string, span, resource A) (V, bool) {
	if v, ok := span.Get(name); ok {
		return v, true
	}
	return resource.Get(name)
}
