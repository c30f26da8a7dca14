package importer

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// rules reads the rules of an HTTPRoute or a GRPCRoute, which is attached.
func (a *api) rules(o *object, attached []attachment) []*rule {
	var all []*rule
	for i, f := range o.spec().get("rules").list() {
		b := &ruleOf{api: a, object: o, attached: attached, rule: &rule{at: f}}
		b.rule.Name = cmp.Or(f.get("name").text(), o.name+"-"+strconv.Itoa(i))
		all = append(all, b.read(f)...)
	}
	return all
}

// ruleOf is a rule of a route being read.
type ruleOf struct {
	*api
	object   *object
	attached []attachment
	rule     *rule
	failed   bool // a filter that can't be kept must not be passed over
}

func (b *ruleOf) read(f field) []*rule {
	for _, filter := range f.get("filters").list() {
		b.filter(filter)
	}
	backends := f.get("backendRefs").list()
	for _, backend := range backends {
		b.backendRef(backend, len(backends) == 1)
	}
	b.timeouts(f)
	b.persistence(f.get("sessionPersistence"))
	b.finish(f)
	matches := f.get("matches").list()
	if len(matches) == 0 {
		r := b.rule.clone()
		r.order = order{path: 2, length: 1}
		return []*rule{r}
	}
	var all []*rule
	for _, m := range matches {
		r := b.rule.clone()
		r.at = m
		keep := b.httpMatch
		if b.object.kind == "GRPCRoute" {
			keep = b.grpcMatch
		}
		if keep(m, r) {
			all = append(all, r)
		}
	}
	return all
}

// finish decides what becomes of requests that nothing takes.
func (b *ruleOf) finish(f field) {
	r := b.rule
	total, valid := 0, 0
	for _, s := range r.to {
		total += s.weight
		if s.service.invalid == "" {
			valid++
		}
	}
	switch {
	case b.failed:
		r.fail(500)
	case r.answers():
		r.to, r.mirrors, r.Timeout, r.Retries, r.Sticky, r.URLRewrite = nil, nil, nil, nil, nil, nil
		r.RequestHeaders = policy.HeaderChanges{}
	case total == 0 || valid == 0:
		f.say("its requests are answered 500, as nothing takes them")
		r.fail(500)
	}
}

func (b *ruleOf) httpMatch(m field, r *rule) bool {
	r.Match = policy.Match{}
	r.order = order{path: 2, length: 1}
	if p := m.get("path"); p.given() {
		b.path(p, r)
	}
	if method := m.get("method"); method.given() {
		r.Match.Methods, r.order.method = []string{method.text()}, true
	}
	headers, ok := named(m.get("headers"), strings.EqualFold)
	query, okQuery := named(m.get("queryParams"), func(x, y string) bool { return x == y })
	r.Match.Headers, r.Match.Query = headers, query
	r.order.headers, r.order.query = len(headers), len(query)
	return b.whole(m, ok && okQuery && !r.at.of.whole[m.get("path").path])
}

// whole says whether a match can be kept, and leaves it out as a whole otherwise.
func (b *ruleOf) whole(m field, ok bool) bool {
	if !ok {
		m.lost("the match is left out as a whole, since a part of it can't be kept: its requests go to the rules that follow")
	}
	return ok
}

func (b *ruleOf) path(p field, r *rule) {
	value := cmp.Or(p.get("value").text(), "/")
	switch kind := cmp.Or(p.get("type").text(), "PathPrefix"); kind {
	case "Exact":
		r.Match.Path, r.order.path, r.order.length = &policy.StringMatch{Exact: &value}, 0, len(value)
	case "PathPrefix":
		if r.order.length = len(value); value != "/" {
			r.Match.Path = &policy.StringMatch{Prefix: &value}
		} else if r.rewritesPrefix() {
			r.Match.Path = &policy.StringMatch{Prefix: &value}
		}
	case "RegularExpression":
		r.Match.Path, r.order.path, r.order.length = &policy.StringMatch{Regex: &value}, 1, len(value)
		if _, err := regexp.Compile(value); err != nil {
			p.lost("Weir's regular expressions are RE2's: %s", oneLine(err.Error()))
		}
	default:
		p.lost("Weir's paths match by exact, prefix and regex, and not by %s", kind)
	}
}

