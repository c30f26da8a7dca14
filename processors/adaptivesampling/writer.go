package adaptivesampling

import (
	"slices"
	"sync"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

// writer makes a request of spans that are kept. It is used again.
type writer struct {
	sampling.Writer
	cfg              *Config
	rule, rate, keep string // attributes that say why

	data    string // of the parts to come
	spans   []byte // of those that share a head, each as a field
	places  []placed
	scopes  []scope
	head    []byte
	request []byte
}

// placed is where a span that is unpacked is, and which one is the next of its scope.
type placed struct{ from, to, after int }

// scope is which spans are of a scope of the head, the first and the last, counted from 1; 0 is none.
type scope struct{ first, last int }

var writers = sync.Pool{New: func() any { return new(writer) }}

func (w *writer) begin(cfg *Config, data string) {
	w.cfg, w.data, w.request = cfg, data, w.request[:0]
	w.rule, w.rate, w.keep = cfg.Why+".rule", cfg.Why+".rate", cfg.Why+".keep"
}

func (w *writer) release() {
	w.data = ""
	if cap(w.spans) <= maxPooled && cap(w.request) <= maxPooled { // else what was once much would be held for ever
		writers.Put(w)
	}
}

// part unpacks the spans of the next part.
func (w *writer) part(k *keptPart) {
	scopes := unpacker{data: w.data[:k.size]}
	w.data = w.data[k.size:]
	spans := scopes
	for range k.spans {
		spans.uint()
	}
	spans.dictionary = k.batch.dictionary
	for i := range k.spans {
		from := len(w.spans)
		var at int
		w.spans, at = otlp.Begin(w.spans, otlp.ScopeSpansSpans)
		w.spans = spans.span(otlp.AppendBytes(w.spans, otlp.SpanTraceID, k.id[:]))
		w.spans = w.say(w.spans, at, &k.verdict, k.first && i == 0)
		otlp.End(w.spans, at)
		w.place(int(scopes.uint()), placed{from: from, to: len(w.spans)})
	}
}

func (w *writer) place(nth int, p placed) {
	for nth >= len(w.scopes) {
		w.scopes = append(w.scopes, scope{})
	}
	w.places = append(w.places, p)
	s := &w.scopes[nth]
	if s.first == 0 {
		s.first = len(w.places)
	} else {
		w.places[s.last-1].after = len(w.places)
	}
	s.last = len(w.places)
}

// say writes on the span that begins there what it stands for, and on a root, or the first of a trace without one, why it was
// kept.
func (w *writer) say(out []byte, at int, v *whole.Verdict, first bool) []byte {
	var s otlp.Span
	s.Read(out[at:])
	if w.cfg.DryRun {
		out = otlp.AppendBool(without(out, at, w.keep), otlp.SpanAttributes, w.keep, v.Keep)
	} else if state := w.stateOf(&s, v); state != s.TraceState {
		out = otlp.AppendBytes(out, otlp.SpanState, state) // the last one holds
	}
	if w.cfg.Why != "" && (first || s.Root()) {
		out = without(out, at, w.rule, w.rate)
		out = otlp.AppendText(out, otlp.SpanAttributes, w.rule, v.Rule.String())
		out = otlp.AppendDouble(out, otlp.SpanAttributes, w.rate, v.Threshold.Probability())
	}
	return out
}

// stateOf is the tracestate of a span of a trace that is kept.
func (w *writer) stateOf(s *otlp.Span, v *whole.Verdict) string {
	chance := v.Chance
	if chance == sampling.Always && s.Root() { // it may have come late
		chance, _ = documents.ByChanceIn(s.Attributes())
	}
	var state sampling.State
	if s.TraceState != "" {
		state = sampling.ParseState(s.TraceState)
	}
	if chance > sampling.Always && !state.HasThreshold {
		state = state.Independent(chance, s.TraceID)
		return sampling.WithRandomness(s.TraceState, state.Final(v.Threshold, state.Randomness), state.Randomness)
	}
	return w.WithThreshold(s.TraceState, state.Final(v.Threshold, state.RandomnessOf(s.TraceID)))
}

// without takes attributes out of the span that begins there.
func without(out []byte, at int, names ...string) []byte {
	rest := out[:at]
	for f := otlp.FieldsOf(out[at:]); f.Next(); {
		if f.Number == otlp.SpanAttributes {
			if key, _ := otlp.KeyValue(f.Body); slices.Contains(names, key) {
				continue
			}
		}
		rest = append(rest, f.Whole...) // which is where it was, or after that
	}
	return rest
}

// under appends to the request what the spans share, with them in it, and without scopes and resources that have none.
func (w *writer) under(head string) {
	w.head = append(w.head[:0], head...)
	nth := 0
	for f := otlp.FieldsOf(w.head); f.Next(); {
		from, some := len(w.request), false
		var resource int
		w.request, resource = otlp.Begin(w.request, otlp.RequestResourceSpans)
		for g := otlp.FieldsOf(f.Body); g.Next(); {
			if g.Number != otlp.ResourceSpansScopeSpans {
				w.request = append(w.request, g.Whole...)
				continue
			}
			if nth < len(w.scopes) && w.scopes[nth].first > 0 {
				w.inScope(g.Body, w.scopes[nth].first)
				some = true
			}
			nth++
		}
		otlp.End(w.request, resource)
		if !some {
			w.request = w.request[:from]
		}
	}
}

// inScope appends a scope with its spans.
func (w *writer) inScope(head []byte, first int) {
	var at int
	w.request, at = otlp.Begin(w.request, otlp.ResourceSpansScopeSpans)
	w.request = append(w.request, head...)
	for n := first; n > 0; n = w.places[n-1].after {
		p := &w.places[n-1]
		w.request = append(w.request, w.spans[p.from:p.to]...)
	}
	otlp.End(w.request, at)
}
