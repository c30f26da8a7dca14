package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// service is a service of one upstream with the given extra lines in its spec.
func service(name, address, more string) string {
	return fmt.Sprintf(`
---
kind: Service
metadata: {name: %s, namespace: shop}
spec:
  hosts: [%s.example.com]
  endpoints: {static: [{address: 127.0.0.1, port: %s}]}
%s
`, name, name, port(address), more)
}

// checkoutRoute begins the Route of the service checkout: its rules come next.
const checkoutRoute = `
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
`

// uuid is a regular expression that Envoy, left to itself, takes no two of.
const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

func TestMatchesAndHeaders(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, strings.Replace(shop(v1.Address, v2.Address, 1, 0), "  rules:\n", `  rules:
    - {name: exact, match: {path: {exact: /exact}}, to: [{version: v2}]}
    - {name: prefix, match: {path: {prefix: /cart}}, to: [{version: v2}]}
    - {name: regex, match: {path: {regex: "/items/[0-9]+"}}, to: [{version: v2}]}
    - {name: long-regex, match: {path: {regex: "/users/`+uuid+`/orders/`+uuid+`"}}, to: [{version: v2}]}
    - {name: method, match: {methods: [PUT, DELETE]}, to: [{version: v2}]}
    - {name: header, match: {headers: [{name: x-user-group, exact: beta}]}, to: [{version: v2}]}
    - {name: query, match: {query: [{name: debug, present: true}]}, to: [{version: v2}]}
    - {name: values, match: {path: {exact: /values}, headers: [{name: x-a, prefix: be}, {name: x-b, regex: "be.*|z"}, {name: x-c, present: false}]}, to: [{version: v2}]}
    - {name: query-exact, match: {path: {exact: /query}, query: [{name: group, exact: beta}, {name: off, present: false}]}, to: [{version: v2}]}
    - {name: query-forms, match: {path: {exact: /forms}, query: [{name: a, prefix: be}, {name: b, regex: "be.*|z"}]}, to: [{version: v2}]}
    - name: headers
      match: {path: {prefix: /headers}}
      to: [{version: v1}]
      requestHeaders: {add: {x-mesh: weir}, set: {x-env: prod}, remove: [x-debug]}
      responseHeaders: {set: {x-served-by: "%UPSTREAM_CLUSTER%"}, remove: [server]}
`, 1))
	for _, c := range []struct {
		r    request
		want string
	}{
		{request{path: "/"}, "v1"},
		{request{path: "/exact"}, "v2"},
		{request{path: "/exact/more"}, "v1"},
		{request{path: "/cart"}, "v2"},
		{request{path: "/cart/1"}, "v2"},
		{request{path: "/cartoon"}, "v1"},
		{request{path: "/items/12"}, "v2"},
		{request{path: "/items/x12"}, "v1"},
		{request{path: "/items/12/more"}, "v1"}, // the whole path
		{request{path: "/of/items/12"}, "v1"},
		{request{path: "/users/9289692e-f19c-91da-9af3-6bafaabd84ba/orders/747dcf6a-64e0-9e29-bff0-3dd3d1c0c30a"}, "v2"},
		{request{path: "/users/9289692e-f19c-91da-9af3-6bafaabd84ba/orders/7"}, "v1"},
		{request{path: "/", method: http.MethodPut}, "v2"},
		{request{path: "/", headers: map[string]string{"X-User-Group": "beta"}}, "v2"},
		{request{path: "/", headers: map[string]string{"X-User-Group": "alpha"}}, "v1"},
		{request{path: "/", headers: map[string]string{"X-User-Group": "betas"}}, "v1"},
		{request{path: "/values", headers: map[string]string{"X-A": "better", "X-B": "z"}}, "v2"},
		{request{path: "/values", headers: map[string]string{"X-A": "alpha", "X-B": "z"}}, "v1"},
		{request{path: "/values", headers: map[string]string{"X-A": "better", "X-B": "zz"}}, "v1"}, // the whole value
		{request{path: "/values", headers: map[string]string{"X-A": "better", "X-B": "z", "X-C": ""}}, "v1"},
		{request{path: "/values", headers: map[string]string{"X-A": "better"}}, "v1"},
		{request{path: "/?debug=1"}, "v2"},
		{request{path: "/query?x=1&group=beta"}, "v2"},
		{request{path: "/query?group=betas"}, "v1"},
		{request{path: "/query?group=alpha&group=beta"}, "v1"}, // the first counts
		{request{path: "/query?group=beta&off"}, "v1"},
		{request{path: "/query"}, "v1"},
		{request{path: "/forms?a=better&b=z"}, "v2"},
		{request{path: "/forms?a=alpha&b=z"}, "v1"},
		{request{path: "/forms?a=better&b=zz"}, "v1"},
	} {
		c.r.host = checkout.host
		if got := w.mustDo(c.r); got.body != c.want {
			t.Errorf("%+v: answered by %q (%d), want %q", c.r, got.body, got.status, c.want)
		}
	}
	got := w.mustDo(request{host: checkout.host, path: "/headers", headers: map[string]string{"X-Env": "test", "X-Debug": "1"}})
	for name, want := range map[string]string{
		"Echo-X-Mesh": "weir", "Echo-X-Env": "prod", "Echo-X-Debug": "", "X-Served-By": "shop/checkout/v1", "Server": "",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got := w.mustDo(request{host: "checkout.example.com:1234", path: "/"}); got.status != http.StatusOK {
		t.Errorf("a host with a port: %d", got.status)
	}
	if got := w.mustDo(request{host: "unknown.example.com", path: "/"}); got.status != http.StatusNotFound {
		t.Errorf("an unknown host: %d", got.status)
	}
}