// rewritesPrefix says whether the rule replaces the prefix that it matches.
func (r *rule) rewritesPrefix() bool {
	prefix := func(p *policy.PathRewrite) bool { return p != nil && p.ReplacePrefixMatch != nil }
	return r.URLRewrite != nil && prefix(r.URLRewrite.Path) || r.Redirect != nil && prefix(r.Redirect.Path)
}

// named reads matches of headers or query parameters. Of two with one name, the first holds, as Gateway API says.
func named(f field, same func(a, b string) bool) (all []policy.NamedMatch, ok bool) {
	ok = true
	for _, m := range f.list() {
		one := policy.NamedMatch{Name: m.get("name").text()}
		value := m.get("value").text()
		switch kind := cmp.Or(m.get("type").text(), "Exact"); kind {
		case "Exact":
			one.Exact = &value
		case "RegularExpression":
			one.Regex = &value
			if _, err := regexp.Compile(value); err != nil {
				m.lost("Weir's regular expressions are RE2's: %s", oneLine(err.Error()))
				ok = false
			}
		default:
			m.lost("Weir matches by exact and regex here, and not by %s", kind)
			ok = false
		}
		if slices.ContainsFunc(all, func(had policy.NamedMatch) bool { return same(had.Name, one.Name) }) {
			m.say("left out: %s is matched already, and Gateway API takes the first", one.Name)
			continue
		}
		all = append(all, one)
	}
	return all, ok
}

func (b *ruleOf) grpcMatch(m field, r *rule) bool {
	r.Match = policy.Match{}
	ok := true
	if method := m.get("method"); method.given() {
		service, name := method.get("service").text(), method.get("method").text()
		r.order.length = len(service)<<16 + len(name)
		switch kind := cmp.Or(method.get("type").text(), "Exact"); {
		case kind == "Exact" && service != "":
			r.Match.GRPC = &policy.GRPCMatch{Service: service, Method: name}
		case kind == "Exact":
			r.Match.Path = &policy.StringMatch{Regex: new("/[^/]+/" + regexp.QuoteMeta(name))}
		case kind == "RegularExpression":
			whole := "/(?:" + cmp.Or(service, "[^/]+") + ")/(?:" + cmp.Or(name, "[^/]+") + ")"
			r.Match.Path = &policy.StringMatch{Regex: &whole}
			if _, err := regexp.Compile(whole); err != nil {
				method.lost("Weir's regular expressions are RE2's: %s", oneLine(err.Error()))
				ok = false
			}
		default:
			method.lost("Weir matches gRPC methods by name or regex, and not by %s", kind)
			ok = false
		}
	}
	headers, okHeaders := named(m.get("headers"), strings.EqualFold)
	r.Match.Headers, r.order.headers = headers, len(headers)
	return b.whole(m, ok && okHeaders)
}

// filter reads a filter of the rule. One that can't be kept must not be passed over: the rule then answers 500, as
// Gateway API wants it.
func (b *ruleOf) filter(f field) {
	r := b.rule
	switch kind := f.get("type").text(); kind {
	case "RequestHeaderModifier":
		c := modifier(f.get("requestHeaderModifier"))
		r.RequestHeaders = mergeChanges(r.RequestHeaders, c.HeaderChanges)
		if c.host != "" {
			r.rewriteHost(c.host)
		}
	case "ResponseHeaderModifier":
		r.ResponseHeaders = mergeChanges(r.ResponseHeaders, modifier(f.get("responseHeaderModifier")).HeaderChanges)
	case "RequestMirror":
		b.mirror(f.get("requestMirror"))
	case "RequestRedirect":
		b.redirect(f.get("requestRedirect"))
	case "URLRewrite":
		b.rewrite(f.get("urlRewrite"))
	case "CORS":
		r.CORS = b.cors(f.get("cors"))
	default:
		f.lost("Weir has no filter %s: the rule answers 500, since its requests must not pass without it", kind)
		b.failed = true
	}
}

func (r *rule) rewriteHost(host string) {
	if r.URLRewrite == nil {
		r.URLRewrite = &policy.URLRewrite{}
	}
	r.URLRewrite.Hostname = host
}

// modifier reads changes of headers.
func modifier(f field) changes {
	var c changes
	for _, h := range f.get("set").list() {
		c.put(&c.Set, h, h.get("name").text(), literal(h.get("value").text()))
	}
	for _, h := range f.get("add").list() {
		c.put(&c.Add, h, h.get("name").text(), literal(h.get("value").text()))
	}
	c.Remove = f.get("remove").texts()
	return c
}

