package redmetrics

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
)

// usual are the attributes by which all spans are counted.
var usual = []string{serviceNamespace, serviceName, serviceVersion, spanName, spanKind, statusCode}

// Attributes of resources and of what is told. Those of spans are called as other span metrics have them.
const (
	serviceNamespace = "service.namespace"
	serviceName      = "service.name"
	serviceVersion   = "service.version"
	spanName         = "span.name"
	spanKind         = "span.kind"
	statusCode       = "status.code"
	overflow         = "otel.metric.overflow"
)

// register has all series. Spans are counted under the lock of their service only.
type register struct {
	cfg       *Config
	held      atomic.Int64 // series, but for those of overflow
	overflown atomic.Int64 // spans

	mu       sync.RWMutex // guards services
	services map[serviceKey]*service
	beyond   *service // of services that there is no room for
}

type serviceKey struct{ namespace, name, version string }

// service is a version of one.
type service struct {
	serviceKey
	mu       sync.Mutex // guards everything declared below
	series   map[seriesKey]*series
	overflow *series // what there is no room for; nil: nothing
	gone     bool    // from the register
	scratch  []byte
}

type seriesKey struct {
	operation  string
	kind       int32
	status     int32
	dimensions string // of appendDimension
}

// series is what is counted of spans that are alike.
type series struct {
	began, last time.Time
	dimensions  pcommon.Map
	calls       float64
	duration    *histogram
	exemplars   []exemplar // of spans since the last flush
}

// exemplar is a span that shows the way to a trace.
type exemplar struct {
	trace      [16]byte
	span       [8]byte
	at         uint64
	seconds    float64
	randomness sampling.Randomness
}

func newRegister(cfg *Config) *register {
	return &register{cfg: cfg, services: map[serviceKey]*service{}, beyond: newService(serviceKey{})}
}

func newService(key serviceKey) *service {
	return &service{serviceKey: key, series: map[seriesKey]*series{}}
}

// lock gives a service, locked. The key may be a batch's memory.
func (r *register) lock(key serviceKey) *service {
	for {
		s := r.of(key)
		s.mu.Lock()
		if !s.gone {
			return s
		}
		s.mu.Unlock()
	}
}

func (r *register) of(key serviceKey) *service {
	r.mu.RLock()
	s := r.services[key]
	r.mu.RUnlock()
	if s != nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.services[key] != nil:
	case r.full():
		return r.beyond
	default:
		key = serviceKey{strings.Clone(key.namespace), strings.Clone(key.name), strings.Clone(key.version)}
		r.services[key] = newService(key)
	}
	return r.services[key]
}

func (r *register) full() bool { return r.held.Load() >= int64(r.cfg.MaxSeries) }

// find gives the series of a span. Fast path: it is there.
func (t *tally) find(span *otlp.Span, more asked) *series {
	s := t.service
	s.scratch = s.scratch[:0]
	for _, name := range t.cfg.Dimensions {
		s.scratch = appendDimension(s.scratch, name, more)
	}
	found := s.series[seriesKey{span.Name, span.Kind, span.Status, string(s.scratch)}]
	switch {
	case found != nil:
	case s == t.beyond || t.full():
		t.overflown.Add(1)
		if s.overflow == nil {
			s.overflow = t.newSeries(t.now)
			s.overflow.dimensions.PutBool(overflow, true)
		}
		found = s.overflow
	default:
		found = t.begin(span, more)
	}
	found.last = t.now
	return found
}

// begin makes a series for spans like this one.
func (t *tally) begin(span *otlp.Span, more asked) *series {
	out := t.newSeries(t.now)
	for _, name := range t.cfg.Dimensions {
		if v, ok := more.value(name); ok {
			v.CopyTo(out.dimensions.PutEmpty(name))
		}
	}
	t.service.series[seriesKey{strings.Clone(span.Name), span.Kind, span.Status, string(t.service.scratch)}] = out
	t.held.Add(1)
	return out
}

func (r *register) newSeries(now time.Time) *series {
	return &series{began: now, dimensions: pcommon.NewMap(), duration: newHistogram(r.cfg.MaxBuckets)}
}

// appendDimension appends a dimension's value, or that there is none, so that different ones never give the same bytes.
func appendDimension(to []byte, name string, of asked) []byte {
	value, ok := of.text(name)
	if !ok {
		return append(to, 0)
	}
	return append(binary.AppendUvarint(to, uint64(len(value))+1), value...)
}

// add counts a span for so many.
func (s *series) add(span *otlp.Span, count float64, exemplars int) {
	seconds := 0.0
	if span.End > span.Start { // clocks may say otherwise
		seconds = float64(span.End-span.Start) / 1e9
	}
	s.calls += count
	s.duration.add(seconds, count)
	s.show(span, seconds, exemplars)
}

// show keeps the spans whose traces have the most randomness: no others are kept more surely by whoever samples after
// us, and they are as good as drawn by lot.
func (s *series) show(span *otlp.Span, seconds float64, most int) {
	if most == 0 || span.TraceID == [16]byte{} {
		return
	}
	r := sampling.FromTraceID(span.TraceID)
	if len(s.exemplars) == most && r <= s.exemplars[most-1].randomness {
		return
	}
	if len(s.exemplars) == most {
		s.exemplars = s.exemplars[:most-1]
	}
	at, _ := slices.BinarySearchFunc(s.exemplars, r, func(e exemplar, r sampling.Randomness) int {
		if e.randomness >= r {
			return -1
		}
		return 1
	})
	s.exemplars = slices.Insert(s.exemplars, at, exemplar{span.TraceID, span.SpanID, span.End, seconds, r})
}
