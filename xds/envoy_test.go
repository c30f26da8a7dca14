package xds_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// gateway is a real Envoy that has the resources of the gateway edge in its bootstrap.
type gateway struct {
	t   *testing.T
	url string
}

// newGateway starts one for the documents, in which $UP is an upstream's port.
func newGateway(t *testing.T, documents string) *gateway {
	t.Helper()
	return newProxy(t, documents, edge)
}

// newProxy starts a proxy's Envoy, with its one listener on a free port.
func newProxy(t *testing.T, documents string, p mesh.Proxy) *gateway {
	t.Helper()
	_, upstream, err := net.SplitHostPort(envoytest.Upstream(t, "up").Address)
	if err != nil {
		t.Fatal(err)
	}
	var ports [2]int
	for i := range ports {
		if ports[i], err = servers.FreePort(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	head := "kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: http, port: 15001}], address: 127.0.0.1}\n"
	text, err := xds.Render(view(t, head+strings.ReplaceAll(documents, "$UP", upstream), p), false)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("port_value: 15001"), fmt.Appendf(nil, "port_value: %d", ports[0]), 1)
	more := fmt.Sprintf("admin:\n  address:\n    socket_address:\n      address: 127.0.0.1\n      port_value: %d\n", ports[1]) +
		"layered_runtime: {layers: [{name: test, static_layer: {tracing.opentelemetry.flush_interval_ms: 50}}]}\n"
	envoytest.Start(t, append(static(t, text), more...))
	return &gateway{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
}

// get asks for a path of a host, with headers as pairs of name and value.
func (g *gateway) get(host, path string, headers ...string) *http.Response {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, g.url+path, http.NoBody)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Host = host
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		g.t.Fatal(err)
	}
	return resp
}

const shop = `---
kind: Service
metadata: {name: shop}
spec: {hosts: [shop.example.com, "*.shop.example.com"], endpoints: {static: [{address: 127.0.0.1, port: $UP}]}}
---
kind: Route
metadata: {name: shop}
spec:
  service: shop
  rules:
    - {name: no-query, match: {path: {prefix: /query}, query: [{name: debug, present: false}]}, responseHeaders: {set: {x-rule: no-query}}}
    - {name: no-header, match: {path: {prefix: /header}, headers: [{name: x-a, present: false}]}, responseHeaders: {set: {x-rule: no-header}}}
    - {name: regex, match: {path: {prefix: /regex}, headers: [{name: x-a, regex: "a|ab"}]}, responseHeaders: {set: {x-rule: regex}}}
    - {name: empty, match: {path: {prefix: /empty}, headers: [{name: x-a, regex: ""}]}, responseHeaders: {set: {x-rule: empty}}}
    - name: order
      match: {path: {prefix: /order}}
      requestHeaders: {add: {x-both: added, x-gone: added, x-new: "%REQ(x-old)%", x-more: added}, set: {x-both: set}, remove: [x-gone, x-old]}
      responseHeaders: {add: {x-was: "%RESP(server)%", x-rule: order}, remove: [server]}
    - {name: nothing, match: {path: {prefix: /nothing}}, rateLimit: {requests: 0, per: hour, scope: local}}
    - {name: one, match: {path: {prefix: /limited/one}}, rateLimit: {requests: 3, per: hour, scope: local}}
    - {name: two, match: {path: {prefix: /limited/two}}}
    - {name: rest, responseHeaders: {set: {x-rule: rest}}}
---
kind: RateLimit
metadata: {name: shop}
spec:
  service: shop
  scope: local
  limits:
    - {by: [{header: x-tenant}], requests: 8, per: hour}
    - {by: [{header: x-tenant, exact: gold}, {header: x-plan, exact: big}], requests: 20, per: hour}
    - {by: [{header: x-tenant, exact: trial}], requests: 1000, per: hour, shadow: true}
`

// TestEnvoyMatches holds what the real Envoy takes a match to be against what the policy says.
func TestEnvoyMatches(t *testing.T) {
	g := newGateway(t, shop)
	for i, c := range []struct{ host, path, header, want string }{
		{"shop.example.com", "/query", "", "no-query"},
		{"shop.example.com", "/query?debug=", "", "rest"},
		{"shop.example.com", "/header", "", "no-header"},
		{"shop.example.com", "/header", "1", "rest"},
		{"shop.example.com", "/regex", "ab", "regex"},
		{"shop.example.com", "/regex", "abc", "rest"},
		{"shop.example.com", "/empty", "a", "rest"},
		{"shop.example.com:1234", "/", "", "rest"},
		{"a.shop.example.com", "/", "", "rest"},
		{"a.shop.example.com:1234", "/", "", "rest"},
		{"SHOP.example.com", "/", "", "rest"},
	} {
		headers := []string{"x-tenant", fmt.Sprint("matches-", i)}
		if c.header != "" {
			headers = append(headers, "x-a", c.header)
		}
		resp := g.get(c.host, c.path, headers...)
		if got := resp.Header.Get("x-rule"); got != c.want {
			t.Errorf("%+v is taken by %q (%d), want %q", c, got, resp.StatusCode, c.want)
		}
	}
}

