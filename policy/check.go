package policy

import (
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker reports mistakes by path, at the place where the path, or what is nearest above it, was written.
type checker struct {
	*decoder
	root  Place
	known []Problem // of decoding: what they are about is not complained of again
}

func (c *checker) problem(path, suggestion, format string, args ...any) {
	for _, p := range c.known {
		if p.Path == path || strings.HasPrefix(path, p.Path+".") || parent(p.Path) == path {
			return
		}
	}
	c.problemAt(c.place(path), path, suggestion, format, args...)
}

// parent is the path of what a field or an item is in.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func (c *checker) place(path string) Place {
	if at, _ := c.places.of(path); at != (Place{}) {
		return at
	}
	return c.root
}

var (
	labelPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	hostPattern   = regexp.MustCompile(`^(\*|(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$`)
	headerPattern = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	wildPattern   = regexp.MustCompile(`^[-a-z0-9*]+(/[-a-z0-9*]+)?$`)
)

var (
	methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
	retryOn = []string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
		"envoy-ratelimited", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal",
		"resource-exhausted", "unavailable",
	}
	protocols = []string{"http", "http2", "grpc"}
	scopes    = []string{"global", "local"}
	atSource  = []string{"auto", "always", "off"}
	// limitScopes are those of RateLimit documents.
	limitScopes = []string{"global", "local", "quota"}
)

func (c *checker) name(path, s string) {
	switch {
	case s == "":
		c.problem(path, "", "a name is missing")
	case !labelPattern.MatchString(s):
		c.problem(path, "", "%q is no name: want at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit", s)
	}
}

func (c *checker) oneOf(path, s string, allowed []string) {
	if slices.Contains(allowed, s) {
		return
	}
	names := make(map[string]bool, len(allowed))
	for _, a := range allowed {
		names[a] = true
	}
	c.problem(path, closest(s, names), "want one of %s, got %q", strings.Join(allowed, ", "), s)
}

func (c *checker) between(path string, n, low, high int) {
	if n < low || n > high {
		c.problem(path, "", "want a number from %d to %d, got %d", low, high, n)
	}
}

// notZero refuses a 0 that is written where none makes sense: without it there is a default.
func (c *checker) notZero(path string) {
	if c.zeros[path] {
		c.problem(path, "", "want more than 0: leave it out for the default")
	}
}

func (c *checker) percent(path string, p float64) {
	if !(p >= 0 && p <= 100) {
		c.problem(path, "", "want a percentage from 0 to 100, got %v", p)
	}
}

// duration checks a duration that is not optional; zero says whether 0 has a meaning.
func (c *checker) duration(path string, d Duration, zero bool) {
	t := time.Duration(d)
	if t == 0 && zero {
		return
	}
	if t < time.Millisecond || t > time.Hour {
		c.problem(path, "", "want a duration from 1ms to 1h, got %s", d)
	}
}

func (c *checker) regex(path, s string) {
	if _, err := regexp.Compile(s); err != nil {
		c.problem(path, "", "not a regular expression (RE2): %s", err)
	}
}

func (c *checker) unique(path, s string, seen map[string]bool) {
	if seen[s] {
		c.problem(path, "", "%q is here already", s)
	}
	seen[s] = true
}

func (s *MeshSpec) check(c *checker) {
	if t := s.Tracing; t != nil {
		s.checkTracing(c)
	}
	if s.AccessLog == nil {
		return
	}
	c.oneOf("spec.accessLog.to", s.AccessLog.To, []string{"otlp"})
	if s.Tracing == nil {
		c.problem("spec.accessLog", "", "access logs go to the tracing collector: give spec.tracing.collector")
	}
	if only := s.AccessLog.Only; only != nil && only.Status.Op == "" {
		c.problem("spec.accessLog.only", "", "want a status, such as {status: \">=500\"}")
	}
}

func (s *MeshSpec) checkTracing(c *checker) {
	t := s.Tracing
	host, port, err := net.SplitHostPort(t.Collector)
	n, e := strconv.ParseUint(port, 10, 16)
	if err != nil || e != nil || host == "" || n == 0 {
		c.problem("spec.tracing.collector", "", "want HOST:PORT of an OTLP gRPC receiver, got %q", t.Collector)
	}
	if t.Percent != nil {
		c.percent("spec.tracing.percent", *t.Percent)
	}
	seen := make(map[string]bool)
	for i, tag := range t.Tags {
		path := item("spec.tracing.tags", i)
		if tag.Name == "" {
			c.problem(path, "", "a tag needs a name")
		}
		c.unique(path+".name", tag.Name, seen)
		c.headerName(path+".header", tag.Header)
	}
}

