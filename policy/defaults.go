package policy

import (
	"maps"
	"strconv"
	"strings"
	"time"
)

// What holds where a document says nothing is written here and nowhere else.

// DefaultClass is the class of a service that names none.
const DefaultClass = "default"

var (
	defaultRates = map[string]float64{
		"main": 20, "api": 30, "background": 5, "health": 1, "executions": 50, "cache": 20, DefaultClass: 20,
	}
	defaultRetentionDays = map[string]int{
		"main": 90, "api": 60, "background": 30, "health": 7, "executions": 90, "cache": 30, DefaultClass: 30,
	}
	// text/event-stream is not among them: line by line, little is gained.
	compressible = []string{
		"application/javascript", "application/json", "application/xhtml+xml", "application/xml", "image/svg+xml",
		"text/css", "text/csv", "text/html", "text/javascript", "text/markdown", "text/plain", "text/xml",
	}
	defaultRetryOn = []string{"connect-failure", "refused-stream", "unavailable", "reset-before-request"}
)

const day = Duration(24 * time.Hour)

// defaultTimeout is a service's, and a mirror's.
const defaultTimeout = Duration(15 * time.Second)

func or[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

func orNew[T any](v **T, fallback T) {
	if *v == nil {
		*v = &fallback
	}
}

// resolve gives a reference its namespace, the document's unless it names one.
func resolve(service string, m Metadata) string {
	if service == "" {
		return ""
	}
	return ParseRef(service, m.Namespace).String()
}

func (s *MeshSpec) defaults(Metadata) {
	if s.Tracing != nil {
		orNew(&s.Tracing.Percent, 100)
	}
}

func (s *GatewaySpec) defaults(Metadata) {
	or(&s.Address, "0.0.0.0")
	if len(s.Services) == 0 {
		s.Services = []string{"*"}
	}
	for i := range s.Listeners {
		s.Listeners[i].defaults()
	}
}

func (s *ServiceSpec) defaults(m Metadata) {
	if len(s.Hosts) == 0 {
		s.Hosts = []string{strings.TrimSuffix(m.Name+"."+m.Namespace, ".")}
	}
	or(&s.Protocol, "http")
	or(&s.Class, DefaultClass)
	s.defaultAffinity()
	orNew(&s.Timeout, defaultTimeout)
	for i := range s.Versions {
		if v := &s.Versions[i]; len(v.Selector) == 0 {
			v.Selector = map[string]string{"version": v.Name}
		}
	}
	for i := range s.Endpoints.Static {
		or(&s.Endpoints.Static[i].Port, s.Port)
	}
	if dns := s.Endpoints.DNS; dns != nil {
		or(&dns.Port, s.Port)
		orNew(&dns.Refresh, Duration(5*time.Second))
	}
	s.Retries.defaults()
	s.defaultHandling()
	s.defaultProtection()
}

func (s *ServiceSpec) defaultProtection() {
	b := &s.CircuitBreaker
	orNew(&b.MaxConnections, 1024)
	orNew(&b.MaxPending, 1024)
	orNew(&b.MaxRequests, 1024)
	orNew(&b.MaxRetries, 3)
	if o := s.OutlierDetection; o != nil {
		or(&o.Consecutive5xx, 5)
		or(&o.Interval, Duration(10*time.Second))
		or(&o.EjectFor, Duration(30*time.Second))
		or(&o.MaxEjected, 50)
	}
	if h := s.HealthCheck; h != nil {
		or(&h.Path, "/healthz")
		or(&h.Interval, Duration(10*time.Second))
		or(&h.Timeout, Duration(time.Second))
		or(&h.Unhealthy, 3)
		or(&h.Healthy, 2)
	}
}

func (r *Retries) defaults() {
	if r == nil {
		return
	}
	orNew(&r.Attempts, 2)
	orNew(&r.Backoff, Duration(25*time.Millisecond))
	if len(r.On) == 0 {
		r.On = defaultRetryOn
	}
}

func (f *Fault) defaults() {
	if f.Delay != nil {
		orNew(&f.Delay.Percent, 100)
	}
	if f.Abort != nil {
		orNew(&f.Abort.Percent, 100)
	}
}

func (h *Handling) defaultHandling() {
	if m := h.Maintenance; m != nil {
		or(&m.Status, 503)
	}
	if c := h.Compression; c != nil {
		if c.Algorithms == nil {
			c.Algorithms = compressionAlgorithms
		}
		orNew(&c.MinBytes, 1000)
		if len(c.ContentTypes) == 0 {
			c.ContentTypes = compressible
		}
	}
	if h.CORS != nil {
		orNew(&h.CORS.MaxAge, Duration(5*time.Second))
	}
}

func (s *RouteSpec) defaults(m Metadata) {
	s.Service = resolve(s.Service, m)
	for i := range s.Rules {
		r := &s.Rules[i]
		or(&r.Name, "rule-"+strconv.Itoa(i))
		if len(r.To) == 0 && r.Answers() == "" {
			r.To = []Destination{{}}
		}
		for j := range r.To {
			to := &r.To[j]
			if to.Service == "" {
				to.Service = s.Service
			}
			to.Service = resolve(to.Service, m)
			orNew(&to.Weight, 1)
		}
		r.defaultMirror(s.Service, m)
		r.Sticky.defaults()
		r.Retries.defaults()
		r.defaultHandling()
		if l := r.LoadTest; l != nil && l.StopWhen != nil {
			l.StopWhen.defaults()
		}
		if f := r.Fault; f != nil {
			f.defaults()
		}
		if r.Redirect != nil {
			or(&r.Redirect.StatusCode, 302)
		}
		if d := r.DirectResponse; d != nil && d.Body != "" {
			or(&d.ContentType, "text/plain")
		}
		if r.RateLimit != nil {
			or(&r.RateLimit.Scope, "global")
			r.RateLimit.defaults()
			r.RateLimit.Headers.defaults(r.RateLimit.Scope)
		}
	}
}

func (s *RateLimitSpec) defaults(m Metadata) {
	s.Service = resolve(s.Service, m)
	or(&s.Scope, "global")
	or(&s.OnError, "allow")
	s.Headers.defaults(s.Scope)
	for i := range s.Limits {
		s.Limits[i].defaults()
	}
}

func (s *SamplingSpec) defaults(Metadata) {
	classes := make(map[string]float64, len(defaultRates)+len(s.Classes))
	maps.Copy(classes, defaultRates)
	maps.Copy(classes, s.Classes)
	s.Classes = classes
	for i := range s.Operations {
		if o := &s.Operations[i]; o.Service != "" {
			o.Service = ParseRef(o.Service, "").String()
		}
	}
	if a := s.Adaptive; a != nil {
		most := 100.0
		or(&a.Max, &most)
		least := min(defaultMinPercent, *a.Max)
		or(&a.Min, &least)
		or(&a.Window, Duration(10*time.Second))
	}
	if s.Keep != nil {
		or(&s.Wait, Duration(5*time.Second))
	}
	or(&s.AtSource, "auto")
}

const defaultMinPercent = 0.1

func (s *RetentionSpec) defaults(Metadata) {
	classes := make(map[string]Duration, len(defaultRetentionDays)+len(s.Classes))
	for class, days := range defaultRetentionDays {
		classes[class] = Duration(days) * day
	}
	maps.Copy(classes, s.Classes)
	s.Classes = classes
	if a := s.Archive; a != nil {
		or(&a.Region, "us-east-1")
		or(&a.Compression, "gzip")
	}
}