func TestRateLimits(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	limit := func(name, scope, more string) string {
		return fmt.Sprintf("---\nkind: RateLimit\nmetadata: {name: %s, namespace: shop}\nspec:\n  service: %s\n  scope: %s\n%s", name, name, scope, more)
	}
	tenants := `  limits:
    - {by: [{header: x-tenant}], requests: 3, per: hour}
    - {by: [{header: x-tenant, exact: gold}], requests: 5, per: hour}
`
	w := newWorld(t, service("global", up.Address, "")+limit("global", "global", tenants)+
		service("local", up.Address, "")+limit("local", "local", tenants)+
		service("shadow", up.Address, "")+limit("shadow", "global", "  limits: [{requests: 1, per: hour, shadow: true}]\n")+
		service("denied", up.Address, "")+limit("denied", "global", "  limits: [{requests: 1000, per: second}]\n  onError: deny\n"))
	passed := func(host, tenant string) (n int, refused response) {
		for range 10 {
			r := request{host: host + ".example.com", path: "/"}
			if tenant != "" {
				r.headers = map[string]string{"X-Tenant": tenant}
			}
			got := w.mustDo(r)
			switch got.status {
			case http.StatusOK:
				n++
			case http.StatusTooManyRequests:
				refused = got
			default:
				t.Fatalf("%s: status %d %s", host, got.status, got.body)
			}
		}
		return n, refused
	}
	for _, scope := range []string{"global", "local"} {
		for tenant, want := range map[string]int{"a": 3, "b": 3, "gold": 5, "": 3, "caf\xe9": 3, "caf\xe8": 3} {
			n, refused := passed(scope, tenant)
			if n != want {
				t.Errorf("%s, tenant %q: %d of 10 pass, want %d", scope, tenant, n, want)
			}
			after, err := strconv.Atoi(refused.header.Get("Retry-After"))
			if err != nil || after < 1 || after > 3600 {
				t.Errorf("%s: Retry-After is %q", scope, refused.header.Get("Retry-After"))
			}
			if refused.header.Get("X-Ratelimit-Limit") == "" || refused.header.Get("X-Ratelimit-Remaining") != "0" {
				t.Errorf("%s: headers %v", scope, refused.header)
			}
		}
	}
	if n, _ := passed("shadow", ""); n != 10 {
		t.Errorf("shadow: %d of 10 pass, want all", n)
	}
	// Without the service, onError decides.
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := w.mustDo(request{host: "global.example.com", path: "/", headers: map[string]string{"X-Tenant": "a"}}); got.status != http.StatusOK {
		t.Errorf("onError: allow answers %d", got.status)
	}
	if got := w.mustDo(request{host: "denied.example.com", path: "/"}); got.status != http.StatusServiceUnavailable {
		t.Errorf("onError: deny answers %d", got.status)
	}
}

func TestTimeoutsAndRetries(t *testing.T) {
	flaky := envoytest.Upstream(t, "flaky")
	var tries atomic.Int64
	flaky.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return true
		}
		if tries.Add(1)%3 != 0 {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	w := newWorld(t, service("patient", flaky.Address, "  timeout: 300ms\n  retries: {attempts: 2, on: [5xx]}")+
		service("hasty", flaky.Address, ""))
	for range 5 {
		if got := w.mustDo(request{host: "patient.example.com", path: "/"}); got.status != http.StatusOK {
			t.Errorf("with retries: %d", got.status)
		}
	}
	if got := w.mustDo(request{host: "hasty.example.com", path: "/"}); got.status != http.StatusServiceUnavailable {
		t.Errorf("without retries: %d", got.status)
	}
	if got := w.mustDo(request{host: "patient.example.com", path: "/slow"}); got.status != http.StatusGatewayTimeout {
		t.Errorf("slower than its timeout: %d", got.status)
	}
}

