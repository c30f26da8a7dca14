package importer_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// asked is a request as rules see it.
type asked struct {
	host, path, method string
	headers, query     map[string]string
}

// dice throws what a test is made of.
type dice struct{ *rand.Rand }

func (d dice) of(all ...string) string { return all[d.IntN(len(all))] }

func (d dice) some(all ...string) []string {
	var out []string
	for _, s := range all {
		if d.IntN(3) == 0 {
			out = append(out, s)
		}
	}
	return out
}

var paths = []string{"/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/A/b", "/ab/c", "/a.b"}

func (d dice) request() asked {
	r := asked{
		host: d.of("a.example.com", "b.example.com", "x.b.example.com", "example.org"), path: d.of(paths...), method: d.of("GET", "POST"),
		headers: make(map[string]string), query: make(map[string]string),
	}
	for _, name := range d.some("x", "y") {
		r.headers[name] = d.of("", "1", "12", "2")
	}
	for _, name := range d.some("p", "q") {
		r.query[name] = d.of("1", "2")
	}
	return r
}

// model is what an import means, with a gateway that serves all of it.
func model(t *testing.T, documents []byte) *mesh.Model {
	t.Helper()
	return mesh.Build(mustLoad(t, append(documents, "---\nkind: Gateway\nmetadata: {name: test}\nspec: {listeners: [{name: http, port: 80}]}\n"...)))
}

// served gives the service that a request goes to; "404" if no rule takes it.
func served(t *testing.T, m *mesh.Model, r asked) string {
	t.Helper()
	request := explain.Request{Method: r.method, Scheme: "http", Authority: r.host, Path: r.path}
	query := make(url.Values)
	for name, value := range r.query {
		query.Set(name, value)
	}
	if len(query) > 0 {
		request.Path += "?" + query.Encode()
	}
	for name, value := range r.headers {
		request.Headers = append(request.Headers, explain.Header{Name: name, Value: value})
	}
	x, err := explain.Explain(m, nil, request, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case x.Outcome.Kind == explain.NotFound:
		return "404"
	case x.Taken == nil || len(x.Taken.To) != 1:
		t.Fatalf("%+v: %+v", r, x.Outcome)
	}
	return x.Taken.To[0].Subset
}

// hostMatches gives how closely a host is meant; -1 if it is not.
func hostMatches(pattern, host string) int {
	suffix, wild := strings.CutPrefix(pattern, "*")
	switch {
	case pattern == host:
		return 1000
	case wild && strings.HasSuffix(host, suffix):
		return len(suffix)
	}
	return -1
}