func (s *MeshSpec) references() []reference { return nil }

func (s *GatewaySpec) check(c *checker) {
	if len(s.Listeners) == 0 {
		c.problem("spec.listeners", "", "a gateway needs a listener")
	}
	if _, err := netip.ParseAddr(s.Address); err != nil && s.Address != "" {
		c.problem("spec.address", "", "want an IP address, got %q", s.Address)
	}
	names, ports := make(map[string]bool), make(map[string]bool)
	for i, l := range s.Listeners {
		path := item("spec.listeners", i)
		l.check(c, path)
		c.unique(path+".name", l.Name, names)
		c.unique(path+".port", strconv.Itoa(l.Port), ports)
	}
	for i, pattern := range s.Services {
		if !wildPattern.MatchString(pattern) {
			c.problem(item("spec.services", i), "", "want NAMESPACE/NAME with * as wildcard, got %q", pattern)
		}
	}
}

func (c *checker) protocol(path, s string, later, allowed []string) {
	if slices.Contains(later, s) {
		c.problem(path, "", "this version of Weir does not support %q yet: want one of %s", s, strings.Join(allowed, ", "))
		return
	}
	if s != "" {
		c.oneOf(path, s, allowed)
	}
}

func (s *GatewaySpec) references() []reference { return nil }

func (s *ServiceSpec) check(c *checker) {
	for i, host := range s.Hosts {
		if !hostPattern.MatchString(host) || len(host) > 253 {
			c.problem(item("spec.hosts", i), "", "want a host name in lower case, *.DOMAIN, *, or an address, without a port; got %q", host)
		}
	}
	if s.Port != 0 {
		c.between("spec.port", s.Port, 1, 65535)
	}
	c.protocol("spec.protocol", s.Protocol, laterValues["protocol"], protocols)
	s.checkAffinity(c)
	if s.Class != "" {
		c.name("spec.class", s.Class)
	}
	names := make(map[string]bool)
	for i, v := range s.Versions {
		path := item("spec.versions", i) + ".name"
		c.name(path, v.Name)
		c.unique(path, v.Name, names)
		v.RequestHeaders.check(c, item("spec.versions", i)+".requestHeaders")
		v.ResponseHeaders.check(c, item("spec.versions", i)+".responseHeaders")
	}
	s.RequestHeaders.check(c, "spec.requestHeaders")
	s.ResponseHeaders.check(c, "spec.responseHeaders")
	s.checkEndpoints(c)
	s.checkProtection(c)
	if s.Timeout != nil {
		c.duration("spec.timeout", *s.Timeout, true)
	}
	s.Retries.check(c, "spec.retries")
	s.checkHandling(c, "spec")
}

func (s *ServiceSpec) checkEndpoints(c *checker) {
	e := s.Endpoints
	if count(len(e.Static) > 0, e.DNS != nil, e.None) != 1 {
		c.problem("spec.endpoints", "", "want exactly one of static (with an endpoint in it), dns, and none: true for a service that runs nowhere")
	}
	for i, one := range e.Static {
		path := item("spec.endpoints.static", i)
		if _, err := netip.ParseAddr(one.Address); err != nil {
			c.problem(path+".address", "", "want an IP address, got %q: names are for endpoints.dns", one.Address)
		}
		c.endpointPort(path, one.Port, s.Port)
	}
	if e.DNS == nil {
		return
	}
	if !hostPattern.MatchString(e.DNS.Name) || strings.HasPrefix(e.DNS.Name, "*") {
		c.problem("spec.endpoints.dns.name", "", "want a host name, got %q", e.DNS.Name)
	}
	c.endpointPort("spec.endpoints.dns", e.DNS.Port, s.Port)
	if e.DNS.Refresh != nil {
		if c.duration("spec.endpoints.dns.refresh", *e.DNS.Refresh, false); *e.DNS.Refresh == Duration(time.Millisecond) {
			c.problem("spec.endpoints.dns.refresh", "", "want 2ms at least, which is the least that Envoy takes")
		}
	}
	if len(s.Versions) > 0 {
		c.problem("spec.versions", "", "versions are told apart by the labels of static endpoints: endpoints.dns has none")
	}
}

