package lint

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

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
		return &policy.StringMatch{Regex: g.one("/a", "/a.*", "/a/.*", ".*", "/a|/b", "(?i)/A(/.*)?", "^/a$", "/[ab]", "^/a/b", "a/.*", "", "/a/b(/.*)?", ".*b", `/\*`)}
	}
}

func (g guesser) conditions(percent int, names ...string) []policy.NamedMatch {
	var all []policy.NamedMatch
	for g.yes(percent) && len(all) < 3 {
		m := policy.NamedMatch{Name: *g.one(names...)}
		switch g.IntN(5) {
		case 0, 1:
			m.Exact = g.one("a", "ab", "b", "é", "éa")
		case 2:
			m.Prefix = g.one("a", "ab", "b")
		case 3:
			m.Regex = g.one("a", "a.*", "ab?", "(?i)AB", ".*", "", "^ab", "[ab]", ".a?", "é?a")
		default:
			present := g.yes(60)
			m.Present = &present
		}
		all = append(all, m)
	}
	return all
}

func (g guesser) request() explain.Request {
	r := explain.Request{Method: *g.one("GET", "POST", "PUT", "OPTIONS"), Scheme: "http", Authority: "a"}
	r.Path = *g.one("/", "/a", "/A", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/c", "/ab", "/b", "/b/c", "/b/d", "/*")
	var query []string
	for g.yes(40) {
		query = append(query, *g.one("q", "Q")+"="+g.value())
	}
	if len(query) > 0 {
		r.Path += "?" + strings.Join(query, "&")
	}
	add := func(name, value string) { r.Headers = append(r.Headers, explain.Header{Name: name, Value: value}) }
	for g.yes(60) && len(r.Headers) < 4 { // a header may come twice
		add(*g.one("x-a", "x-b"), g.value())
	}
	if g.yes(40) {
		add("cookie", "c="+g.value())
	}
	if g.yes(30) {
		add("content-type", "application/grpc")
	}
	if g.yes(20) {
		add("baggage", mesh.LoadTestMember)
	}
	if g.yes(30) {
		add("origin", "https://a.example")
		add("access-control-request-method", *g.one("GET", "POST", "PUT"))
	}
	return r
}

func (g guesser) value() string { return *g.one("", "a", "ab", "AB", "abc", "b", "é", "éa") }

// rule is a rule in the form that policy.Load would give it.
func (g guesser) rule(name string) policy.Rule {
	r := policy.Rule{Name: name, Match: g.match()}
	if g.yes(15) {
		r.LoadTest = &policy.LoadTest{Requests: 1}
	}
	if g.yes(25) {
		age := policy.Duration(0)
		r.CORS = &policy.CORS{AllowOrigins: []string{"https://a.example"}, MaxAge: &age}
	}
	weight := 1
	r.To = []policy.Destination{{Service: "a", Weight: &weight}}
	return r
}

// model is of a gateway and a service with the rules.
func model(rules []policy.Rule) *mesh.Model {
	timeout := policy.Duration(0)
	return mesh.Build(&policy.Set{
		Mesh: &policy.Document[policy.MeshSpec]{},
		Gateways: []*policy.Document[policy.GatewaySpec]{{
			Metadata: policy.Metadata{Name: "edge"},
			Spec:     policy.GatewaySpec{Address: "127.0.0.1", Services: []string{"*"}, Listeners: []policy.Listener{{Name: "http", Port: 80, Protocol: "http"}}},
		}},
		Services: []*policy.Document[policy.ServiceSpec]{{
			Metadata: policy.Metadata{Name: "a"},
			Spec: policy.ServiceSpec{
				Hosts: []string{"a"}, Protocol: "http", Endpoints: policy.Endpoints{None: true}, Handling: policy.Handling{Timeout: &timeout},
			},
		}},
		Routes: []*policy.Document[policy.RouteSpec]{{Metadata: policy.Metadata{Name: "a"}, Spec: policy.RouteSpec{Service: "a", Rules: rules}}},
	})
}

// TestUnreachableRulesTakeNoRequest: whatever rules and requests there are, what weir explain, which is held against a
// real Envoy, says to take a request is no rule that is called unreachable.
func TestUnreachableRulesTakeNoRequest(t *testing.T) {
	const lists, requests = 3000, 60
	called, taken := 0, 0
	for seed := range uint64(lists) {
		g := guesser{rand.New(rand.NewPCG(seed, 1))}
		rules := make([]policy.Rule, 2+g.IntN(6))
		for i := range rules {
			rules[i] = g.rule(fmt.Sprint(i))
		}
		m := model(rules)
		l := &linter{regex: make(expressions)}
		page{linter: l}.unreachable(m.Services[0].Rules)
		unreachable := make(map[string]string)
		for _, w := range l.warnings {
			unreachable[strings.TrimSuffix(strings.TrimPrefix(w.Path, "spec.rules["), "]")] = w.Message
		}
		called += len(unreachable)
		over := g.without(rules) // the rules when all load tests have ended
		for range requests {
			r := g.request()
			for _, model := range []*mesh.Model{m, over} {
				if model == nil {
					continue
				}
				x, err := explain.Explain(model, nil, r, time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				if x.Taken == nil {
					continue
				}
				taken++
				if why, ok := unreachable[x.Taken.Rule]; ok {
					t.Fatalf("seed %d: %+v is taken by the rule of which is said: %s\n%s", seed, r, why, rulesText(rules))
				}
			}
		}
	}
	if called < lists/4 || taken < lists*requests/4 {
		t.Errorf("%d rules are called unreachable and %d requests taken: that proves little", called, taken)
	}
	t.Logf("%d rules of %d lists are unreachable; %d requests were taken by others", called, lists, taken)
}

// without gives the model without load tests, or nil where there are none, or nothing else.
func (g guesser) without(rules []policy.Rule) *mesh.Model {
	left := slices.DeleteFunc(slices.Clone(rules), func(r policy.Rule) bool { return r.LoadTest != nil })
	if len(left) == len(rules) || len(left) == 0 {
		return nil
	}
	return model(left)
}

func rulesText(rules []policy.Rule) string {
	var b strings.Builder
	for i, r := range rules {
		fmt.Fprintf(&b, "%d (load test: %t, CORS: %t): ", i, r.LoadTest != nil, r.CORS != nil)
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
			return // no regex
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

// TestRegexesAreOfBytes: to Envoy é is two characters, so that of regexes and texts with it nothing is known.
func TestRegexesAreOfBytes(t *testing.T) {
	is := func(m policy.NamedMatch) *policy.Match {
		m.Name = "x"
		return &policy.Match{Headers: []policy.NamedMatch{m}}
	}
	text := func(s string) *string { return &s }
	x := make(expressions)
	for _, c := range []struct{ wide, narrow policy.NamedMatch }{
		{policy.NamedMatch{Regex: text(".")}, policy.NamedMatch{Exact: text("é")}},
		{policy.NamedMatch{Prefix: text("éé")}, policy.NamedMatch{Regex: text("é{2}a")}},
		{policy.NamedMatch{Exact: text("éé")}, policy.NamedMatch{Regex: text("é{2}")}},
	} {
		if x.covers(is(c.wide), is(c.narrow)) {
			t.Errorf("%s is said to cover %s", sayMatch(c.wide), sayMatch(c.narrow))
		}
	}
	if !x.covers(is(policy.NamedMatch{Regex: text(".")}), is(policy.NamedMatch{Exact: text("e")})) {
		t.Error("nothing is known of a regex of ASCII")
	}
}

func sayMatch(m policy.NamedMatch) string { return text(reflect.ValueOf(m)) }
