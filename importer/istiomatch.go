package importer

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// uriMatch is how a rule matches paths, for what rewrites them.
type uriMatch struct {
	kind       string // exact, prefix, regex, or any
	value      string
	ignoreCase bool
}

// match gives the rules of a match: more than one where a header may be absent or another. None if a condition can't be
// kept: without it the rule would take more.
func (v *virtualRule) match(l, m layers) []conditional {
	r := v.rule.clone()
	r.at = m[0]
	if name := m.names(); name != "" {
		r.Name = strings.TrimPrefix(v.rule.Name+"-"+name, "-")
	}
	drop := func(why string) []conditional {
		m[0].lost("%s: the rule is left out, and its requests go to those that follow", why)
		return nil
	}
	for _, name := range []string{"sourceLabels", "sourceNamespace"} {
		if m.get(name).given() {
			return drop(name + ": this version of Weir does not tell callers apart")
		}
	}
	if scheme := m.get("scheme"); scheme.given() {
		return drop("scheme: Weir's rules hold for HTTP and HTTPS alike")
	}
	m.get("statPrefix").lost("Weir names its metrics by service and version")
	uri, why := v.uri(m, r)
	if why != "" {
		return drop(why)
	}
	if why := v.method(m.get("method"), r); why != "" {
		return drop(why)
	}
	if a := m.get("authority"); a.given() {
		if why := addNamed(&r.Match.Headers, "host", readString(a)); why != "" {
			return drop("authority: " + why)
		}
	}
	for _, h := range m.pairs("headers") {
		if pseudo[strings.ToLower(h.name())] {
			h.say("left out: Istio passes over this name among headers")
			h.skip()
			continue
		}
		if strings.HasPrefix(h.name(), "@") {
			return drop("headers: Weir checks no tokens, and knows no " + h.name())
		}
		if why := addNamed(&r.Match.Headers, h.name(), readString(h)); why != "" {
			return drop("headers: " + why)
		}
	}
	for _, q := range m.pairs("queryParams") {
		if why := addNamed(&r.Match.Query, q.name(), readString(q)); why != "" {
			return drop("queryParams: " + why)
		}
	}
	rules := []*rule{r}
	for _, h := range m.pairs("withoutHeaders") {
		var why string
		if rules, why = without(rules, h); why != "" {
			return drop("withoutHeaders: " + why)
		}
	}
	var all []conditional
	for _, one := range rules {
		v.rewrites(l, one, uri)
		all = append(all, conditional{
			rule: one, gateways: v.gatewayNames(m.get("gateways").texts(), m[0].of.namespace), port: m.get("port").number(), at: m[0],
		})
	}
	return all
}

var pseudo = map[string]bool{"uri": true, "scheme": true, "method": true, "authority": true}

// uri reads the path. Istio's prefixes are of characters, and Weir's of whole segments.
func (v *virtualRule) uri(m layers, r *rule) (uriMatch, string) {
	f, ignore := m.get("uri"), m.get("ignoreUriCase").yes()
	s := readString(f)
	out := uriMatch{kind: s.kind, value: s.value, ignoreCase: ignore && s.kind != "regex"}
	insensitive := ""
	if out.ignoreCase {
		insensitive = "(?i)"
	}
	switch s.kind {
	case "exact", "prefix":
		if !strings.HasPrefix(s.value, "/") {
			return out, "uri: no path begins like " + strconv.Quote(s.value)
		}
	case "regex":
		if s.pattern() == "" {
			return out, "uri: Weir's regular expressions are RE2's, and this is none"
		}
	}
	switch {
	case s.kind == "" || s.kind == "present":
		out.kind = "any"
	case s.kind == "prefix" && s.value == "/", s.kind == "regex" && (s.value == ".*" || s.value == "/.*"):
	case s.kind == "exact" && !ignore:
		r.Match.Path = &policy.StringMatch{Exact: &s.value}
	case s.kind == "exact":
		r.Match.Path = &policy.StringMatch{Regex: new("(?i)" + regexp.QuoteMeta(s.value))}
	case s.kind == "prefix":
		whole := insensitive + s.pattern()
		r.Match.Path = &policy.StringMatch{Regex: &whole}
		segments := strings.TrimRight(s.value, "/")
		if segments != s.value {
			f.say("carried over as a regular expression: Istio's prefix leaves %s out, which Weir's takes too; if that does no harm, prefix: %s is simpler and faster", segments, segments)
		} else {
			f.say("carried over as a regular expression: Istio's prefix takes %sx too, and Weir's is of whole segments; if those are meant, prefix: %s is simpler and faster", segments, segments)
		}
	default:
		r.Match.Path = &policy.StringMatch{Regex: &s.value}
	}
	return out, ""
}

// httpMethods are those that Weir's rules can name.
var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

func (v *virtualRule) method(f field, r *rule) string {
	s := readString(f)
	if s.kind == "" || s.kind == "present" {
		return ""
	}
	p := s.pattern()
	if p == "" {
		return "method: Weir's regular expressions are RE2's, and this is none"
	}
	re := regexp.MustCompile("^(?:" + p + ")$")
	for _, name := range httpMethods {
		if re.MatchString(name) {
			r.Match.Methods = append(r.Match.Methods, name)
		}
	}
	if len(r.Match.Methods) == 0 {
		return "method: Weir knows none that is so called"
	}
	if s.kind != "exact" {
		f.say("carried over as the methods that Weir knows: %s", strings.Join(r.Match.Methods, ", "))
	}
	return ""
}

