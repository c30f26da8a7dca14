package explain

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// taken tells what a rule does, in the order of xds's filters.
func (x *explainer) taken(s *mesh.Service, r *mesh.Rule) {
	v := &x.seen
	t := &Taken{Rule: r.Name, Source: r.Source}
	x.out.Taken = t
	down := x.maintained(r)
	answered := down || r.Answers() != ""
	if x.cors(r, answered) {
		return
	}
	for _, l := range s.Local {
		t.Limits = append(t.Limits, v.local(l))
	}
	for _, l := range s.Quota {
		q := v.global(l)
		q.Scope = "quota"
		t.Limits = append(t.Limits, q)
	}
	if !down {
		for _, l := range r.Local {
			t.Limits = append(t.Limits, v.local(l))
		}
		t.Limits = append(t.Limits, v.globals(r.Global)...)
	}
	for i := range t.Limits {
		if o := t.Limits[i].refusal(); o != nil {
			x.end(*o)
			return
		}
	}
	if b := r.MaxRequestBytes; b != nil && !down {
		t.MaxRequestBytes = int64(*b)
	}
	if c := r.Compression; c != nil && !down {
		t.Compression = c.Algorithms
	}
	if !down && x.fault(r.Fault) {
		return
	}
	if answered {
		x.answer(r, down)
		return
	}
	x.forward(r)
}

// globals are in the order in which the two filters ask: those that allow when they can't ask come first.
func (v *view) globals(all []mesh.GlobalLimit) []Limit {
	var out []Limit
	for _, deny := range []bool{false, true} {
		for _, l := range all {
			if l.DenyOnError == deny {
				out = append(out, v.global(l))
			}
		}
	}
	return out
}

// maintained says whether maintenance answers.
func (x *explainer) maintained(r *mesh.Rule) bool {
	m := r.Maintenance
	if m == nil {
		return false
	}
	if m.Unless == nil {
		x.out.Taken.Maintenance = "in force"
		return true
	}
	failed, reason := x.seen.match(m.Unless, "maintenance.unless")
	if failed == "" {
		x.out.Taken.Maintenance = "lets it through by unless"
		return false
	}
	x.out.Taken.Maintenance = "in force; unless does not hold: " + reason
	return true
}

// cors says whether the filter answers: what matches is as a browser would ask, or any such question that would be sent on.
func (x *explainer) cors(r *mesh.Rule, answered bool) bool {
	c := r.CORS
	if c == nil || len(c.AllowOrigins) == 0 {
		return false
	}
	origin := x.seen.one("origin")
	if origin == "" {
		x.out.Taken.CORS = "not asked for: no Origin header"
		return false
	}
	x.out.Taken.CORS = fmt.Sprintf("the origin %s is not allowed: the answer bears no permission", origin)
	if originAllowed(c, origin) {
		x.out.Taken.CORS = fmt.Sprintf("the origin %s is allowed", origin)
	}
	if !preflightOf(r, &x.seen) && (answered || !x.seen.asksFirst()) {
		return false
	}
	x.end(Outcome{Kind: Preflight, Status: 200, Reason: "the answer to the browser's question"})
	return true
}

// fault says whether every such request is aborted.
func (x *explainer) fault(f *policy.Fault) bool {
	if f == nil {
		return false
	}
	out := &Fault{}
	x.out.Taken.Fault = out
	if _, reason := x.seen.match(&policy.Match{Headers: f.Headers}, "fault"); reason != "" {
		out.Reason = reason
		return false
	}
	out.Applies = true
	if f.Delay != nil {
		out.Delay, out.DelayPercent = f.Delay.Fixed.String(), *f.Delay.Percent
	}
	if f.Abort == nil {
		return false
	}
	end := Outcome{Kind: Aborted, Status: f.Abort.Status, Reason: "the rule's fault aborts every such request"}
	out.Abort, out.AbortPercent = fmt.Sprint(f.Abort.Status), *f.Abort.Percent
	if f.Abort.GRPCStatus != nil {
		out.Abort, end.Status = fmt.Sprint("gRPC ", *f.Abort.GRPCStatus), 200
		if x.seen.grpc() {
			end.GRPCStatus = f.Abort.GRPCStatus
		}
	}
	if out.AbortPercent < 100 {
		return false
	}
	x.end(end)
	return true
}

