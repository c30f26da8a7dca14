package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
)

// MaxBody is how large a response that a document has in itself may be, in bytes: Envoy keeps one for each rule in memory.
const MaxBody = 32 << 10

// What a rewritten path may be made of, so that it stays one: the query is added to it.
var pathPattern = regexp.MustCompile(`^/[!"$->@-~]*$`)

// Answers names what answers a rule's requests without sending them on: redirect, directResponse, or "".
func (r *Rule) Answers() string {
	switch {
	case r.Redirect != nil:
		return "redirect"
	case r.DirectResponse != nil:
		return "directResponse"
	default:
		return ""
	}
}

// checkAction checks what a rule does with its requests.
func (r *Rule) checkAction(c *checker, path string) {
	r.checkTo(c, path+".to")
	if r.Redirect != nil {
		r.Redirect.check(c, path+".redirect", &r.Match)
	}
	if r.URLRewrite != nil {
		r.URLRewrite.check(c, path+".urlRewrite", &r.Match)
	}
	if r.DirectResponse != nil {
		r.DirectResponse.check(c, path+".directResponse")
	}
	if r.Redirect != nil && r.DirectResponse != nil {
		c.problem(path+".directResponse", "", "a rule has one of to, redirect and directResponse, and this one has a redirect")
	}
	if r.Fault != nil {
		r.Fault.check(c, path+".fault")
	}
	if answers := r.Answers(); answers != "" {
		for _, f := range r.ofForwarding() {
			if f.given {
				c.problem(path+"."+f.name, "", "this is of requests that are sent on, and the rule's %s sends none: remove one of the two", answers)
			}
		}
		if r.RateLimit != nil && r.RateLimit.Scope != "local" {
			c.problem(path+".rateLimit", "", "Envoy asks global limits of requests that are sent on only, and the rule's %s sends none: want scope: local", answers)
		}
	}
}

type givenField struct {
	name  string
	given bool
}

// ofForwarding are the fields that say how requests are sent on.
func (r *Rule) ofForwarding() []givenField {
	return []givenField{
		{"to", len(r.To) > 0},
		{"mirror", len(r.Mirror) > 0},
		{"loadTest", r.LoadTest != nil},
		{"sticky", r.Sticky != nil},
		{"urlRewrite", r.URLRewrite != nil},
		{"requestHeaders", r.RequestHeaders.Any()},
		{"timeout", r.Timeout != nil},
		{"retries", r.Retries != nil},
		{"hedge", r.Hedge != nil},
	}
}

func (c *checker) hostname(path, s string) {
	if s != "" && (!hostPattern.MatchString(s) || strings.HasPrefix(s, "*") || len(s) > 253) {
		c.problem(path, "", "want a host name in lower case, without a port; got %q", s)
	}
}

func (r *Redirect) check(c *checker, path string, m *Match) {
	if r.Scheme == "" && r.Hostname == "" && r.Path == nil && r.Port == 0 && !r.StripQuery {
		c.problem(path, "", "a redirect to the same URL would never end: want scheme, hostname, path or port")
	}
	if r.Scheme != "" {
		c.oneOf(path+".scheme", r.Scheme, schemes)
	}
	c.hostname(path+".hostname", r.Hostname)
	if r.Port != 0 {
		c.between(path+".port", r.Port, 1, 65535)
	}
	if r.StatusCode != 0 && !slices.Contains(redirectCodes, r.StatusCode) {
		c.problem(path+".statusCode", "", "want one of 301, 302, 303, 307, 308, got %d", r.StatusCode)
	}
	r.Path.check(c, path+".path", m)
}

var (
	schemes       = []string{"http", "https"}
	redirectCodes = []int{301, 302, 303, 307, 308}
)

func (u *URLRewrite) check(c *checker, path string, m *Match) {
	if u.Hostname == "" && u.Path == nil {
		c.problem(path, "", "want hostname, path or both")
	}
	c.hostname(path+".hostname", u.Hostname)
	u.Path.check(c, path+".path", m)
}