func (c *checker) endpointPort(path string, own, service int) {
	if own == 0 && service == 0 {
		c.problem(path, "", "no port: give one here or as spec.port")
		return
	}
	if own != 0 {
		c.between(path+".port", own, 1, 65535)
	}
}

func (s *ServiceSpec) checkProtection(c *checker) {
	b := s.CircuitBreaker
	for _, at := range [...]struct {
		path string
		n    *int
	}{
		{"spec.circuitBreaker.maxConnections", b.MaxConnections},
		{"spec.circuitBreaker.maxPending", b.MaxPending},
		{"spec.circuitBreaker.maxRequests", b.MaxRequests},
		{"spec.circuitBreaker.maxRetries", b.MaxRetries},
	} {
		if at.n != nil {
			c.between(at.path, *at.n, 0, 1<<30)
		}
	}
	for _, path := range []string{
		"outlierDetection.consecutive5xx", "outlierDetection.interval", "outlierDetection.ejectFor", "outlierDetection.maxEjected",
		"healthCheck.interval", "healthCheck.timeout", "healthCheck.unhealthy", "healthCheck.healthy",
	} {
		c.notZero("spec." + path)
	}
	if o := s.OutlierDetection; o != nil {
		c.between("spec.outlierDetection.consecutive5xx", o.Consecutive5xx, 0, 1<<30)
		c.duration("spec.outlierDetection.interval", o.Interval, true)
		c.duration("spec.outlierDetection.ejectFor", o.EjectFor, true)
		c.percent("spec.outlierDetection.maxEjected", o.MaxEjected)
	}
	if h := s.HealthCheck; h != nil {
		if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
			c.problem("spec.healthCheck.path", "", "want a path that begins with /, got %q", h.Path)
		}
		c.duration("spec.healthCheck.interval", h.Interval, true)
		c.duration("spec.healthCheck.timeout", h.Timeout, true)
		c.between("spec.healthCheck.unhealthy", h.Unhealthy, 0, 1000)
		c.between("spec.healthCheck.healthy", h.Healthy, 0, 1000)
	}
}

func (r *Retries) check(c *checker, path string) {
	if r == nil {
		return
	}
	if r.Attempts != nil {
		c.between(path+".attempts", *r.Attempts, 0, 100)
	}
	if r.PerTry != nil {
		c.duration(path+".perTry", *r.PerTry, false)
	}
	for i, on := range r.On {
		c.oneOf(item(path+".on", i), on, retryOn)
	}
	c.percent(path+".budget", r.Budget)
	for i, code := range r.Codes {
		c.between(item(path+".codes", i), code, 100, 599)
	}
	if r.Backoff != nil {
		c.duration(path+".backoff", *r.Backoff, false)
	}
}

func (s *ServiceSpec) references() []reference { return nil }

func (s *RouteSpec) check(c *checker) {
	if s.Service == "" {
		c.problem("spec.service", "", "want the service whose requests these are")
	}
	if len(s.Rules) == 0 {
		c.problem("spec.rules", "", "a route needs a rule")
	}
	names := make(map[string]bool)
	for i := range s.Rules {
		r, path := &s.Rules[i], item("spec.rules", i)
		if r.Name != "" {
			c.name(path+".name", r.Name)
			c.unique(path+".name", r.Name, names)
		}
		r.Match.check(c, path+".match")
		r.checkAction(c, path)
		r.checkMirror(c, path+".mirror")
		r.Sticky.check(c, path+".sticky")
		r.checkLoadTest(c, path)
		r.RequestHeaders.check(c, path+".requestHeaders")
		r.ResponseHeaders.check(c, path+".responseHeaders")
		if l := r.RateLimit; l != nil {
			l.check(c, path+".rateLimit", l.Scope)
			if l.Headers.RateLimit != nil && l.Scope == "local" {
				c.problem(path+".rateLimit.headers.rateLimit", "", "Envoy's own limits tell by xRateLimit and retryAfter only: want scope: global, or no rateLimit here")
			}
			if l.FairShare {
				c.problem(path+".rateLimit.fairShare", "", "want a RateLimit document for it: a rule's own limit can't be divided among proxies")
			}
			c.protocol(path+".rateLimit.scope", l.Scope, nil, scopes)
		}
		if r.Timeout != nil {
			c.duration(path+".timeout", *r.Timeout, true)
		}
		r.Retries.check(c, path+".retries")
		if r.Retries != nil && r.Retries.Budget != 0 {
			c.problem(path+".retries.budget", "", "a budget is shared by all rules: write it in the service's retries")
		}
		r.checkHandling(c, path)
	}
	s.checkReal(c)
}

