package lint

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

// request is what a match looks at. A header, parameter or cookie that comes twice is one value.
type request struct {
	path, method            string
	grpc                    bool // it says so in its content-type
	headers, query, cookies map[string]string
}

// matches is what a Match means, told plainly: no reasoning, one request.
func (r request) matches(m *policy.Match) bool {
	return r.matchesPath(m.Path) && (len(m.Methods) == 0 || slices.Contains(m.Methods, r.method)) &&
		r.named(m.Headers, r.headers, strings.ToLower) && r.named(m.Query, r.query, strings.Clone) && r.named(m.Cookies, r.cookies, strings.Clone) &&
		r.matchesGRPC(m.GRPC)
}

func (r request) matchesPath(m *policy.StringMatch) bool {
	switch {
	case m == nil:
		return true
	case m.Exact != nil:
		return r.path == *m.Exact
	case m.Regex != nil:
		return wholly(*m.Regex, r.path)
	default:
		return strings.HasPrefix(r.path+"/", strings.TrimRight(*m.Prefix, "/")+"/")
	}
}

func wholly(pattern, s string) bool {
	if quoted, ok := strings.CutPrefix(pattern, `\Q`); ok {
		return s == quoted
	}
	return regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(s)
}

func (r request) named(all []policy.NamedMatch, values map[string]string, name func(string) string) bool {
	for _, m := range all {
		value, ok := values[name(m.Name)]
		holds := false
		switch {
		case m.Present != nil:
			holds = ok == *m.Present
		case !ok:
		case m.Exact != nil:
			holds = value == *m.Exact
		case m.Prefix != nil:
			holds = strings.HasPrefix(value, *m.Prefix)
		default:
			holds = wholly(*m.Regex, value)
		}
		if !holds {
			return false
		}
	}
	return true
}

func (r request) matchesGRPC(m *policy.GRPCMatch) bool {
	if m == nil {
		return true
	}
	called := "/" + m.Service + "/" + m.Method
	return r.grpc && (r.path == called || m.Method == "" && strings.HasPrefix(r.path+"/", called))
}

// guesser makes matches and requests of so few words that they meet often.
type guesser struct{ *rand.Rand }

func (g guesser) one(of ...string) *string { s := of[g.IntN(len(of))]; return &s }

func (g guesser) yes(percent int) bool { return g.IntN(100) < percent }

func (g guesser) match() policy.Match {
	var m policy.Match
	if g.yes(60) {
		m.Path = g.pathMatch()
	} else if g.yes(20) {
		m.GRPC = &policy.GRPCMatch{Service: *g.one("a", "b"), Method: *g.one("", "c", "d")}
	}
	for _, method := range []string{"GET", "POST", "PUT"} {
		if g.yes(25) {
			m.Methods = append(m.Methods, method)
		}
	}
	m.Headers, m.Query, m.Cookies = g.conditions(40, "x-a", "X-A", "x-b"), g.conditions(15, "q", "Q"), g.conditions(15, "c")
	return m
}

func (g guesser) pathMatch() *policy.StringMatch {
	switch g.IntN(3) {
	case 0:
		return &policy.StringMatch{Exact: g.one("/", "/a", "/a/", "/a/b", "/a/c", "/ab", "/b")}
	case 1:
		return &policy.StringMatch{Prefix: g.one("/", "//", "/a", "/a/", "/a/b", "/b", "/ab")}
	default:
		return &policy.StringMatch{Regex: g.one("/a", "/a.*", "/a/.*", ".*", "/a|/b", "(?i)/A(/.*)?", "^/a$", "/[ab]", "^/a/b", "a/.*", "", "/a/b(/.*)?", ".*b", `\*`, `\Q/a`)}
	}
}