func (p *PathRewrite) check(c *checker, path string, m *Match) {
	if p == nil {
		return
	}
	if count(p.ReplaceFullPath != nil, p.ReplacePrefixMatch != nil, p.Regex != nil) != 1 {
		c.problem(path, "", "want exactly one of replaceFullPath, replacePrefixMatch and regex")
	}
	if full := p.ReplaceFullPath; full != nil && !pathPattern.MatchString(*full) {
		c.problem(path+".replaceFullPath", "", "want a path that begins with / and has no ?, # or space, got %q", *full)
	}
	if prefix := p.ReplacePrefixMatch; prefix != nil {
		if *prefix != "" && !pathPattern.MatchString(*prefix) {
			c.problem(path+".replacePrefixMatch", "", "want a path that begins with / and has no ?, # or space, got %q", *prefix)
		}
		if m.Path == nil || m.Path.Prefix == nil {
			c.problem(path+".replacePrefixMatch", "", "there is no prefix to replace: give the rule match.path.prefix")
		}
	}
	if p.Regex != nil {
		p.Regex.check(c, path+".regex")
	}
}

// Groups in a substitution are \0 to \9, and a backslash itself is \\.
var substitutionPattern = regexp.MustCompile(`^([!"$->@-\[\]-~]|\\[0-9\\])*$`)

func (r *RegexRewrite) check(c *checker, path string) {
	if r.Pattern == "" {
		c.problem(path+".pattern", "", "want a regular expression of what is replaced")
	}
	c.regex(path+".pattern", r.Pattern)
	if !substitutionPattern.MatchString(r.Substitution) {
		c.problem(path+".substitution", "", `want text without ?, # or space, with \1 for the first group and \\ for a backslash, got %q`, r.Substitution)
		return
	}
	re, err := syntax.Parse(r.Pattern, syntax.Perl)
	if err != nil {
		return // told already
	}
	for _, group := range groupPattern.FindAllString(r.Substitution, -1) {
		if n := int(group[1] - '0'); group != `\\` && n > re.MaxCap() {
			c.problem(path+".substitution", "", "the pattern has %d groups, and so no %s", re.MaxCap(), group)
		}
	}
}

var groupPattern = regexp.MustCompile(`\\[0-9\\]`)

func (d *DirectResponse) check(c *checker, path string) {
	c.between(path+".status", d.Status, 200, 599)
	c.body(path+".body", d.Body)
	if d.Body != "" && (d.Status == 204 || d.Status == 304) {
		c.problem(path+".body", "", "a response with the status %d has no body", d.Status)
	}
	if d.ContentType == "" {
		return
	}
	if d.Body == "" {
		c.problem(path+".contentType", "", "there is no body that this could be the type of")
	}
	c.contentType(path+".contentType", d.ContentType)
}

func (c *checker) body(path, s string) {
	if len(s) > MaxBody {
		c.problem(path, "", "want at most %d bytes, got %d", MaxBody, len(s))
	}
}

func (c *checker) contentType(path, s string) {
	if _, _, err := mime.ParseMediaType(s); err != nil || !strings.Contains(s, "/") || strings.ContainsAny(s, "\r\n\x00") {
		c.problem(path, "", "want a media type such as application/json, got %q", s)
	}
}

func (h *Handling) checkHandling(c *checker, path string) {
	if h.Hedge != nil && h.Hedge.OnPerTryTimeout && (h.Retries == nil || h.Retries.PerTry == nil) {
		c.problem(path+".hedge", "", "a second request is sent when retries.perTry is over: give it in the same place")
	}
	if h.Maintenance != nil {
		h.Maintenance.check(c, path+".maintenance")
	}
	if h.CORS != nil {
		h.CORS.check(c, path+".cors")
	}
	if h.Compression != nil {
		h.Compression.check(c, path+".compression")
	}
}

func (m *Maintenance) check(c *checker, path string) {
	if m.Status != 0 {
		c.between(path+".status", m.Status, 400, 599)
	}
	c.body(path+".body", m.Body)
	c.body(path+".html", m.HTML)
	c.body(path+".json", m.JSON)
	if m.JSON != "" && !json.Valid([]byte(m.JSON)) {
		c.problem(path+".json", "", "this is not JSON")
	}
	if m.RetryAfter != nil && time.Duration(*m.RetryAfter) < time.Second {
		c.problem(path+".retryAfter", "", "want at least 1s, got %s", *m.RetryAfter)
	}
	if m.Unless == nil {
		return
	}
	m.Unless.check(c, path+".unless")
	if p := m.Unless.Path; p != nil && p.Regex != nil {
		// It holds together with the rule's own match, and Envoy has one regular expression of the path for both.
		c.problem(path+".unless.path.regex", "", "want exact or prefix here")
	}
}