func TestUnhealthyEndpointsAreLeftOut(t *testing.T) {
	good, bad := envoytest.Upstream(t, "good"), envoytest.Upstream(t, "bad")
	var ill atomic.Bool
	bad.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/healthz" && !ill.Load() {
			return false
		}
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	}
	two := fmt.Sprintf("endpoints: {static: [{address: 127.0.0.1, port: %s}, {address: 127.0.0.1, port: %s}]}", port(good.Address), port(bad.Address))
	withTwo := func(name, more string) string {
		return strings.Replace(service(name, good.Address, more), fmt.Sprintf("endpoints: {static: [{address: 127.0.0.1, port: %s}]}", port(good.Address)), two, 1)
	}
	w := newWorld(t, withTwo("checked", "  healthCheck: {interval: 50ms, timeout: 1s, unhealthy: 1, healthy: 1}")+
		withTwo("watched", "  outlierDetection: {consecutive5xx: 2, interval: 50ms, ejectFor: 1m}"))
	ill.Store(true)
	for _, host := range []string{"checked", "watched"} {
		w.eventually(host+" leaves out the endpoint that fails", func() error {
			for range 20 {
				if got := w.mustDo(request{host: host + ".example.com", path: "/"}); got.body != "good" {
					return fmt.Errorf("status %d", got.status)
				}
			}
			return nil
		})
	}
}

func TestStatusCommandKnowsTheProxy(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("one", up.Address, ""))
	out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
	if err != nil || !strings.Contains(out, "gateway~edge~") || !strings.Contains(out, "1.40.0") || !strings.Contains(out, "yes") {
		t.Errorf("weir status: %v\n%s", err, out)
	}
	w.write("broken.yaml", "kind: Service\nmetadata: {name: x}\nspec: {portt: 1}\n")
	w.eventually("status exits 1 and names the mistake", func() error {
		out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
		if err == nil || !strings.Contains(out, `did you mean "port"`) {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// TestLocalLimitsAndChanges: tokens that are spent stay spent when endpoints and routes change.
func TestLocalLimitsAndChanges(t *testing.T) {
	up, another := envoytest.Upstream(t, "up"), envoytest.Upstream(t, "another")
	documents := func(other *envoytest.Server, generation string) string {
		return service("limited", up.Address, "") + `---
kind: Route
metadata: {name: limited, namespace: shop}
spec:
  service: limited
  rules:
    - {name: own, match: {path: {prefix: /own}}, rateLimit: {requests: 4, per: hour, scope: local}}
    - {name: rest}
---
kind: RateLimit
metadata: {name: limited, namespace: shop}
spec: {service: limited, scope: local, limits: [{by: [{header: x-tenant}], requests: 3, per: hour}]}
` + service("other", other.Address, "") + `---
kind: Route
metadata: {name: other, namespace: shop}
spec: {service: other, rules: [{name: all, responseHeaders: {set: {x-generation: "` + generation + `"}}}]}
`
	}
	w := newWorld(t, documents(up, "1"))
	requests := 0
	passed := func(path string) (n int) {
		for range 10 {
			requests++
			r := request{host: "limited.example.com", path: path, headers: map[string]string{"X-Tenant": "a"}}
			if path == "/own" { // each of a tenant of its own, so that the rule's limit is the only one
				r.headers["X-Tenant"] = strconv.Itoa(requests)
			}
			if w.mustDo(r).status == http.StatusOK {
				n++
			}
		}
		return n
	}
	expect := func(when string, service, rule int) {
		t.Helper()
		if s, r := passed("/"), passed("/own"); s != service || r != rule {
			t.Errorf("%s: %d pass the service's limit and %d the rule's, want %d and %d", when, s, r, service, rule)
		}
	}
	changed := func(name, generation string) {
		t.Helper()
		w.eventually("the other service is changed", func() error {
			got := w.mustDo(request{host: "other.example.com", path: "/"})
			if got.header.Get("X-Generation") != generation {
				return fmt.Errorf("generation %q", got.header.Get("X-Generation"))
			}
			return answeredBy(got, name)
		})
	}
	expect("at first", 3, 4)
	expect("when they are spent", 0, 0)
	w.write("mesh.yaml", documents(another, "1"))
	changed("another", "1")
	expect("another service's endpoints have changed", 0, 0)
	w.write("mesh.yaml", documents(another, "2"))
	changed("another", "2")
	expect("another service's route has changed", 0, 0)
}

// TestAProxyBeforeItsDocument: a proxy that no document has waits, as status says, and is served when one does.
func TestAProxyBeforeItsDocument(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("one", up.Address, ""))
	addresses := freePorts(t, 2)
	bootstrap, err := exec.CommandContext(t.Context(), weirBinary, "bootstrap", "--gateway", "infra/second", "--xds", w.args[4], "--admin", addresses[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	envoytest.Start(t, bootstrap)
	w.eventually("status names the proxy", func() error {
		out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "gateway~infra/second~") && strings.HasSuffix(line, "no: no document of this name\n") {
				return err
			}
		}
		return fmt.Errorf("%w\n%s", errors.Join(err, errors.New("no such line")), out)
	})
	w.write("second.yaml", "kind: Gateway\nmetadata: {name: second, namespace: infra}\nspec: {address: 127.0.0.1, listeners: [{name: http, port: "+port(addresses[1])+"}]}\n")
	w.answers(addresses[1])
}