func (g guesser) conditions(percent int, names ...string) []policy.NamedMatch {
	var all []policy.NamedMatch
	for g.yes(percent) && len(all) < 3 {
		m := policy.NamedMatch{Name: *g.one(names...)}
		switch g.IntN(5) {
		case 0, 1:
			m.Exact = g.one("a", "ab", "b")
		case 2:
			m.Prefix = g.one("a", "ab", "b")
		case 3:
			m.Regex = g.one("a", "a.*", "ab?", "(?i)AB", ".*", "", "^ab", "[ab]", `\Qab`)
		default:
			present := g.yes(60)
			m.Present = &present
		}
		all = append(all, m)
	}
	return all
}

func (g guesser) request() request {
	r := request{
		path:   *g.one("/", "/a", "/A", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/c", "/ab", "/b", "/b/c", "/b/d", "/*", "/a//b"),
		method: *g.one("GET", "POST", "PUT", "BREW"), grpc: g.yes(50),
	}
	r.headers, r.query, r.cookies = g.values("x-a", "x-b"), g.values("q", "Q"), g.values("c")
	return r
}

func (g guesser) values(names ...string) map[string]string {
	all := make(map[string]string)
	for _, name := range names {
		if g.yes(70) {
			all[name] = *g.one("", "a", "ab", "AB", "abc", "b")
		}
	}
	return all
}

// TestUnreachableRulesTakeNoRequest: whatever rules and requests there are, the first rule that matches a request is
// none that is called unreachable.
func TestUnreachableRulesTakeNoRequest(t *testing.T) {
	const lists, requests = 2000, 100
	called, taken := 0, 0
	for seed := range uint64(lists) {
		g := guesser{rand.New(rand.NewPCG(seed, 1))}
		rules := make([]policy.Rule, 2+g.IntN(6))
		for i := range rules {
			rules[i] = policy.Rule{Name: fmt.Sprint(i), Match: g.match()}
			if g.yes(10) {
				rules[i].LoadTest = &policy.LoadTest{Requests: 1}
			}
		}
		l := &linter{regex: make(expressions)}
		page{linter: l}.unreachable(rules)
		unreachable := make(map[int]string)
		for _, w := range l.warnings {
			var i int
			if _, err := fmt.Sscanf(w.Path, "spec.rules[%d]", &i); err != nil {
				t.Fatal(err)
			}
			unreachable[i] = w.Message
		}
		called += len(unreachable)
		for range requests {
			r, ended := g.request(), g.yes(50) // a load test has ended, or not yet
			for i := range rules {
				if (ended && rules[i].LoadTest != nil) || !r.matches(&rules[i].Match) {
					continue
				}
				taken++
				if why, ok := unreachable[i]; ok {
					t.Fatalf("seed %d: %+v is taken by the rule of which is said: %s\n%s", seed, r, why, rulesText(rules))
				}
				break
			}
		}
	}
	if called < lists/4 || taken < lists*requests/4 {
		t.Errorf("%d rules are called unreachable and %d requests taken: that proves little", called, taken)
	}
	t.Logf("%d rules of %d lists are unreachable; %d requests were taken by others", called, lists, taken)
}

func rulesText(rules []policy.Rule) string {
	var b strings.Builder
	for i, r := range rules {
		fmt.Fprintf(&b, "%d (load test: %t): ", i, r.LoadTest != nil)
		v := reflect.ValueOf(r.Match)
		for j := range v.NumField() {
			if !v.Field(j).IsZero() {
				fmt.Fprintf(&b, "%s %s; ", v.Type().Field(j).Name, text(v.Field(j)))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// text writes what pointers point to.
func text(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return "-"
		}
		return text(v.Elem())
	case reflect.Struct:
		var all []string
		for i := range v.NumField() {
			all = append(all, v.Type().Field(i).Name+":"+text(v.Field(i)))
		}
		return "{" + strings.Join(all, " ") + "}"
	case reflect.Slice:
		var all []string
		for i := range v.Len() {
			all = append(all, text(v.Index(i)))
		}
		return "[" + strings.Join(all, " ") + "]"
	default:
		return fmt.Sprintf("%q", fmt.Sprint(v))
	}
}

// TestARuleIsCoveredByItself: what is found is not nothing.
func TestARuleIsCoveredByItself(t *testing.T) {
	g := guesser{rand.New(rand.NewPCG(7, 7))}
	for range 2000 {
		m := g.match()
		wider := m
		switch g.IntN(4) {
		case 0:
			wider.Path = nil
		case 1:
			wider.Methods = nil
		case 2:
			wider.Headers = wider.Headers[:len(wider.Headers)/2]
		}
		if !make(expressions).covers(&wider, &m) {
			t.Fatalf("%s\nis not covered by %s", text(reflect.ValueOf(m)), text(reflect.ValueOf(wider)))
		}
	}
}

// TestEveryPartOfAMatchIsKnown fails where a match has a new field: until covers knows it, a rule that has it covers
// nothing, which is sound and finds less.
func TestEveryPartOfAMatchIsKnown(t *testing.T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[policy.Match]()) {
		if !knownParts[f.Name] {
			t.Errorf("covers does not know Match.%s: teach it, and the tests' matches", f.Name)
		}
	}
}

// TestPlainRegexesAreWhatIsSaidOfThem: a regex that is called plain takes what its plain conditions take.
func TestPlainRegexesAreWhatIsSaidOfThem(t *testing.T) {
	alphabet := []string{"/", "a", "b", ".", `\.`, `\\`, "|", "(", "(?:", ")", "^", "$", ".*", ".+", "*", "?", "[ab]", "(/.*)?", `\|`, `\)`, "(?i)", `\Q`, `\E`}
	letters := []string{"/", "a", "b", ".", `\`, "|", ")", "A", "c"}
	plains := 0
	for seed := range uint64(120_000) {
		g := guesser{rand.New(rand.NewPCG(seed, 2))}
		pattern := strings.Join(g.words(alphabet, 7), "")
		whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
		if _, alone := regexp.Compile(pattern); err != nil || alone != nil {
			continue
		}
		all, ok := plainOf(pattern)
		if !ok {
			continue
		}
		plains++
		for range 30 {
			s := strings.Join(g.words(letters, 4), "")
			if g.yes(70) {
				s = all[g.IntN(len(all))].text + s
			}
			if got, want := slices.ContainsFunc(all, func(p plain) bool { return p.takes(s) }), whole.MatchString(s); got != want {
				t.Fatalf("%q is called plain, %+v: of %q it says %t, the regex %t", pattern, all, s, got, want)
			}
		}
	}
	if plains < 400 {
		t.Errorf("%d of the regexes are plain: that proves little", plains)
	}
}

func (g guesser) words(of []string, most int) []string {
	all := make([]string, g.IntN(most+1))
	for i := range all {
		all[i] = *g.one(of...)
	}
	return all
}

// takes is what a plain condition means.
func (p plain) takes(s string) bool {
	switch p.kind {
	case plainExact:
		return s == p.text
	case plainPrefix:
		return strings.HasPrefix(s, p.text) && (p.empty || s != p.text)
	default:
		return s == p.text || strings.HasPrefix(s, p.text+"/")
	}
}

// FuzzExpressions: whatever is a regex can be read.
func FuzzExpressions(f *testing.F) {
	f.Add(`\Qa)`, "a)")
	f.Add(`(?i)a|b`, "A")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if _, err := regexp.Compile(pattern); err != nil {
			t.Skip()
		}
		x := make(expressions)
		e := x.read(pattern)
		if !x.matches(pattern, s) {
			return
		}
		if !strings.HasPrefix(s, e.text) || e.exact && s != e.text {
			t.Errorf("%q matches %q, and is said to begin with %q, exactly: %t", pattern, s, e.text, e.exact)
		}
		if all, ok := plainOf(pattern); ok && !strings.Contains(s, "\n") && !slices.ContainsFunc(all, func(p plain) bool { return p.takes(s) }) {
			t.Errorf("%q matches %q, and is called plain: %+v", pattern, s, all)
		}
	})
}
