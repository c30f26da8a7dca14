package redmetrics

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

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
	kind       ptrace.SpanKind
	status     ptrace.StatusCode
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
	trace      pcommon.TraceID
	span       pcommon.SpanID
	at         pcommon.Timestamp
	seconds    float64
	randomness sampling.Randomness
}

func newRegister(cfg *Config) *register {
	return &register{cfg: cfg, services: map[serviceKey]*service{}, beyond: newService(serviceKey{})}
}

func newService(key serviceKey) *service {
	return &service{serviceKey: key, series: map[seriesKey]*series{}}
}

// lock gives the service of a resource, locked.
func (r *register) lock(resource pcommon.Resource) *service {
	for {
		s := r.of(resource)
		s.mu.Lock()
		if !s.gone {
			return s
		}
		s.mu.Unlock()
	}
}

func (r *register) of(resource pcommon.Resource) *service {
	key := serviceKey{text(resource, serviceNamespace), text(resource, serviceName), text(resource, serviceVersion)}
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
		key = serviceKey{strings.Clone(key.namespace), strings.Clone(key.name), strings.Clone(key.version)} // of a batch's memory
		r.services[key] = newService(key)
	}
	return r.services[key]
}

func (r *register) full() bool { return r.held.Load() >= int64(r.cfg.MaxSeries) }

func text(resource pcommon.Resource, name string) string {
	if v, ok := resource.Attributes().Get(name); ok {
		return v.AsString()
	}
	return ""
}

// find gives the series of a span of the service, which is locked. Fast path: it is there.
func (r *register) find(s *service, span ptrace.Span, resource pcommon.Resource, now time.Time) *series {
	s.scratch = s.scratch[:0]
	for _, name := range r.cfg.Dimensions {
		s.scratch = appendDimension(s.scratch, name, span, resource)
	}
	found := s.series[seriesKey{span.Name(), span.Kind(), span.Status().Code(), string(s.scratch)}]
	switch {
	case found != nil:
	case s == r.beyond || r.full():
		r.overflown.Add(1)
		if s.overflow == nil {
			s.overflow = r.newSeries(now)
			s.overflow.dimensions.PutBool(overflow, true)
		}
		found = s.overflow
	default:
		found = r.begin(s, span, resource, now)
	}
	found.last = now
	return found
}

// begin makes a series for spans like this one.
func (r *register) begin(s *service, span ptrace.Span, resource pcommon.Resource, now time.Time) *series {
	out := r.newSeries(now)
	for _, name := range r.cfg.Dimensions {
		if v, ok := dimension(name, span, resource); ok {
			v.CopyTo(out.dimensions.PutEmpty(name))
		}
	}
	s.series[seriesKey{strings.Clone(span.Name()), span.Kind(), span.Status().Code(), string(s.scratch)}] = out
	r.held.Add(1)
	return out
}

func (r *register) newSeries(now time.Time) *series {
	return &series{began: now, dimensions: pcommon.NewMap(), duration: newHistogram(r.cfg.MaxBuckets)}
}

// dimension is an attribute of a span, or else of its resource.
func dimension(name string, span ptrace.Span, resource pcommon.Resource) (pcommon.Value, bool) {
	if v, ok := span.Attributes().Get(name); ok {
		return v, true
	}
	return resource.Attributes().Get(name)
}

// appendDimension appends a dimension's value, or that there is none, so that different ones never give the same bytes.
func appendDimension(to []byte, name string, span ptrace.Span, resource pcommon.Resource) []byte {
	v, ok := dimension(name, span, resource)
	if !ok {
		return append(to, 0)
	}
	value := v.AsString()
	return append(binary.AppendUvarint(to, uint64(len(value))+1), value...)
}

// add counts a span for so many.
func (s *series) add(span ptrace.Span, count float64, exemplars int) {
	seconds := 0.0
	if span.EndTimestamp() > span.StartTimestamp() { // clocks may say otherwise
		seconds = float64(span.EndTimestamp()-span.StartTimestamp()) / 1e9
	}
	s.calls += count
	s.duration.add(seconds, count)
	s.show(span, seconds, exemplars)
}

// show keeps the spans whose traces have the most randomness: no others are kept more surely by whoever samples after
// us, and they are as good as drawn by lot.
func (s *series) show(span ptrace.Span, seconds float64, most int) {
	if most == 0 || span.TraceID().IsEmpty() {
		return
	}
	r := sampling.FromTraceID(span.TraceID())
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
	s.exemplars = slices.Insert(s.exemplars, at, exemplar{span.TraceID(), span.SpanID(), span.EndTimestamp(), seconds, r})
}
