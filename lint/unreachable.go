package lint

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// unreachable warns of rules that no request gets to, or that none can match.
func (p page) unreachable(rules []*mesh.Rule) {
	for i, r := range rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		if why := p.regex.impossible(r); why != "" {
			p.warn(UnreachableRule, path, "the rule %s never matches: %s", r.Name, why)
			continue
		}
		for j, earlier := range rules[:i] {
			if p.regex.takes(earlier, r) {
				p.warn(UnreachableRule, path, "no request gets to the rule %s: %s (spec.rules[%d]) takes all that it matches; put it before that one, or leave it out",
					r.Name, earlier.Name, j)
				break
			}
		}
	}
}

// takes says whether an earlier rule takes every request that would come to a later one. A load test ends, and takes
// nothing then; while it runs, it takes what is marked as its load beside what it matches. A rule with CORS answers
// browsers that ask about a request, of which they tell path, query and method only.
func (x expressions) takes(earlier, later *mesh.Rule) bool {
	if earlier.LoadTest != nil || later.CORS.On() && !earlier.CORS.On() {
		return false
	}
	if later.LoadTest != nil {
		if marked := later.Marked(); !x.covers(&earlier.Match, &marked) {
			return false
		}
	}
	return x.covers(&earlier.Match, &later.Match)
}

// knownParts are the fields of a match that covers knows; another one, of a later version, covers nothing.
var knownParts = map[string]bool{"Path": true, "Methods": true, "Headers": true, "Query": true, "Cookies": true, "GRPC": true}

// covers says whether wide matches every request that narrow matches. It is sound and not complete: each condition of
// wide must follow from one of narrow's.
func (x expressions) covers(wide, narrow *policy.Match) bool {
	v := reflect.ValueOf(*wide)
	for i := range v.NumField() {
		if !knownParts[v.Type().Field(i).Name] && !v.Field(i).IsZero() {
			return false
		}
	}
	return x.coversPath(wide.Path, narrow) &&
		coversMethods(wide.Methods, narrow.Methods) &&
		x.coversNamed(wide.Headers, narrow.Headers, strings.EqualFold) &&
		x.coversNamed(wide.Query, narrow.Query, equal) &&
		x.coversNamed(wide.Cookies, narrow.Cookies, equal) &&
		coversGRPC(wide.GRPC, narrow.GRPC)
}

func equal(a, b string) bool { return a == b }

func coversMethods(wide, narrow []string) bool {
	return len(wide) == 0 || len(narrow) > 0 && !slices.ContainsFunc(narrow, func(m string) bool { return !slices.Contains(wide, m) })
}

func coversGRPC(wide, narrow *policy.GRPCMatch) bool {
	return wide == nil || narrow != nil && wide.Service == narrow.Service && (wide.Method == "" || wide.Method == narrow.Method)
}

// expressions are the regexes that have been read.
type expressions map[string]expression

// expression is a regex that is matched against whole strings: it is exactly the text, or all that it matches begins so.
type expression struct {
	text  string
	exact bool
	whole *regexp.Regexp // nil where nothing is known
}

func (x expressions) read(pattern string) expression {
	if e, ok := x[pattern]; ok {
		return e
	}
	var e expression
	if re, err := regexp.Compile(pattern); err == nil && ascii(pattern) {
		e.text, e.exact = re.LiteralPrefix()
		if e.whole, err = regexp.Compile(`\A(?:` + pattern + `)\z`); err != nil { // a \Q without its \E goes on
			e.whole = regexp.MustCompile(`\A(?:` + pattern + `\E)\z`)
		}
	}
	x[pattern] = e
	return e
}

// ascii says whether Go's regexes, of characters, and Envoy's, of bytes, say the same of a text.
func ascii(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c >= utf8.RuneSelf }) < 0
}

// matches says whether a string is known to be matched.
func (x expressions) matches(pattern, s string) bool {
	e := x.read(pattern)
	return e.whole != nil && ascii(s) && e.whole.MatchString(s)
}

// segments is a path prefix as it is matched: /cart/ is /cart, and / is "".
func segments(prefix string) string { return strings.TrimRight(prefix, "/") }