// addNamed adds a condition on a header or a query parameter.
func addNamed(to *[]policy.NamedMatch, name string, s stringMatch) string {
	one := policy.NamedMatch{Name: name}
	switch {
	case s.kind == "present", s.kind == "prefix" && s.value == "":
		one.Present = new(true)
	case s.kind == "exact" && s.value == "":
		one.Regex = new("") // present, and empty
	case s.kind == "exact":
		one.Exact = &s.value
	case s.kind == "prefix":
		one.Prefix = &s.value
	case s.pattern() == "":
		return name + ": Weir's regular expressions are RE2's, and this is none"
	default:
		one.Regex = &s.value
	}
	*to = append(*to, one)
	return ""
}

// without gives rules that together match where a header is absent, or is not what is said. RE2 can't negate, but what
// is not a given text, or does not begin with it, is a regular expression all the same.
func without(rules []*rule, f field) ([]*rule, string) {
	s := readString(f)
	var other *string
	switch s.kind {
	case "present":
	case "exact", "prefix":
		if s.value == "" && s.kind == "prefix" {
			return nil, f.name() + ": nothing is without an empty prefix"
		}
		if len(s.value) > 200 {
			return nil, f.name() + ": the text is too long to be negated"
		}
		other = new(unlike(s.value, s.kind == "prefix"))
		if s.value != "" {
			f.say("carried over as two rules: the header is absent, or is something else, which is a regular expression")
		}
	default:
		return nil, f.name() + ": what does not match a regular expression can't be said"
	}
	var all []*rule
	for _, r := range rules {
		if s == (stringMatch{kind: "exact"}) { // what is absent is taken for empty
			r.Match.Headers = append(r.Match.Headers, policy.NamedMatch{Name: f.name(), Regex: other})
			all = append(all, r)
			continue
		}
		absent := r.clone()
		absent.Match.Headers = append(absent.Match.Headers, policy.NamedMatch{Name: f.name(), Present: new(false)})
		all = append(all, absent)
		if other != nil {
			different := r.clone()
			different.Match.Headers = append(different.Match.Headers, policy.NamedMatch{Name: f.name(), Regex: other})
			all = append(all, different)
		}
	}
	return all, ""
}

// unlike gives a regular expression of every text but s; with prefix, of every one that does not begin with s.
func unlike(s string, prefix bool) string {
	out := ".+" // after the whole of s something follows
	if prefix {
		out = ""
	}
	for i, c := range slices.Backward([]rune(s)) {
		another := `[^\x{` + strconv.FormatInt(int64(c), 16) + "}].*"
		if prefix && i == len([]rune(s))-1 {
			out = "(?:" + another + ")?"
			continue
		}
		out = "(?:" + another + "|" + regexp.QuoteMeta(string(c)) + out + ")?"
	}
	return out
}

// rewrites reads what changes URLs, which depends on how the path was matched.
func (v *virtualRule) rewrites(l layers, r *rule, uri uriMatch) {
	if f := l.get("redirect"); f.given() {
		v.redirect(f, r, uri)
	}
	if f := l.get("rewrite"); f.given() {
		host := ""
		if r.URLRewrite != nil {
			host = r.URLRewrite.Hostname
		}
		u := &policy.URLRewrite{Hostname: host}
		if authority := f.get("authority"); authority.given() {
			u.Hostname = authority.text()
		}
		if re := f.get("uriRegexRewrite"); re.given() {
			u.Path = &policy.PathRewrite{Regex: &policy.RegexRewrite{Pattern: re.get("match").text(), Substitution: re.get("rewrite").text()}}
			f.get("uri").skip()
		} else if to := f.get("uri"); to.given() {
			u.Path = uri.replaced(to.text())
		}
		if u.Hostname != "" || u.Path != nil {
			r.URLRewrite = u
		}
	}
	r.settle()
}

// replaced gives what puts a text in the place of what was matched: of a prefix that alone, and the whole path otherwise.
func (u uriMatch) replaced(by string) *policy.PathRewrite {
	prefix := u.value
	switch u.kind {
	case "any":
		prefix = "/"
	case "prefix":
	default:
		return &policy.PathRewrite{ReplaceFullPath: &by}
	}
	if prefix == by {
		return nil
	}
	pattern := "^" + regexp.QuoteMeta(prefix)
	if u.ignoreCase {
		pattern = "(?i)" + pattern
	}
	return &policy.PathRewrite{Regex: &policy.RegexRewrite{Pattern: pattern, Substitution: strings.ReplaceAll(by, `\`, `\\`)}}
}

func (v *virtualRule) redirect(f field, r *rule, uri uriMatch) {
	d := &policy.Redirect{Scheme: f.get("scheme").text(), Port: f.get("port").number(), StatusCode: 301}
	if code := f.get("redirectCode").number(); code != 0 {
		d.StatusCode = code
	}
	if a := f.get("authority"); a.given() {
		d.Hostname = a.text()
		if host, port, err := net.SplitHostPort(a.text()); err == nil {
			d.Hostname = host
			if n, err := strconv.Atoi(port); err == nil && d.Port == 0 {
				d.Port = n
			}
		}
	}
	if derive := f.get("derivePort"); derive.text() == "FROM_REQUEST_PORT" {
		derive.say("the port stays as the request names it")
	}
	if d.Scheme != "" && d.Port == 0 {
		f.get("scheme").say("the scheme's own port is meant, where Istio keeps a port that the caller names")
	}
	to := f.get("uri")
	if prefix := f.get("prefixRewrite"); prefix.given() {
		d.Path = uri.replaced(prefix.text())
		to.skip()
	} else if to.given() {
		path, _, query := strings.Cut(to.text(), "?")
		if query {
			to.lost("a redirect keeps the request's query: %s is the path", path)
		}
		d.Path = &policy.PathRewrite{ReplaceFullPath: &path}
	}
	r.Redirect = d
}