// answer is what a rule says itself.
func (x *explainer) answer(r *mesh.Rule, down bool) {
	_, x.out.Taken.ResponseHeaders = ruleChanges(r)
	switch {
	case down:
		x.end(x.maintenance(r.Maintenance))
	case r.Redirect != nil:
		x.end(Outcome{Kind: Redirected, Status: r.Redirect.StatusCode, Location: x.location(r.Redirect, &r.Match)})
	default:
		d := r.DirectResponse
		x.end(Outcome{Kind: Responded, Status: d.Status, Body: d.Body, ContentType: d.ContentType})
	}
}

func (x *explainer) maintenance(m *policy.Maintenance) Outcome {
	o := Outcome{Kind: Maintenance, Status: m.Status, Body: m.Body}
	if o.Body != "" {
		o.ContentType = "text/plain; charset=utf-8"
	}
	if m.RetryAfter != nil {
		o.RetryAfter = int(math.Ceil(time.Duration(*m.RetryAfter).Seconds()))
	}
	accept := strings.ToLower(x.seen.one("accept"))
	html := m.HTML != "" && strings.Contains(accept, "text/html")
	switch {
	case m.JSON != "" && (strings.HasPrefix(accept, "application/json") || !html && strings.Contains(accept, "json")):
		o.ContentType, o.Body = "application/json", m.JSON
	case html:
		o.ContentType, o.Body = "text/html; charset=utf-8", m.HTML
	}
	return o
}

// location is where a redirect sends. The port that the client has named stays, but for a redirect that has one of its
// own, or another scheme, which has.
func (x *explainer) location(r *policy.Redirect, m *policy.Match) string {
	v := &x.seen
	scheme, host, port := v.scheme, v.authority, ""
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	named := regexp.MustCompile(`:[0-9]+$`).MatchString(v.authority)
	standard := map[string]int{"http": 80, "https": 443}[r.Scheme]
	switch {
	case r.Port != 0 && r.Port != standard:
		port = fmt.Sprintf(":%d", r.Port)
	case r.Scheme != "" && r.Hostname == "" && named:
		port = fmt.Sprintf(":%d", standard)
	}
	if r.Hostname != "" {
		host = r.Hostname
	} else if i := strings.LastIndexByte(host, ':'); i >= 0 && port != "" {
		host = host[:i]
	}
	path, query := v.bare(), v.query()
	if r.Path != nil {
		path = "/" + strings.TrimPrefix(rewritten(r.Path, m, path), "/")
	}
	if r.StripQuery {
		query = ""
	}
	return scheme + "://" + host + port + path + query
}

// secured is what a listener answers that is there only to send clients to https.
func (x *explainer) secured(port int) Outcome {
	o := Outcome{Kind: Redirected, Status: 308, Reason: "the listener's httpsRedirect"}
	if x.seen.method == "GET" || x.seen.method == "HEAD" {
		o.Status = 301
	}
	o.Location = x.location(&policy.Redirect{Scheme: "https", Port: port}, nil)
	return o
}

// rewritten is a path's other form, where that is not empty.
func rewritten(p *policy.PathRewrite, m *policy.Match, path string) string {
	return cmp.Or(rewrite(p, m, path), path)
}

// rewrite gives a path its other form.
func rewrite(p *policy.PathRewrite, m *policy.Match, path string) string {
	switch {
	case p.Regex != nil:
		return compile(p.Regex.Pattern).ReplaceAllString(path, template(p.Regex.Substitution)) // a path is of ASCII
	case p.ReplaceFullPath != nil:
		return *p.ReplaceFullPath
	}
	from, to := strings.TrimRight(*m.Path.Prefix, "/"), strings.TrimRight(*p.ReplacePrefixMatch, "/")
	rest := strings.TrimPrefix(path, from)
	if to == "" && from != "" {
		return "/" + strings.TrimLeft(rest, "/")
	}
	return to + rest
}