func (b *ruleOf) mirror(f field) {
	s := b.target(f.get("backendRef"))
	if s == nil || s.invalid != "" {
		f.lost("there is nothing that the copies could go to")
		return
	}
	m := mirror{service: s}
	if percent := f.get("percent"); percent.given() {
		m.percent = new(percent.decimal())
	}
	if fraction := f.get("fraction"); fraction.given() {
		whole := 100.0
		if d := fraction.get("denominator"); d.given() {
			whole = d.decimal()
		}
		if part := fraction.get("numerator").decimal(); whole > 0 {
			m.percent = new(math.Min(100, part/whole*100))
		}
	}
	if m.percent != nil && *m.percent == 100 {
		m.percent = nil
	}
	b.rule.mirrors = append(b.rule.mirrors, m)
}

func (b *ruleOf) redirect(f field) {
	d := &policy.Redirect{
		Scheme: f.get("scheme").text(), Hostname: f.get("hostname").text(), Port: f.get("port").number(),
		StatusCode: f.get("statusCode").number(), Path: pathModifier(f.get("path")),
	}
	port, scheme := listenerOf(b.attached)
	if d.Scheme == "" && d.Hostname != "" && d.Port == 0 && port != 80 && port != 443 {
		d.Port = port // the listener's, as Gateway API says
	}
	if d.Scheme == "" && d.Hostname == "" && d.Port == 0 && d.Path == nil {
		d.Scheme = scheme // to the same URL, which Weir wants to be said
	}
	b.rule.Redirect = d
}

// listenerOf gives the port and the scheme that all listeners have to which a route is attached; 0 and "" if they differ.
func listenerOf(attached []attachment) (port int, scheme string) {
	for i, at := range attached {
		of := ""
		if at.gateway != nil {
			for _, l := range at.gateway.listeners {
				if l.ours != nil && l.port == at.port {
					of = l.ours.Protocol
				}
			}
		}
		if i == 0 {
			port, scheme = at.port, of
		}
		if at.port != port {
			port = 0
		}
		if of != scheme {
			scheme = ""
		}
	}
	return port, scheme
}

func (b *ruleOf) rewrite(f field) {
	u := &policy.URLRewrite{Hostname: f.get("hostname").text(), Path: pathModifier(f.get("path"))}
	if b.rule.URLRewrite != nil && u.Hostname == "" {
		u.Hostname = b.rule.URLRewrite.Hostname
	}
	if u.Hostname != "" || u.Path != nil {
		b.rule.URLRewrite = u
	}
}

func pathModifier(f field) *policy.PathRewrite {
	switch kind := f.get("type"); kind.text() {
	case "ReplaceFullPath":
		return &policy.PathRewrite{ReplaceFullPath: new(cmp.Or(f.get("replaceFullPath").text(), "/"))}
	case "ReplacePrefixMatch":
		return &policy.PathRewrite{ReplacePrefixMatch: new(cmp.Or(f.get("replacePrefixMatch").text(), "/"))}
	default:
		kind.lost("Weir has no change of paths %s", kind.text())
		return nil
	}
}

func (b *ruleOf) cors(f field) *policy.CORS {
	c := &policy.CORS{
		AllowOrigins: f.get("allowOrigins").texts(), AllowMethods: f.get("allowMethods").texts(), AllowHeaders: f.get("allowHeaders").texts(),
		ExposeHeaders: f.get("exposeHeaders").texts(), AllowCredentials: f.get("allowCredentials").yes(),
	}
	if age := f.get("maxAge"); age.given() {
		c.MaxAge = new(policy.Duration(age.number()) * 1e9)
	}
	if len(c.AllowOrigins) == 0 {
		f.lost("it allows no origin, which is what a rule without cors does")
		return nil
	}
	return c
}

func (b *ruleOf) timeouts(f field) {
	r := b.rule
	request, backend := f.get("timeouts").get("request").duration(), f.get("timeouts").get("backendRequest").duration()
	r.Timeout = request
	if retry := f.get("retry"); retry.given() {
		r.Retries = &policy.Retries{On: []string{"connect-failure", "refused-stream", "reset"}}
		if attempts := retry.get("attempts"); attempts.given() {
			r.Retries.Attempts = new(attempts.number())
		}
		for _, code := range retry.get("codes").list() {
			r.Retries.Codes = append(r.Retries.Codes, code.number())
		}
		r.Retries.Backoff = retry.get("backoff").duration()
		if backend != nil && *backend > 0 {
			r.Retries.PerTry = backend
		}
		return
	}
	if backend != nil && *backend > 0 && (request == nil || *request == 0 || *backend < *request) {
		r.Timeout = backend // one try is all there is
	}
}