func segments(prefix, path string) bool {
	prefix = strings.TrimRight(prefix, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func full(re, s string) bool { return regexp.MustCompile("^(?:" + re + ")$").MatchString(s) }

// theirs is a rule of Gateway API as its specification judges it.
type theirs struct {
	route, rule, match int
	created            int
	hosts              []string
	kind, path         string
	method             string
	headers, query     []string // NAME=VALUE
	backend            string
}

func (m *theirs) takes(r asked) bool {
	switch {
	case m.kind == "Exact" && r.path != m.path, m.kind == "PathPrefix" && !segments(m.path, r.path), m.kind == "RegularExpression" && !full(m.path, r.path):
		return false
	}
	has := func(conditions []string, values map[string]string) bool {
		for _, c := range conditions {
			name, value, _ := strings.Cut(c, "=")
			if got, ok := values[name]; !ok || got != value {
				return false
			}
		}
		return true
	}
	return (m.method == "" || m.method == r.method) && has(m.headers, r.headers) && has(m.query, r.query)
}

// before says which of two matches Gateway API prefers.
func (m *theirs) before(o *theirs) bool {
	class := map[string]int{"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
	yes := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	mine := []int{class[m.kind], -len(m.path), yes(m.method != ""), -len(m.headers), -len(m.query), m.created, m.route, m.rule, m.match}
	other := []int{class[o.kind], -len(o.path), yes(o.method != ""), -len(o.headers), -len(o.query), o.created, o.route, o.rule, o.match}
	return slices.Compare(mine, other) < 0
}

// httpRoutes writes routes, and says what they mean.
func (d dice) httpRoutes() (string, []theirs) {
	var text strings.Builder
	var matches []theirs
	for route := range 1 + d.IntN(3) {
		created, hosts := 1+d.IntN(2), d.some("a.example.com", "*.example.com", "*.b.example.com")
		fmt.Fprintf(&text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d, creationTimestamp: \"2026-01-0%dT00:00:00Z\"}\n", route, created)
		fmt.Fprintf(&text, "spec:\n  parentRefs: [{name: g}]\n  hostnames: [%s]\n  rules:\n", quoted(hosts))
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		for rule := range 1 + d.IntN(3) {
			backend := fmt.Sprintf("s%d-%d", route, rule)
			fmt.Fprintf(&text, "    - backendRefs: [{name: %s, port: 80}]\n      matches:\n", backend)
			for match := range 1 + d.IntN(3) {
				m := theirs{route: route, rule: rule, match: match, created: created, hosts: hosts, backend: backend}
				m.kind, m.path = d.of("Exact", "PathPrefix", "PathPrefix", "RegularExpression"), d.of(paths...)
				fmt.Fprintf(&text, "        - path: {type: %s, value: %s}\n", m.kind, m.path)
				if d.IntN(3) == 0 {
					m.method = d.of("GET", "POST")
					fmt.Fprintf(&text, "          method: %s\n", m.method)
				}
				m.headers = d.conditions(&text, "headers", "x", "y")
				m.query = d.conditions(&text, "queryParams", "p", "q")
				matches = append(matches, m)
			}
		}
	}
	return text.String(), matches
}

func quoted(all []string) string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return strings.Join(out, ", ")
}

func (d dice) conditions(text *strings.Builder, field string, names ...string) []string {
	var all []string
	var items []string
	for _, name := range d.some(names...) {
		value := d.of("1", "2")
		all, items = append(all, name+"="+value), append(items, fmt.Sprintf("{name: %s, value: %q}", name, value))
	}
	fmt.Fprintf(text, "          %s: [%s]\n", field, strings.Join(items, ", "))
	return all
}

// TestGatewayAPIsOrder holds the rules, in the order in which they come out, to what Gateway API says of any requests: of
// all matches of the closest host, the one that its precedence prefers.
func TestGatewayAPIsOrder(t *testing.T) {
	for seed := range uint64(200) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		text, matches := d.httpRoutes()
		result := mustImport(t, []policy.File{{Name: "routes.yaml", Data: []byte(text)}})
		model := model(t, result.YAML())
		for range 100 {
			r := d.request()
			want, closest := "404", -1
			var best *theirs
			for i := range matches {
				for _, host := range matches[i].hosts {
					closest = max(closest, hostMatches(host, r.host))
				}
			}
			for i := range matches {
				m := &matches[i]
				of := slices.ContainsFunc(m.hosts, func(host string) bool { return closest >= 0 && hostMatches(host, r.host) == closest })
				if of && m.takes(r) && (best == nil || m.before(best)) {
					best, want = m, "default/"+m.backend
				}
			}
			if got := served(t, model, r); got != want {
				t.Fatalf("seed %d: %+v goes to %s, want %s, of\n%s\n%s", seed, r, got, want, text, result.YAML())
			}
		}
	}
}

// istioMatch is a match of Istio's: conditions are {NAME: {KIND: VALUE}}.
type istioMatch struct {
	uri, method      [2]string // kind, value
	ignoreCase       bool
	headers, without map[string][2]string
	query            map[string][2]string
	destination      string
}

func (d dice) stringMatch(values ...string) [2]string {
	return [2]string{d.of("exact", "prefix", "present"), d.of(values...)}
}

func is(m [2]string, value string, present bool) bool {
	switch m[0] {
	case "exact":
		return present && value == m[1]
	case "prefix":
		return present && strings.HasPrefix(value, m[1])
	case "regex":
		return present && full(m[1], value)
	}
	return present
}

func (m *istioMatch) takes(r asked) bool {
	path, uri := r.path, m.uri
	if m.ignoreCase {
		path, uri[1] = strings.ToLower(path), strings.ToLower(uri[1])
	}
	if uri[0] != "" && !is(uri, path, true) || m.method[0] != "" && !is(m.method, r.method, true) {
		return false
	}
	for name, c := range m.headers {
		if value, ok := r.headers[name]; !is(c, value, ok) {
			return false
		}
	}
	for name, c := range m.query {
		if value, ok := r.query[name]; !is(c, value, ok) {
			return false
		}
	}
	for name, c := range m.without { // a header that is not there counts as an empty one, but for whether it is there
		if value, ok := r.headers[name]; is(c, value, ok || c[0] != "present") {
			return false
		}
	}
	return true
}

func written(conditions map[string][2]string) string {
	var all []string
	for name, c := range conditions {
		body := fmt.Sprintf("%s: %q", c[0], c[1])
		if c[0] == "present" {
			body = ""
		}
		all = append(all, fmt.Sprintf("%s: {%s}", name, body))
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ", ") + "}"
}

func (d dice) virtualService() (string, []istioMatch) {
	var text strings.Builder
	var matches []istioMatch
	text.WriteString("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a.example.com]\n  http:\n")
	for route := range 1 + d.IntN(5) {
		destination := fmt.Sprintf("s%d", route)
		fmt.Fprintf(&text, "    - route: [{destination: {host: %s}}]\n      match:\n", destination)
		for range 1 + d.IntN(2) {
			m := istioMatch{
				destination: destination, ignoreCase: d.IntN(4) == 0,
				headers: map[string][2]string{}, without: map[string][2]string{}, query: map[string][2]string{},
			}
			fmt.Fprintf(&text, "        - ignoreUriCase: %t\n", m.ignoreCase)
			if d.IntN(4) > 0 {
				m.uri = [2]string{d.of("exact", "prefix"), d.of(paths...)}
				fmt.Fprintf(&text, "          uri: {%s: %s}\n", m.uri[0], m.uri[1])
			}
			if d.IntN(4) == 0 {
				m.method = [2]string{d.of("exact", "prefix"), d.of("GET", "P", "POST")}
				if m.method == [2]string{"exact", "P"} {
					m.method[0] = "prefix"
				}
				fmt.Fprintf(&text, "          method: {%s: %s}\n", m.method[0], m.method[1])
			}
			for _, name := range d.some("x", "y") {
				m.headers[name] = d.stringMatch("", "1", "12")
			}
			for _, name := range d.some("x", "y") {
				if m.without[name] = d.stringMatch("", "1", "12"); m.without[name] == [2]string{"prefix", ""} {
					delete(m.without, name) // nothing is without it, which leaves the rule out
				}
			}
			for _, name := range d.some("p", "q") {
				m.query[name] = d.stringMatch("1", "2")
			}
			fmt.Fprintf(&text, "          headers: %s\n          withoutHeaders: %s\n          queryParams: %s\n", written(m.headers), written(m.without), written(m.query))
			matches = append(matches, m)
		}
	}
	return text.String(), matches
}

// TestIstiosMatches holds rules to what Istio's matches mean, for any requests.
func TestIstiosMatches(t *testing.T) {
	for seed := range uint64(200) {
		d := dice{rand.New(rand.NewPCG(seed, 2))}
		text, matches := d.virtualService()
		result := mustImport(t, []policy.File{{Name: "routes.yaml", Data: []byte(text)}})
		model := model(t, result.YAML())
		for range 100 {
			r := d.request()
			r.host = "a.example.com"
			want := "404"
			for i := range matches {
				if matches[i].takes(r) {
					want = "default/" + matches[i].destination
					break
				}
			}
			if got := served(t, model, r); got != want {
				t.Fatalf("seed %d: %+v goes to %s, want %s, of\n%s\n%s", seed, r, got, want, text, result.YAML())
			}
		}
	}
}