// under says whether a path is the prefix or below it.
func under(prefix, path string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// coversPath says whether the condition holds for the path of every request of the match. Every path that is matched
// begins with a slash: Envoy answers all else, the * of an OPTIONS request too, before it looks at routes.
func (x expressions) coversPath(wide *policy.StringMatch, narrow *policy.Match) bool {
	if wide == nil || wide.Prefix != nil && segments(*wide.Prefix) == "" {
		return true
	}
	p := narrow.PathMatch()
	if p == nil {
		return false
	}
	switch {
	case p.Exact != nil:
		return x.pathHolds(wide, *p.Exact)
	case p.Prefix != nil:
		return wide.Prefix != nil && under(segments(*wide.Prefix), segments(*p.Prefix))
	case wide.Regex != nil:
		return *wide.Regex == *p.Regex
	}
	l := x.read(*p.Regex)
	if l.exact {
		return x.pathHolds(wide, l.text)
	}
	return wide.Prefix != nil && strings.HasPrefix(l.text, segments(*wide.Prefix)+"/")
}

// pathHolds says whether a condition holds for one path.
func (x expressions) pathHolds(m *policy.StringMatch, path string) bool {
	switch {
	case m.Exact != nil:
		return *m.Exact == path
	case m.Prefix != nil:
		return under(segments(*m.Prefix), path)
	default:
		return x.matches(*m.Regex, path)
	}
}

// coversNamed says whether each of the wide conditions follows from one of the narrow ones of the same name.
func (x expressions) coversNamed(wide, narrow []policy.NamedMatch, sameName func(a, b string) bool) bool {
	for i := range wide {
		if !slices.ContainsFunc(narrow, func(n policy.NamedMatch) bool {
			return sameName(wide[i].Name, n.Name) && x.follows(&wide[i], &n)
		}) {
			return false
		}
	}
	return true
}

// follows says whether wide holds wherever narrow, of the same header, parameter or cookie, does.
func (x expressions) follows(wide, narrow *policy.NamedMatch) bool {
	absent := narrow.Present != nil && !*narrow.Present
	switch {
	case wide.Present != nil:
		return *wide.Present != absent
	case narrow.Present != nil:
		return false
	case narrow.Exact != nil:
		return x.valueHolds(wide, *narrow.Exact)
	case narrow.Prefix != nil:
		return wide.Prefix != nil && strings.HasPrefix(*narrow.Prefix, *wide.Prefix)
	case wide.Regex != nil:
		return *wide.Regex == *narrow.Regex
	}
	l := x.read(*narrow.Regex)
	if l.exact {
		return x.valueHolds(wide, l.text)
	}
	return wide.Prefix != nil && strings.HasPrefix(l.text, *wide.Prefix)
}

// valueHolds says whether a condition that is none on presence holds for one value.
func (x expressions) valueHolds(m *policy.NamedMatch, value string) bool {
	switch {
	case m.Exact != nil:
		return *m.Exact == value
	case m.Prefix != nil:
		return strings.HasPrefix(value, *m.Prefix)
	default:
		return x.matches(*m.Regex, value)
	}
}

// impossible says why no request comes to a rule, or "".
func (x expressions) impossible(r *mesh.Rule) string {
	if m := r.Match.Path; m != nil && m.Regex != nil {
		switch l := x.read(*m.Regex); {
		case l.text == "" && l.exact:
			return "its path is to be empty"
		case l.text != "" && l.text[0] != '/':
			return fmt.Sprintf("a path begins with /, and the regex %q, which is matched against all of it, with %q", *m.Regex, l.text)
		}
	}
	if r.LoadTest != nil || r.CORS.On() {
		return "" // not all that comes has the headers
	}
	// Two values do not contradict each other: a header may come twice.
	present := func(m *policy.NamedMatch) bool { return m.Present == nil || *m.Present }
	for i, a := range r.Match.Headers {
		for _, b := range r.Match.Headers[:i] {
			if strings.EqualFold(a.Name, b.Name) && present(&a) != present(&b) {
				return fmt.Sprintf("the header %s is to be there and not to be there", a.Name)
			}
		}
	}
	return ""
}

// namesOf gives the names of a map in order.
func namesOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