// persistence keeps a client with an endpoint. Before Gateway API 1.7, what is in cookie was sessionName and cookieConfig.
func (b *ruleOf) persistence(f field) {
	if !f.given() {
		return
	}
	if kind := f.get("type"); kind.text() != "" && kind.text() != "Cookie" {
		f.lost("Weir's sessions are told apart by a cookie, a header that clients send by themselves, or the source address: say affinity in the Service document")
		return
	}
	f.get("header").lost("the type is Cookie")
	cookie := f.get("cookie")
	name, before := cookie.get("name").text(), f.get("sessionName").text()
	lifetime, lifetimeBefore := cookie.get("lifetimeType").text(), f.get("cookieConfig").get("lifetimeType").text()
	key := &policy.HashKey{Cookie: cookieKey(cmp.Or(name, before, "weir-session"), f.get("absoluteTimeout"), field{of: f.of})}
	if cmp.Or(lifetime, lifetimeBefore) != "Permanent" {
		f.get("absoluteTimeout").lost("lifetimeType is not Permanent: the cookie lasts until the browser is closed, and no shorter")
		key.Cookie.TTL = new(policy.Duration(0))
	}
	if path := cookie.get("path"); path.text() != "/" {
		key.Cookie.Path = path.text()
	}
	f.say("carried over as affinity of the services: a consistent hash of the cookie, which moves a few clients when endpoints come and go, and by which a client stays with a service as well where a rule sends to several")
	for _, s := range b.rule.to {
		if had := s.service.spec.Affinity; had != nil && (had.Cookie == nil || had.Cookie.Name != key.Cookie.Name) {
			f.lost("the service %s has another affinity already", s.service.key.Ref)
			continue
		}
		s.service.spec.Affinity = key
	}
}

// target gives the service of a reference; nil where it can't be one.
func (b *ruleOf) target(f field) *service {
	group, kind := f.get("group"), f.get("kind")
	ref := policy.Ref{Namespace: cmp.Or(f.get("namespace").text(), b.object.namespace), Name: f.get("name").text()}
	port := f.get("port").number()
	if cmp.Or(kind.text(), "Service") != "Service" || group.text() != "" && group.text() != "core" {
		f.lost("Weir sends to Services, and not to a %s: its share is answered 503", kind.text())
		return b.invalidBackend(ref, "it is a "+kind.text())
	}
	if !b.granted(b.object, "Service", ref) {
		f.lost("no ReferenceGrant of the input lets %s %s send to the Service %s: its share is answered 503; give the grants of %s as input too", b.object.kind, b.object.ref(), ref, ref.Namespace)
		return b.invalidBackend(ref, "no ReferenceGrant")
	}
	if known := b.kube[ref]; known == nil && slices.ContainsFunc(b.of("", "Service"), func(o *object) bool { return o.namespace == ref.Namespace }) {
		f.note(true, "the Service %s is not in the input, which has others of its namespace: it is taken to be there, under its name in DNS", ref)
	}
	s := b.backend(ref, port)
	if s.invalid != "" {
		f.note(true, "nothing can be sent to the Service %s: %s", ref, s.invalid)
	}
	s.grpc = s.grpc || b.object.kind == "GRPCRoute"
	return s
}

func (b *ruleOf) backendRef(f field, only bool) {
	weight := 1
	if given := f.get("weight"); given.given() {
		weight = given.number()
	}
	one := share{service: b.target(f), weight: weight, at: f}
	for _, filter := range f.get("filters").list() {
		if only {
			b.filter(filter)
			continue
		}
		switch kind := filter.get("type").text(); kind {
		case "RequestHeaderModifier":
			c := modifier(filter.get("requestHeaderModifier"))
			one.request = mergeChanges(one.request, c.HeaderChanges)
			if c.host != "" {
				filter.lost("one destination's Host can't be set: give it a rule of its own")
			}
		case "ResponseHeaderModifier":
			one.response = mergeChanges(one.response, modifier(filter.get("responseHeaderModifier")).HeaderChanges)
		default:
			filter.lost("Weir has no %s of one destination among several: its share is answered 503; give it a rule of its own", kind)
			one.service = b.invalidBackend(one.service.key.Ref, "its filter "+kind+" is not kept")
		}
	}
	b.rule.to = append(b.rule.to, one)
}