// TestEnvoyKnowsNamesWithoutEndpoints: a service that runs nowhere has rules all the same, and * takes what no other
// host does.
func TestEnvoyKnowsNamesWithoutEndpoints(t *testing.T) {
	g := newGateway(t, shop+`---
kind: Service
metadata: {name: front}
spec: {hosts: ["*"], endpoints: {none: true}}
---
kind: Route
metadata: {name: front}
spec:
  service: front
  rules:
    - {name: nowhere, match: {path: {prefix: /nowhere}}, responseHeaders: {set: {x-rule: nowhere}}}
    - {name: front, to: [{service: shop}], responseHeaders: {set: {x-rule: front}}}
`)
	for _, c := range []struct {
		host, path, want string
		status           int
	}{
		{"any.example.org", "/", "front", http.StatusOK},
		{"shop.example.com", "/", "rest", http.StatusOK},
		{"any.example.org", "/nowhere", "nowhere", http.StatusServiceUnavailable},
	} {
		resp := g.get(c.host, c.path, "x-tenant", "names")
		if resp.Header.Get("x-rule") != c.want || resp.StatusCode != c.status {
			t.Errorf("%s%s: taken by %q with %d, want %q with %d", c.host, c.path, resp.Header.Get("x-rule"), resp.StatusCode, c.want, c.status)
		}
	}
}

// TestEnvoyChangesHeadersInOrder: add, then set, then remove.
func TestEnvoyChangesHeadersInOrder(t *testing.T) {
	g := newGateway(t, shop)
	resp := g.get("shop.example.com", "/order", "x-both", "client", "x-more", "client", "x-gone", "client", "x-old", "old")
	for name, want := range map[string][]string{
		"Echo-X-Both": {"set"}, "Echo-X-More": {"client", "added"}, "Echo-X-Gone": nil, "Echo-X-Old": nil,
		"Echo-X-New": {"old"}, "X-Was": {"upstream"}, "Server": nil, "X-Rule": {"order"},
	} {
		if got := resp.Header.Values(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestEnvoyLimitsLocally: the rules of a service share its limits, a rule's own limit is counted apart, and nobody is
// left without any.
func TestEnvoyLimitsLocally(t *testing.T) {
	g := newGateway(t, shop)
	passed := func(paths []string, headers ...string) (n int) {
		for i := range 30 {
			resp := g.get("shop.example.com", paths[i%len(paths)], headers...)
			switch {
			case resp.StatusCode == http.StatusOK:
				n++
			case resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "":
				t.Errorf("%v %v: %d, Retry-After %q", paths, headers, resp.StatusCode, resp.Header.Get("Retry-After"))
			}
		}
		return n
	}
	for _, c := range []struct {
		paths   []string
		headers []string
		want    int
	}{
		{[]string{"/", "/limited/two"}, []string{"x-tenant", "a"}, 8},
		{[]string{"/"}, nil, 8},
		{[]string{"/limited/one"}, []string{"x-tenant", "b"}, 3},
		{[]string{"/nothing"}, []string{"x-tenant", "c"}, 0},
		{[]string{"/"}, []string{"x-tenant", "gold"}, 8}, // on another plan
		{[]string{"/"}, []string{"x-tenant", "gold", "x-plan", "big"}, 20},
		{[]string{"/"}, []string{"x-tenant", "trial"}, 8}, // a shadow frees nobody
	} {
		if n := passed(c.paths, c.headers...); n != c.want {
			t.Errorf("%v %v: %d of 30 pass, want %d", c.paths, c.headers, n, c.want)
		}
	}
}

// TestEnvoyTellsTheCollector: spans and logs bear the tags, and whose they are, by which the collector finds the class.
func TestEnvoyTellsTheCollector(t *testing.T) {
	for _, c := range []struct {
		proxy           mesh.Proxy
		name, namespace any
		kind            string
	}{
		{edge, "edge", nil, "Server"},
		{mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "web"}}, "web", "shop", "Client"},
	} {
		collector := envoytest.NewCollector(t)
		g := newProxy(t, fmt.Sprintf(`---
kind: Mesh
metadata: {name: m}
spec:
  tracing: {collector: "%s", tags: [{name: user_id, header: x-user-id}, {name: request_id, header: x-correlation}]}
  accessLog: {to: otlp, only: {status: ">=404"}}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {endpoints: {static: [{address: 127.0.0.1, port: $UP}]}}
`, collector.Address), c.proxy)
		for range 3 {
			g.get("web.shop", "/cart?card=4111", "x-user-id", "u7", "x-correlation", "c9")
		}
		g.get("nobody.example.com", "/", "x-user-id", "u8")
		span := eventually(t, func() (map[string]any, bool) { return find(collector.Spans(), "http.status_code", "200") })
		check(t, "span", span, map[string]any{
			"name": "GET /cart", "kind": c.kind,
			"service.name": c.name, "service.namespace": c.namespace, "user_id": "u7", "request_id": "c9", "http.status_code": "200",
			"upstream_cluster": "shop/web",
		})
		log := eventually(t, func() (map[string]any, bool) { return find(collector.Logs(), "user_id", "u8") })
		if all := collector.Logs(); len(all) != 1 {
			t.Errorf("%d logs of one failure: %v", len(all), all)
		}
		check(t, "log", log, map[string]any{
			"service.name": c.name, "service.namespace": c.namespace, "user_id": "u8", "http.response.status_code": "404",
			"server.address": "nobody.example.com", "http.request.method": "GET",
		})
	}
}

// find gives the first that has the value.
func find(all []map[string]any, name, value string) (map[string]any, bool) {
	for _, one := range all {
		if one[name] == value {
			return one, true
		}
	}
	return nil, false
}

func check(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %s is %v, want %v, in %v", what, name, got[name], value, got)
		}
	}
}

// eventually polls until there is what is wanted.
func eventually[T any](t *testing.T, get func() (T, bool)) T {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		v, ok := get()
		if ok {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
