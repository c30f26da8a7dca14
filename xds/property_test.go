package xds_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// author writes documents that policy.Load accepts, in every form that they can have.
type author struct{ *rand.Rand }

func (a author) pick(of ...string) string { return of[a.IntN(len(of))] }

// some is a YAML list of at most n items, each made anew.
func (a author) some(n int, item func() string) string {
	all := make([]string, a.IntN(n+1))
	for i := range all {
		all[i] = item()
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// maybe is the text, or nothing.
func (a author) maybe(text string) string { return a.pick(text, "") }

func (a author) documents() []string {
	all := []string{
		"kind: Mesh\nmetadata: {name: m}\nspec: {" + a.pick(
			"", "tracing: {collector: 127.0.0.1:4317}",
			`tracing: {collector: "collector.example:4317", percent: 0.5, tags: [{name: request_id, header: X-Id}, {name: b, header: "!#$%&'*+.^_`+"`"+`|~a"}]}, accessLog: {to: otlp, only: {status: "<599"}}`,
			`tracing: {collector: "[::1]:4317", percent: 0}, accessLog: {to: otlp}`,
		) + "}\n",
		"kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: b, port: 8081}, {name: a, port: 8080}" +
			a.maybe(", {name: c, port: 8443, protocol: https, tls: {certificate: /c, key: \"/%20 k\""+a.maybe(", minVersion: \"1.3\"")+"}"+a.maybe(", http3: true")+"}, {name: d, port: 80, httpsRedirect: 443}") + "], address: " +
			a.pick(`127.0.0.1`, `"::1"`) + ", services: " + a.pick(`["*"]`, `["x/*"]`, `["y/s1", s0]`) + "}\n",
	}
	for i := range 3 {
		all = append(all, a.service(i))
		if a.IntN(3) > 0 {
			all = append(all, a.route(i))
		}
		for j := range a.IntN(3) {
			all = append(all, a.rateLimit(i, j))
		}
	}
	a.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Service 2 is the one with DNS, and so without versions.
func metadata(i int) string {
	return fmt.Sprintf("metadata: {name: s%d, namespace: %s}\n", i, []string{"x", "y", "x"}[i])
}

func (a author) service(i int) string {
	endpoints := "versions: [{name: v1" + a.maybe(", responseHeaders: "+a.changes()) + "}, {name: v2" + a.maybe(", requestHeaders: "+a.changes()) + ", selector: {colour: green}}]\n  endpoints: {static: [{address: 127.0.0.1, port: 1}," +
		`{address: "::1", port: 65535, zone: b, labels: {version: v1}}, {address: 10.0.0.1, port: 2, zone: a, labels: {colour: green}}]}`
	if i == 1 {
		endpoints = a.pick(endpoints, "versions: [{name: v1}, {name: v2}]\n  endpoints: {none: true}\n  hosts: [\"*\"]")
	}
	if i == 2 {
		endpoints = "endpoints: {dns: {name: s.example, port: 80" + a.maybe(", refresh: 2ms") + "}}"
	}
	hosts := a.maybe(fmt.Sprintf(`hosts: ["*.s%d.example", s%d.example, 10.0.0.%d]`, i, i, i))
	if strings.Contains(endpoints, "hosts:") {
		hosts = ""
	}
	return "kind: Service\n" + metadata(i) + "spec:\n  " + endpoints + "\n  " + strings.Join([]string{
		hosts,
		"protocol: " + a.pick("http", "http2", "grpc"),
		a.balancing(),
		a.maybe("requestHeaders: " + a.changes()),
		a.maybe("responseHeaders: " + a.changes()),
		a.maybe("circuitBreaker: {maxConnections: 1, maxPending: 1073741824, maxRetries: 1}"),
		a.maybe("outlierDetection: {interval: 1ms, ejectFor: 1h, maxEjected: 0.5}"),
		a.maybe("healthCheck: {path: /h, interval: 1ms, timeout: 1ms, unhealthy: 1000}"),
		a.maybe("timeout: " + a.pick("0s", "1ms", "1h")),
		a.maybe("retries: " + a.retries(a.maybe(", budget: "+a.pick("0.1", "100")))), a.handling("  "),
	}, "\n  ") + "\n"
}

func (a author) balancing() string {
	if a.IntN(2) > 0 {
		return "loadBalancing: {policy: " + a.pick("least_request", "round_robin", "random") + "}"
	}
	return "affinity: " + a.key() + a.maybe("\n  loadBalancing: {policy: "+a.pick("ring_hash", "maglev")+a.maybe(", hashBalanceFactor: 100")+"}")
}

func (a author) key() string {
	return a.pick("{sourceAddress: true}", "{header: X-A}", `{cookie: {name: "%a"`+a.pick("", ", ttl: 0s", `, ttl: 400d, path: "/%20"`)+"}}")
}

func (a author) retries(more string) string {
	return "{attempts: " + a.pick("0", "1", "100") + a.maybe(", perTry: 1ms") + a.maybe(", on: [5xx, retriable-4xx]") +
		a.maybe(", codes: [100, 425]") + a.maybe(", backoff: "+a.pick("1ms", "1h")) + more + "}"
}

func (a author) named() string {
	return "{name: " + a.pick("x-a", "X-B", `"a.b~c"`) + ", " + a.pick(
		`exact: "%"`, `prefix: "é"`, `regex: ""`, `regex: "(?i)a{1,9}|\\pL+$"`, "present: true", "present: false",
	) + "}"
}

var paths = []string{"{exact: /}", "{prefix: /}", "{prefix: //}", "{prefix: /a/}", `{prefix: "/%20 é"}`, `{regex: ""}`, `{regex: "/a.*"}`}

func (a author) match(paths ...string) string {
	return "{" + strings.Join(slices.DeleteFunc([]string{
		a.pick("path: "+a.pick(paths...), "grpc: {service: a.B_1"+a.maybe(", method: c")+"}", ""),
		a.maybe("methods: [GET, PATCH]"),
		"headers: " + a.some(2, a.named), "query: " + a.some(2, a.named), "cookies: " + a.some(2, a.named),
	}, func(s string) bool { return s == "" }), ", ") + "}"
}

func (a author) changes() string {
	return `{add: {x-a: "", x-b: "%REQ(x-c):9%"}, set: {X-A: "100%%"` + a.maybe(", server: weir") + "}" + a.maybe(", remove: [x-a, via]") + "}"
}

func (a author) by() string {
	return a.pick("{remoteAddress: true}", "{header: x-a}", "{header: X-B}", `{header: x-a, exact: "v,%"}`, "{header: x-b, exact: w}",
		`{header: x-a, prefix: "v,%*"}`, "{header: x-B, suffix: w, share: true}", `{header: x-a, regex: "a|(b)"}`, `{header: x-b, regex: ".*", share: true}`)
}

func (a author) limit(scope string) string {
	text := "requests: " + a.pick("0", "1", "1000000000") + a.maybe(", shadow: true") + ", by: " + a.some(3, a.by)
	cost := []string{"number: 1", "number: 1000000000", "requestHeader: X-Cost_1.a"}
	per := []string{"second", "minute", "hour", "day", "week", "30s", "1h0m1s", "366d"}
	if scope == "global" {
		cost = append(cost, "responseHeader: x-tokens", "requestBytes: true", "responseBytes: true")
		if a.IntN(2) == 0 {
			return text + ", cost: {" + a.pick(cost...) + "}, " + a.pick("per: month", "per: year, algorithm: fixed_window", "per: 90s, algorithm: sliding_window", "per: day, algorithm: fixed_window")
		}
	}
	if scope == "local" {
		text += a.maybe(", perConnection: true")
	}
	if scope == "quota" {
		return text + ", " + a.pick("per: month", "per: 90s, algorithm: sliding_window", "per: day", "per: week, burst: 7")
	}
	return text + ", per: " + a.pick(per...) + a.maybe(", burst: "+a.pick("1", "1000000000")) + a.maybe(", cost: {"+a.pick(cost...)+"}")
}

// action is what a rule does, and of how it sends requests on what goes with it.
func (a author) action(match string) string {
	rewrites := []string{`{replaceFullPath: "/a\\b%"}`, `{regex: {pattern: "a|(b)", substitution: '\1\\'}}`, `{regex: {pattern: "^", substitution: ""}}`}
	if strings.Contains(match, "path: {prefix") {
		rewrites = append(rewrites, `{replacePrefixMatch: ""}`, "{replacePrefixMatch: /a/}")
	}
	path := a.pick(rewrites...)
	if a.IntN(4) == 0 {
		return "redirect: {" + a.pick("scheme: https", "hostname: h.example", "path: "+path) + a.maybe(", port: "+a.pick("443", "80")) +
			a.maybe(", stripQuery: true") + a.maybe(", statusCode: 308") + "}"
	}
	if a.IntN(4) == 0 {
		return a.pick("directResponse: {status: 200, body: a"+a.maybe(", contentType: text/%x")+"}", "directResponse: {status: 599}")
	}
	return strings.Join([]string{
		a.maybe("to: [" + a.pick("{service: y/s1, version: v1, weight: 0}, {service: x/s2, weight: 1000000}", "{service: x/s0, version: v2}, {service: x/s0}", "{service: x/s2}") + "]"),
		a.maybe("urlRewrite: {" + a.pick("hostname: h.example", "path: "+path, "hostname: 10.0.0.1, path: "+path) + "}"),
		a.maybe("mirror: " + a.some(2, a.mirror)), a.maybe("sticky: " + a.key()), a.maybe("requestHeaders: " + a.changes()), a.maybe("timeout: " + a.pick("0s", "1ms", "1h")), a.pick("retries: "+a.retries(""), "hedge: {onPerTryTimeout: true}\n      retries: {perTry: 1s}", "hedge: {onPerTryTimeout: false}", ""),
	}, "\n      ")
}

// handling is what services and rules both say of how requests are handled, in lines.
func (a author) handling(indent string) string {
	return strings.Join([]string{
		a.maybe("maintenance: {" + a.pick("body: a", `json: "1", html: "%"`, `html: "é", body: a, status: 418`) + a.maybe(", retryAfter: 90d") +
			a.maybe(", unless: "+a.match("{exact: /a}", `{prefix: "/[é"}`, "{prefix: /}")) + "}"),
		a.maybe("maxRequestBytes: " + a.pick("0", "1", "9000000GB")),
		a.maybe("compression: {" + a.pick("", "algorithms: []", "algorithms: [br, zstd], minBytes: 0", "algorithms: [gzip], minBytes: 4GB, contentTypes: [a/b, C/d+e]") + "}"),
		a.maybe("cors: {allowOrigins: " + a.pick("[]", `["*"]`, `["https://*.a.example:8443", http://b]`) + a.maybe(", maxAge: 0s") +
			a.pick("", `, allowMethods: ["*"], allowHeaders: ["*"], exposeHeaders: ["*"]`, `, allowCredentials: true, allowMethods: ["*"]`, ", allowCredentials: true, allowMethods: [PUT, GET], allowHeaders: [x-a, X-B], exposeHeaders: [x-c]") + "}"),
	}, "\n"+indent)
}

func (a author) mirror() string {
	return "{" + a.pick("timeout: 1ms", "timeout: 1h, percent: 0.0001", "service: y/s1, version: v2, percent: 0", "service: x/s2, percent: 33.3") + "}"
}

func (a author) route(i int) string {
	rules, someReal := make([]string, 1+a.IntN(4)), false
	for j := range rules {
		match, scope := a.match(paths...), a.pick("global", "local")
		action := a.action(match)
		if strings.HasPrefix(action, "redirect:") || strings.HasPrefix(action, "directResponse:") {
			scope = "local"
		} else {
			someReal = true
		}
		rules[j] = strings.Join([]string{
			"\n    - match: " + match,
			action, a.handling("      "),
			a.maybe("fault: {headers: " + a.some(2, a.named) + ", " + a.pick("delay: {fixed: 1ms}", "abort: {status: 599, percent: 0.0001}", "abort: {grpcStatus: 16}, delay: {fixed: 1h, percent: 0}") + "}"), a.maybe("responseHeaders: " + a.changes()),
			a.maybe("rateLimit: {" + a.limit(scope) + ", scope: " + scope + "}"),
		}, "\n      ")
	}
	if a.IntN(3) == 0 {
		stop := ""
		if someReal {
			stop = a.maybe(", stopWhen: " + a.pick("{errors: 0}", "{meanLatency: 1ms, window: 10m}", "{errors: 99.9, meanLatency: 1h, window: 3s, minRequests: 1}"))
		}
		rules = append(rules, strings.Join([]string{
			"\n    - match: {headers: [{name: x-load, present: true}]" + a.maybe(", path: "+a.pick(paths...)) + "}",
			"loadTest: {" + a.pick("requests: 1000000000", "until: 2126-01-01T00:00:00Z", "until: 2126-01-01T00:00:00.5+14:00, requests: 1") + stop + "}",
			a.maybe("to: [" + a.pick("{service: y/s1, version: v1}", "{service: x/s0, version: v2, weight: 2}, {service: x/s2}") + "]"),
			a.maybe("requestHeaders: " + a.changes()), a.maybe("sticky: " + a.key()), a.maybe("mirror: " + a.some(2, a.mirror)), a.handling("      "),
		}, "\n      "))
	}
	return "kind: Route\n" + metadata(i) + fmt.Sprintf("spec:\n  service: s%d\n  rules:", i) + strings.Join(rules, "") + "\n"
}

func (a author) rateLimit(i, j int) string {
	text := "kind: RateLimit\n" + strings.Replace(metadata(i), "name: s", fmt.Sprintf("name: l%d-", j), 1) + fmt.Sprintf("spec:\n  service: s%d\n  limits:", i)
	scope := a.pick("global", "local", "quota")
	for range 1 + a.IntN(4) {
		text += "\n    - {" + a.limit(scope) + "}"
	}
	if scope == "local" {
		text += "\n    - {requests: 9, per: second, fairShare: true}"
	}
	if scope == "quota" {
		return text + "\n  scope: quota\n  onError: " + a.pick("allow", "deny") + "\n"
	}
	text += a.maybe("\n  headers: {xRateLimit: false, retryAfter: " + a.pick("true", "false") + "}")
	return text + "\n  scope: " + scope + "\n  onError: " + a.pick("allow", "deny") + "\n"
}

// translated gives the documents' resources. They must be good.
func translated(t *testing.T, documents []string) *xds.Snapshot {
	t.Helper()
	return resolved(t, documents, false)
}

// resolved is translated, with every load test that something stops stopped, if so.
func resolved(t *testing.T, documents []string, stopped bool) *xds.Snapshot {
	t.Helper()
	text := strings.Join(documents, "---\n")
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatalf("%v\n%s", problems, text)
	}
	r := mesh.Resolver{Stopped: make(map[mesh.LoadTestID]bool)}
	for _, l := range mesh.LoadTests(set, time.Time{}) {
		r.Stopped[l.ID] = stopped && l.StopWhen != nil
	}
	snapshot, err := xds.Translate(r.At(set, time.Time{}), xds.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return snapshot
}

// worldsVariable says of how many worlds the real Envoy is asked whether it takes them.
const worldsVariable = "WEIR_XDS_WORLDS"

// TestWhatValidatesTranslates: whatever documents policy accepts, Envoy's own rules for messages hold, all that
// resources refer to is there, the order of documents does not matter, and the real Envoy takes some of it as a whole.
func TestWhatValidatesTranslates(t *testing.T) {
	tried := uint64(10)
	if text := os.Getenv(worldsVariable); text != "" {
		var err error
		if tried, err = strconv.ParseUint(text, 10, 32); err != nil {
			t.Fatalf("%s: %v", worldsVariable, err)
		}
	}
	for seed := range max(200, tried) {
		a := author{rand.New(rand.NewPCG(seed, 0))}
		documents := a.documents()
		snapshot := translated(t, documents)
		stopped := resolved(t, documents, true)
		for _, s := range []*xds.Snapshot{snapshot, stopped} {
			for p, v := range s.Views() {
				checkMessages(t, v)
				if t.Failed() {
					t.Fatalf("seed %d, %s:\n%s", seed, p, strings.Join(documents, "---\n"))
				}
			}
		}
		a.Shuffle(len(documents), func(i, j int) { documents[i], documents[j] = documents[j], documents[i] })
		same(t, snapshot, translated(t, documents))
		if seed >= tried {
			continue
		}
		if seed%2 == 1 {
			snapshot = stopped
		}
		v, _ := snapshot.View(edge)
		envoyTakes(t, v)
	}
}

func envoyTakes(t *testing.T, v xds.View) {
	t.Helper()
	text, err := xds.Render(v, false)
	if err != nil {
		t.Fatal(err)
	}
	envoytest.Validate(t, static(t, text))
}

func same(t *testing.T, a, b *xds.Snapshot) {
	t.Helper()
	for p, v := range a.Views() {
		w, _ := b.View(p)
		for _, kind := range xds.Types {
			if !slices.EqualFunc(v[kind], w[kind], func(x, y *xds.Resource) bool {
				return x.Name == y.Name && x.Version == y.Version && bytes.Equal(x.Body, y.Body) && slices.Equal(x.Sources, y.Sources)
			}) {
				t.Fatalf("%s: the order of the documents changes resources of %s", p, kind)
			}
		}
	}
}

// checkMessages holds each message of a view, those within messages too, against the rules of its protobuf, and what
// it names against the view.
func checkMessages(t *testing.T, v xds.View) {
	t.Helper()
	clusters, endpoints := make(map[string]bool), make(map[string]bool)
	for _, r := range v[xds.EndpointType] {
		endpoints[r.Name] = true
	}
	for _, r := range v[xds.ClusterType] {
		clusters[r.Name] = true
	}
	for kind, resources := range v {
		if !slices.IsSortedFunc(resources, func(x, y *xds.Resource) int { return strings.Compare(x.Name, y.Name) }) {
			t.Errorf("%s is not sorted by name", kind)
		}
		for _, r := range resources {
			m, err := (&anypb.Any{TypeUrl: r.Type, Value: r.Body}).UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			if c, ok := m.(*clusterv3.Cluster); ok && c.GetType() == clusterv3.Cluster_EDS && !endpoints[xds.EndpointsOf(r.Name)] {
				t.Errorf("cluster %s has no endpoints resource", r.Name)
			}
			checkMessage(t, r, m, clusters)
		}
	}
}

func checkMessage(t *testing.T, r *xds.Resource, m proto.Message, clusters map[string]bool) {
	t.Helper()
	valid := func(m any) {
		if v, ok := m.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
	}
	valid(m)
	err := protorange.Range(m.ProtoReflect(), func(p protopath.Values) error {
		last := p.Index(-1)
		switch last.Step.Kind() {
		case protopath.AnyExpandStep:
			valid(last.Value.Message().Interface())
		case protopath.FieldAccessStep:
			field := last.Step.FieldDescriptor()
			refers := field.Name() == "cluster" && (field.Parent().Name() == "RouteAction" || field.Parent().Name() == "RequestMirrorPolicy") ||
				field.Name() == "name" && field.Parent().Name() == "ClusterWeight" ||
				field.Name() == "cluster_name" && field.Parent().Name() == "EnvoyGrpc" && last.Value.String() != "weir/ratelimit"
			if refers && !clusters[last.Value.String()] {
				t.Errorf("%s names the cluster %q, which is not there", r.Name, last.Value)
			}
		default:
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", r.Name, err)
	}
}
