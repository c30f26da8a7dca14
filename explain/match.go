package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// match gives the first part of a match that does not hold, in the order in which Envoy looks at them, and why; "" is a
// match.
func (v *view) match(m *policy.Match, at string) (failed, reason string) {
	if p := m.PathMatch(); p != nil && !matchPath(p, v.bare()) {
		part := at + ".path"
		if m.GRPC != nil {
			part = at + ".grpc"
		}
		return part, fmt.Sprintf("path %s is not %s", v.bare(), wantPath(p))
	}
	if m.GRPC != nil && !v.grpc() {
		return at + ".grpc", "it is no gRPC request: its content-type is not application/grpc"
	}
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, v.method) {
		return at + ".methods", fmt.Sprintf("method %s is not %s", v.method, strings.Join(m.Methods, " or "))
	}
	for i, h := range m.Headers {
		if !v.header(h) {
			return fmt.Sprintf("%s.headers[%d]", at, i), "header " + v.headerMismatch(h)
		}
	}
	for i, q := range m.Query {
		value, present := v.parameter(q.Name)
		if !matchNamed(q, value, present) {
			return fmt.Sprintf("%s.query[%d]", at, i), "query parameter " + mismatch(q, value, present)
		}
	}
	for i, k := range m.Cookies {
		value, present := v.cookie(k.Name)
		if !matchNamed(k, value, present) {
			return fmt.Sprintf("%s.cookies[%d]", at, i), "cookie " + mismatch(k, value, present)
		}
	}
	return "", ""
}

// header says whether one of a header's lines is as wanted.
func (v *view) header(m policy.NamedMatch) bool {
	lines := v.lines(m.Name)
	if m.Present != nil {
		return (len(lines) > 0) == *m.Present
	}
	return slices.ContainsFunc(lines, func(value string) bool { return matchNamed(m, value, true) })
}

func (v *view) headerMismatch(m policy.NamedMatch) string {
	lines := v.lines(m.Name)
	return mismatch(m, strings.Join(lines, `", "`), len(lines) > 0)
}

func matchPath(p *policy.StringMatch, path string) bool {
	switch {
	case p.Exact != nil:
		return path == *p.Exact
	case p.Regex != nil:
		return matchRegex(*p.Regex, path)
	default:
		rest, ok := strings.CutPrefix(path, strings.TrimRight(*p.Prefix, "/"))
		return ok && (rest == "" || rest[0] == '/')
	}
}

func wantPath(p *policy.StringMatch) string {
	switch {
	case p.Exact != nil:
		return "exactly " + *p.Exact
	case p.Regex != nil:
		return fmt.Sprintf("what the regex %q matches", *p.Regex)
	default:
		return strings.TrimRight(*p.Prefix, "/") + " or below it"
	}
}

func matchNamed(m policy.NamedMatch, value string, present bool) bool {
	switch {
	case m.Present != nil:
		return present == *m.Present
	case !present:
		return false
	case m.Exact != nil:
		return value == *m.Exact
	case m.Prefix != nil:
		return strings.HasPrefix(value, *m.Prefix)
	default:
		return matchRegex(*m.Regex, value)
	}
}

// matchRegex matches whole strings. Envoy's regular expressions know no UTF-8: to them, each byte is a character.
func matchRegex(pattern, s string) bool {
	return compile(`\A(?:` + pattern + `)\z`).MatchString(latin1(s))
}

// compile takes only what policy.Load has accepted.
func compile(pattern string) *regexp.Regexp { return regexp.MustCompile(latin1(pattern)) }

// latin1 makes a character of each byte.
func latin1(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

func mismatch(m policy.NamedMatch, value string, present bool) string {
	is := "is absent"
	if present {
		is = `is "` + value + `"`
	}
	return fmt.Sprintf("%s %s, want %s", m.Name, is, wantNamed(m))
}

func wantNamed(m policy.NamedMatch) string {
	switch {
	case m.Present != nil && *m.Present:
		return "it present"
	case m.Present != nil:
		return "it absent"
	case m.Exact != nil:
		return fmt.Sprintf("exactly %q", *m.Exact)
	case m.Prefix != nil:
		return fmt.Sprintf("what begins with %q", *m.Prefix)
	default:
		return fmt.Sprintf("what the regex %q matches", *m.Regex)
	}
}

// preflightOf says whether CORS answers the request: it asks whether a page may send one that matches, of which only path,
// query and method are known.
func preflightOf(r *mesh.Rule, v *view) bool {
	if !r.CORS.On() {
		return false
	}
	asked := v.one("access-control-request-method")
	if !v.asksFirst() {
		return false
	}
	if len(r.Match.Methods) > 0 && !slices.Contains(r.Match.Methods, asked) {
		return false
	}
	failed, _ := v.match(&policy.Match{Path: r.Match.PathMatch(), Query: r.Match.Query}, "")
	return failed == ""
}

// asksFirst says whether the request is a browser's question whether it may send another one.
func (v *view) asksFirst() bool {
	return v.method == "OPTIONS" && v.one("access-control-request-method") != "" && v.one("origin") != ""
}

// originAllowed says whether pages of the origin may read answers.
func originAllowed(c *policy.CORS, origin string) bool { return matchRegex(c.Origins(), origin) }
