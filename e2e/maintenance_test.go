package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/policy"
)

const closed = `  maintenance:
    body: closed
    html: <h1>closed</h1>
    json: '{"closed":true}'
    retryAfter: 10m
    unless: {headers: [{name: x-operator, exact: "yes"}], path: {prefix: /work}}
`

func TestLargeMaintenancePage(t *testing.T) {
	up := envoytest.Upstream(t, "open")
	page := strings.Repeat("closed ", policy.MaxBody/7)
	w := newWorld(t, service("checkout", up.Address, "  maintenance: {html: "+page+"}"))
	got := w.mustDo(request{host: checkout.host, path: "/", headers: map[string]string{"Accept": "text/html"}})
	if want := strings.TrimSpace(page); got.status != 503 || got.body != want {
		t.Errorf("%d with %d bytes, want 503 with %d", got.status, len(got.body), len(want))
	}
}

func TestMaintenance(t *testing.T) {
	up := envoytest.Upstream(t, "open")
	route := checkoutRoute + `    - {name: status, match: {path: {exact: /status}}, maintenance: {unless: {}}}
    - {name: admin, match: {path: {prefix: /admin}}, maintenance: {status: 502, unless: {query: [{name: key, exact: k}]}}}
    - {name: moved, match: {path: {prefix: /moved}}, redirect: {path: {replaceFullPath: /status}}}
    - {name: limited, match: {path: {prefix: /limited}}, rateLimit: {requests: 0, per: second}}
    - {name: limited-here, match: {path: {prefix: /limited-here}}, rateLimit: {requests: 0, per: second, scope: local}}
    - {name: rest}
`
	w := newWorld(t, service("checkout", up.Address, "")+route)
	want := func(what string, r request, status int, body, contentType string) {
		t.Helper()
		r.host = checkout.host
		got := w.mustDo(r)
		if got.status != status || got.body != body || contentType != "" && got.header.Get("Content-Type") != contentType {
			t.Errorf("%s: %d %q %q, want %d %q %q", what, got.status, got.body, got.header.Get("Content-Type"), status, body, contentType)
		}
		if vary := got.header.Get("Vary"); status == 503 && vary != "Accept" {
			t.Errorf("%s: Vary is %q, want Accept", what, vary)
		}
		if retry := got.header.Get("Retry-After"); status == 503 && retry != "600" {
			t.Errorf("%s: Retry-After is %q, want 600", what, retry)
		}
	}
	accept := func(s string) map[string]string { return map[string]string{"Accept": s} }
	operator := map[string]string{"X-Operator": "yes"}

	// Of one rule: the others know nothing of it.
	want("a rule without it", request{path: "/"}, 200, "open", "")
	want("a rule's own", request{path: "/admin"}, 502, "", "")
	want("past a rule's own", request{path: "/admin?key=k"}, 200, "open", "")

	// Of the service: every rule but those that have their own.
	w.write("mesh.yaml", service("checkout", up.Address, closed)+route)
	w.eventually("the service closes", func() error {
		if got := w.mustDo(request{host: checkout.host, path: "/"}); got.status != 503 {
			return fmt.Errorf("status %d", got.status)
		}
		return nil
	})
	before := up.Requests.Load()
	const html, json, plain = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
	want("no Accept", request{path: "/"}, 503, "closed", plain)
	want("anything", request{path: "/", headers: accept("*/*")}, 503, "closed", plain)
	want("a browser", request{path: "/", headers: accept("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")}, 503, "<h1>closed</h1>", html)
	want("a script", request{path: "/", headers: accept("Application/JSON, text/plain, */*")}, 503, `{"closed":true}`, json)
	want("JSON before HTML", request{path: "/", headers: accept("application/json, text/html;q=0.5")}, 503, `{"closed":true}`, json)
	want("a problem", request{path: "/", headers: accept("application/problem+json")}, 503, `{"closed":true}`, json)
	want("a redirect's rule", request{path: "/moved"}, 503, "closed", plain)
	want("no limit is asked", request{path: "/limited"}, 503, "closed", plain)
	want("no limit of the rule holds", request{path: "/limited-here"}, 503, "closed", plain)
	want("half an operator", request{path: "/", headers: operator}, 503, "closed", plain)
	want("half an operator", request{path: "/work"}, 503, "closed", plain)
	want("beside the path", request{path: "/workshop", headers: operator}, 503, "closed", plain)
	want("a rule's own still", request{path: "/admin"}, 502, "", "")
	if n := up.Requests.Load() - before; n > 0 {
		t.Errorf("%d requests reached the service in maintenance", n)
	}
	for _, path := range []string{"/work", "/work/", "/work?a=b", "/work/a?b"} {
		want("an operator", request{path: path, headers: operator}, 200, "open", "")
	}
	want("a rule that lets all through", request{path: "/status"}, 200, "open", "")

	w.write("mesh.yaml", service("checkout", up.Address, "")+route)
	w.eventually("the service opens", func() error {
		if got := w.mustDo(request{host: checkout.host, path: "/"}); got.status != 200 {
			return fmt.Errorf("status %d", got.status)
		}
		return nil
	})
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