var (
	grpcService = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (g *GRPCMatch) check(c *checker, path string, m *Match) {
	if m.Path != nil {
		c.problem(path+".grpc", "", "what a gRPC request calls is its path: remove match.path or match.grpc")
	}
	if !grpcService.MatchString(g.Service) {
		c.problem(path+".grpc.service", "", "want a service with its package, such as acme.cart.Cart, got %q", g.Service)
	}
	if g.Method != "" && !grpcMethod.MatchString(g.Method) {
		c.problem(path+".grpc.method", "", "want a method's name, such as AddItem, got %q", g.Method)
	}
}

func (f *Fault) check(c *checker, path string) {
	if f.Delay == nil && f.Abort == nil {
		c.problem(path, "", "want delay, abort or both")
	}
	c.conditions(path+".headers", f.Headers, c.headerName)
	if d := f.Delay; d != nil {
		c.duration(path+".delay.fixed", d.Fixed, false)
		c.optionalPercent(path+".delay.percent", d.Percent)
	}
	if a := f.Abort; a != nil {
		c.optionalPercent(path+".abort.percent", a.Percent)
		if count(a.Status != 0, a.GRPCStatus != nil) != 1 {
			c.problem(path+".abort", "", "want exactly one of status and grpcStatus")
		}
		if a.Status != 0 {
			c.between(path+".abort.status", a.Status, 200, 599)
		}
		if a.GRPCStatus != nil {
			c.between(path+".abort.grpcStatus", *a.GRPCStatus, 1, 16)
		}
	}
}

func (c *checker) optionalPercent(path string, p *float64) {
	if p != nil {
		c.percent(path, *p)
	}
}

// An origin is what browsers send: a scheme and a host, and a port where it is not the scheme's own.
var originPattern = regexp.MustCompile(`^[a-z][-+.a-z0-9]*://(\*|(\*\.)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?)(:[0-9]{1,5})?$`)

func (p *CORS) check(c *checker, path string) {
	if p.AllowOrigins == nil {
		c.problem(path+".allowOrigins", "", "want the origins that may call, such as https://shop.example.com")
	}
	for i, origin := range p.AllowOrigins {
		if origin != "*" && !originPattern.MatchString(origin) {
			c.problem(item(path+".allowOrigins", i), "", "want an origin as browsers send it, such as https://shop.example.com or https://*.example.com, or *; got %q", origin)
		}
	}
	for _, list := range []struct {
		field string
		words []string
		check func(path, word string)
	}{
		{"allowMethods", p.AllowMethods, func(path, word string) { c.oneOf(path, word, methods) }},
		{"allowHeaders", p.AllowHeaders, c.headerName},
		{"exposeHeaders", p.ExposeHeaders, c.headerName},
	} {
		for i, word := range list.words {
			at := fmt.Sprintf("%s.%s[%d]", path, list.field, i)
			switch {
			case word != "*":
				list.check(at, word)
			case p.AllowCredentials && list.field == "exposeHeaders": // of the others Envoy repeats what is asked for
				c.problem(at, "", "with allowCredentials, browsers take * for the name of a header: list them")
			}
		}
	}
	if age := p.MaxAge; age != nil && time.Duration(*age)%time.Second != 0 {
		c.problem(path+".maxAge", "", "want whole seconds, got %s", *age)
	}
}

// On says whether a rule has CORS: nil and no origins are none.
func (p *CORS) On() bool { return p != nil && len(p.AllowOrigins) > 0 }

// Origins is a regular expression of the allowed ones, to be matched against all of an origin. A wildcard stands for one
// label or more.
func (p *CORS) Origins() string {
	all := make([]string, len(p.AllowOrigins))
	for i, origin := range p.AllowOrigins {
		if origin == "*" {
			return ".*"
		}
		all[i] = strings.ReplaceAll(regexp.QuoteMeta(origin), `\*`, "[^/:]+")
	}
	return strings.Join(all, "|")
}

var compressionAlgorithms = []string{"zstd", "br", "gzip"}

func (p *Compression) check(c *checker, path string) {
	seen := make(map[string]bool)
	for i, a := range p.Algorithms {
		at := item(path+".algorithms", i)
		c.oneOf(at, a, compressionAlgorithms)
		c.unique(at, a, seen)
	}
	if p.MinBytes != nil && *p.MinBytes > math.MaxUint32 {
		c.problem(path+".minBytes", "", "want less than 4GiB, got %s", p.MinBytes)
	}
	for i, one := range p.ContentTypes {
		at := item(path+".contentTypes", i)
		if strings.ContainsAny(one, ";*") {
			c.problem(at, "", "want a media type without parameters and wildcards, such as application/json, got %q", one)
			continue
		}
		c.contentType(at, one)
	}
}