func (m *Match) check(c *checker, path string) {
	if m.Path != nil {
		m.Path.check(c, path+".path")
	}
	if m.GRPC != nil {
		m.GRPC.check(c, path, m)
	}
	for i, method := range m.Methods {
		c.oneOf(item(path+".methods", i), method, methods)
	}
	c.conditions(path+".headers", m.Headers, c.headerName)
	c.conditions(path+".query", m.Query, func(path, name string) {
		if name == "" {
			c.problem(path, "", "a name is missing")
		}
	})
	c.conditions(path+".cookies", m.Cookies, c.cookieName)
}

// conditions checks those on headers, query parameters or cookies, whose names are checked by name.
func (c *checker) conditions(path string, all []NamedMatch, name func(path, name string)) {
	for i := range all {
		at := item(path, i)
		name(at+".name", all[i].Name)
		all[i].check(c, at)
	}
}

func (m *StringMatch) check(c *checker, path string) {
	if count(m.Exact != nil, m.Prefix != nil, m.Regex != nil) != 1 {
		c.problem(path, "", "want exactly one of exact, prefix and regex")
	}
	for word, s := range map[string]*string{"exact": m.Exact, "prefix": m.Prefix} {
		if s != nil && (!strings.HasPrefix(*s, "/") || strings.ContainsAny(*s, "?#")) {
			c.problem(path+"."+word, "", "want a path that begins with / and has no ? or #, got %q", *s)
		}
	}
	if m.Regex != nil {
		c.regex(path+".regex", *m.Regex)
	}
}

func (m *NamedMatch) check(c *checker, path string) {
	if count(m.Exact != nil, m.Prefix != nil, m.Regex != nil, m.Present != nil) != 1 {
		c.problem(path, "", "want exactly one of exact, prefix, regex and present")
	}
	if m.Prefix != nil && *m.Prefix == "" {
		c.problem(path+".prefix", "", "an empty prefix matches everything: use present: true")
	}
	if m.Exact != nil && *m.Exact == "" {
		c.problem(path+".exact", "", "an empty value can't be matched: use present")
	}
	if m.Regex != nil {
		c.regex(path+".regex", *m.Regex)
	}
}

func count(conditions ...bool) int {
	n := 0
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

func (r *Rule) checkTo(c *checker, path string) {
	sum := 0
	for i, to := range r.To {
		weight := 1
		if to.Weight != nil {
			weight = *to.Weight
			c.between(item(path, i)+".weight", weight, 0, 1_000_000)
		}
		sum += weight
	}
	if len(r.To) > 0 && sum == 0 {
		c.problem(path, "", "the weights sum to nothing: give one a weight above 0")
	}
}

func (h HeaderChanges) check(c *checker, path string) {
	if !h.Any() {
		return
	}
	for word, changes := range map[string]map[string]string{"add": h.Add, "set": h.Set} {
		for name, value := range changes {
			at := path + "." + word + "." + name
			c.changeable(at, name)
			c.headerValue(at, value)
		}
	}
	for i, name := range h.Remove {
		c.changeable(item(path+".remove", i), name)
	}
}

// Any says whether there is a change.
func (h HeaderChanges) Any() bool { return len(h.Add)+len(h.Set)+len(h.Remove) > 0 }

func (c *checker) headerName(path, name string) {
	if !headerPattern.MatchString(name) {
		c.problem(path, "", "%q is no header name", name)
	}
}

func (c *checker) changeable(path, name string) {
	if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host") {
		c.problem(path, "", "%q can't be changed here", name)
		return
	}
	c.headerName(path, name)
}

func (s *RouteSpec) references() []reference {
	all := []reference{{path: "spec", service: s.Service}}
	for i, r := range s.Rules {
		for j, to := range r.To {
			if to.Service != s.Service || to.Version != "" {
				path := item(item("spec.rules", i)+".to", j)
				all = append(all, reference{path: path, service: to.Service, version: to.Version, again: to.Service == s.Service})
			}
		}
		for j, to := range r.Mirror {
			path := item(item("spec.rules", i)+".mirror", j)
			all = append(all, reference{path: path, service: to.Service, version: to.Version, again: to.Service == s.Service})
		}
	}
	return all
}