// template writes a substitution of RE2's as Go's.
func template(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '$':
			out.WriteString("$$")
		case s[i] == '\\' && i+1 < len(s) && s[i+1] != '\\':
			i++
			out.WriteString("${" + s[i:i+1] + "}")
		case s[i] == '\\':
			i++
			out.WriteByte('\\')
		default:
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

// ruleChanges are those of a rule's service and its own, in the order in which they are made.
func ruleChanges(r *mesh.Rule) (request, response []Change) {
	for _, c := range r.Changes {
		request = append(request, changes(c.Request)...)
		response = append(response, changes(c.Response)...)
	}
	return request, response
}

// changes are those of one place, in the order in which they are made.
func changes(h policy.HeaderChanges) []Change {
	var all []Change
	for _, name := range slices.Sorted(maps.Keys(h.Add)) {
		all = append(all, Change{"add", name, h.Add[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Set)) {
		all = append(all, Change{"set", name, h.Set[name]})
	}
	for _, name := range h.Remove {
		all = append(all, Change{"remove", name, ""})
	}
	return all
}

// forward is where the request goes and with what.
func (x *explainer) forward(r *mesh.Rule) {
	t := x.out.Taken
	t.RequestHeaders, t.ResponseHeaders = ruleChanges(r)
	if u := r.URLRewrite; u != nil {
		t.Hostname = u.Hostname
		if u.Path != nil {
			t.Path = rewritten(u.Path, &r.Match, x.seen.bare()) + x.seen.query()
		}
	}
	x.loadTest(r)
	x.shares(r)
	x.sticky(r)
	for _, m := range r.Mirror {
		t.Mirrors = append(t.Mirrors, Mirror{Subset: m.Subset, Percent: m.Percent, Timeout: duration(m.Timeout)})
	}
	t.Timeout = "none"
	if r.Timeout > 0 {
		t.Timeout = duration(r.Timeout)
	}
	t.Retries = retries(r)
	end := Outcome{Kind: Forwarded}
	if !slices.ContainsFunc(t.To, func(s Share) bool { return s.Percent > 0 && (s.Endpoints == nil || *s.Endpoints > 0) }) {
		end = Outcome{Kind: Unavailable, Status: 503, Reason: "no endpoint of where it goes"}
	}
	x.end(end)
}

func (x *explainer) shares(r *mesh.Rule) {
	total := 0
	for _, to := range r.To {
		total += to.Weight
	}
	for _, to := range r.To {
		own := r.VersionChanges[to.Subset]
		x.out.Taken.To = append(x.out.Taken.To, Share{
			Subset: to.Subset, Weight: to.Weight, Percent: 100 * float64(to.Weight) / float64(total), Endpoints: x.endpoints(to.Subset),
			RequestHeaders: changes(own.Request), ResponseHeaders: changes(own.Response),
		})
	}
}

// endpoints counts those of a subset; nil where DNS knows.
func (x *explainer) endpoints(name string) *int {
	for _, s := range x.model.Services {
		for _, sub := range s.Subsets {
			if sub.Name == name && s.Spec.Endpoints.DNS == nil {
				n := len(sub.Endpoints)
				return &n
			}
		}
	}
	return nil
}

func retries(r *mesh.Rule) *Retries {
	p := r.Retries
	if p == nil {
		return nil
	}
	out := &Retries{Attempts: *p.Attempts, On: p.On, Codes: p.Codes}
	if p.PerTry != nil {
		out.PerTry = p.PerTry.String()
		out.Hedged = r.Hedge != nil && r.Hedge.OnPerTryTimeout
	}
	if p.Backoff != nil {
		out.Backoff = p.Backoff.String()
	}
	return out
}
