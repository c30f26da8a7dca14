package documents

import (
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
)

// TestUndecodedSaysTheSame: what is read of resources and roots where they lie is what pdata has, and outlives the request.
func TestUndecodedSaysTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	chosen, named := 0, 0
	for range 20_000 {
		attributes := random(r)
		data, at := otlp.Begin(nil, otlp.RequestResourceSpans)
		data = message(data, otlp.ResourceSpansResource, otlp.ResourceAttributes, attributes)
		data, scope := otlp.Begin(data, otlp.ResourceSpansScopeSpans)
		data = message(data, otlp.ScopeSpansSpans, otlp.SpanAttributes, attributes)
		otlp.End(data, scope)
		otlp.End(data, at)
		td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data)
		if err != nil {
			t.Fatal(err)
		}
		rs := td.ResourceSpans().At(0)

		resource := otlp.ResourceOf(data[at:])
		threshold, ok := ByChanceIn(resource.Attributes())
		if wantAt, want := ByChance(rs.ScopeSpans().At(0).Spans().At(0)); threshold != wantAt || ok != want {
			t.Fatalf("%v: %v, %v, want %v, %v", rs.Resource().Attributes().AsRaw(), threshold, ok, wantAt, want)
		}
		ref, class := ServiceOf(resource)
		clear(data) // its memory is used again
		if wantRef, want := Service(rs.Resource()); ref != wantRef || class != want {
			t.Fatalf("%v: %v, %s, want %v, %s", rs.Resource().Attributes().AsRaw(), ref, class, wantRef, want)
		}
		if ok {
			chosen++
		}
		if ref.Name != "" {
			named++
		}
	}
	if chosen < 500 || named < 500 {
		t.Errorf("%d were chosen by chance, %d have a name", chosen, named)
	}
}

// message appends a field that is a message of attributes.
func message(out []byte, number, field int, attributes [][]byte) []byte {
	out, at := otlp.Begin(out, number)
	for _, a := range attributes {
		out = otlp.AppendBytes(out, field, a)
	}
	otlp.End(out, at)
	return out
}

// random gives attributes with values of all types, some of them twice.
func random(r *rand.Rand) (attributes [][]byte) {
	names := []string{
		serviceName, serviceNamespace, sampling.ClassAttribute, sampling.ThresholdAttribute, "guid:x-client-trace-id",
		"jaeger.sampler.type", "jaeger.sampler.param", "sampler.type", "sampler.param", "another",
	}
	values := []string{ // as AnyValue has them
		"\x0a\x0dprobabilistic", "\x0a\x0dprobabilistic", "\x0a\x040.25", "\x0a\x018", "\x0a\x00", "", "\x10\x01", "\x18\x07",
		"\x21\x00\x00\x00\x00\x00\x00\xe0\x3f", "\x2a\x05\x0a\x03\x0a\x01x", "\x32\x00", "\x3a\x01x", "\x18\x07\x0a\x01e",
	}
	for range r.IntN(8) {
		a := otlp.AppendBytes(nil, 1, names[r.IntN(len(names))])
		attributes = append(attributes, otlp.AppendBytes(a, 2, values[r.IntN(len(values))]))
	}
	return attributes
}