func (s *RateLimitSpec) check(c *checker) {
	if s.Service == "" {
		c.problem("spec.service", "", "want the service that is limited")
	}
	if len(s.Limits) == 0 {
		c.problem("spec.limits", "", "want a limit")
	}
	for i := range s.Limits {
		s.Limits[i].check(c, item("spec.limits", i), s.Scope)
	}
	c.protocol("spec.scope", s.Scope, nil, limitScopes)
	if h := s.Headers; s.Scope == "quota" && (h.RateLimit != nil || h.XRateLimit != nil || h.RetryAfter != nil) {
		c.problem("spec.headers", "", "a proxy that decides by a quota tells clients of no limit: want scope: global, or no headers here")
	}
	if h := s.Headers.RateLimit; h != nil && s.Scope == "local" {
		c.problem("spec.headers.rateLimit", "", "Envoy's own limits tell by xRateLimit and retryAfter only: want scope: global, or no rateLimit here")
	}
	c.protocol("spec.onError", s.OnError, nil, []string{"allow", "deny"})
}

func (s *RateLimitSpec) references() []reference {
	return []reference{{path: "spec", service: s.Service}}
}

func (s *SamplingSpec) check(c *checker) {
	for class, percent := range s.Classes {
		c.percent("spec.classes."+class, percent)
	}
	for i, o := range s.Operations {
		path := item("spec.operations", i)
		if o.Operation == "" {
			c.problem(path+".operation", "", "want a span's name, with * as wildcard")
		}
		c.percent(path+".percent", o.Percent)
	}
	if a := s.Adaptive; a != nil {
		a.check(c)
	}
	if k := s.Keep; k != nil {
		k.check(c)
		if w := time.Duration(s.Wait); s.Wait != 0 && (w < 100*time.Millisecond || w > 10*time.Minute) {
			c.problem("spec.wait", "", "want 100ms to 10m, got %s", s.Wait)
		}
	} else if s.Wait != 0 {
		c.problem("spec.wait", "", "want keep beside it: without keep no trace is held")
	}
	c.protocol("spec.atSource", s.AtSource, nil, atSource)
}

func (k *Keep) check(c *checker) {
	const path = "spec.keep"
	c.percent(path+".slowestPercent", k.SlowestPercent)
	for i, name := range k.Marked {
		if name == "" {
			c.problem(item(path+".marked", i), "", "want the name of a span's attribute, or of a member of baggage")
		}
	}
}

func (a *Adaptive) check(c *checker) {
	const path = "spec.adaptive"
	c.budget(path+".spansPerSecond", a.SpansPerSecond)
	for class, n := range a.Classes {
		c.budget(path+".classes."+class, n)
	}
	for service, n := range a.Services {
		c.budget(path+".services."+service, n)
		if namespace, name, ok := strings.Cut(service, "/"); !ok || namespace == "" || name == "" {
			c.problem(path+".services."+service, "", "want NAMESPACE/NAME")
		}
	}
	c.optionalPercent(path+".min", a.Min)
	c.optionalPercent(path+".max", a.Max)
	if a.Min != nil && a.Max != nil && *a.Min > *a.Max {
		c.problem(path+".min", "", "want at most max, which is %v", *a.Max)
	}
	if w := time.Duration(a.Window); a.Window != 0 && (w < time.Second || w > 10*time.Minute) {
		c.problem(path+".window", "", "want 1s to 10m, got %s", a.Window)
	}
}

// budget checks spans a second.
func (c *checker) budget(path string, n float64) {
	if !(n > 0) || math.IsInf(n, 0) {
		c.problem(path, "", "want spans a second, more than 0")
	}
}

func (s *SamplingSpec) references() []reference { return nil }

func (s *RetentionSpec) check(c *checker) {
	for class, keep := range s.Classes {
		if keep < day {
			c.problem("spec.classes."+class, "", "want at least 1d, got %s", keep)
		}
	}
	a := s.Archive
	if a == nil {
		return
	}
	if bucket, ok := strings.CutPrefix(a.Bucket, "s3://"); !ok || strings.Trim(bucket, "/") == "" {
		c.problem("spec.archive.bucket", "", "want s3://NAME or s3://NAME/PREFIX, got %q", a.Bucket)
	}
	c.protocol("spec.archive.compression", a.Compression, nil, []string{"gzip"})
	if a.Endpoint != "" && !strings.HasPrefix(a.Endpoint, "http://") && !strings.HasPrefix(a.Endpoint, "https://") {
		c.problem("spec.archive.endpoint", "", "want http://HOST:PORT or https://HOST:PORT, got %q", a.Endpoint)
	}
}

func (s *RetentionSpec) references() []reference { return nil }
