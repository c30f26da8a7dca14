package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestHeaderChangesInOrder: the service's, then the rule's, then the version's, and in each place add, set, remove; on
// requests, on their retries, on responses, and on what the proxy answers by itself.
func TestHeaderChangesInOrder(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	failed := false
	v2.Handle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/retried" || failed {
			return false
		}
		failed = true
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	text := strings.Replace(shop(v1.Address, v2.Address, 1, 0), "versions: [{name: v1}, {name: v2}]", `
  requestHeaders: {add: {x-list: service, x-over: added}, set: {x-over: set, x-last: service, x-rule: service, x-back: service, x-service: "1"}, remove: [x-debug]}
  responseHeaders: {add: {x-list: service, x-over: added}, set: {x-over: set, x-last: service, x-rule: service, x-cluster: "%UPSTREAM_CLUSTER%"}, remove: [server]}
  versions:
    - {name: v1}
    - name: v2
      requestHeaders: {add: {x-list: version}, set: {x-last: version}, remove: [x-gone]}
      responseHeaders: {add: {x-list: version}, set: {x-last: version, x-version: "%UPSTREAM_CLUSTER%"}, remove: [x-gone]}
`, 1)
	const rule = `
      requestHeaders: {add: {x-list: rule, x-gone: rule, x-new: "%REQ(x-old)%"}, set: {x-last: rule, x-rule: rule, x-debug: rule}, remove: [x-back, x-old]}
      responseHeaders: {add: {x-list: rule, x-gone: rule}, set: {x-last: rule, x-rule: rule}}
`
	w := newWorld(t, strings.Replace(text, "  rules:\n", `  rules:
    - name: one
      match: {path: {prefix: /one}}
      to: [{version: v2}]`+rule+`
    - name: retried
      match: {path: {prefix: /retried}}
      to: [{version: v2}]
      retries: {attempts: 1, on: [5xx]}`+rule+`
    - name: both
      match: {path: {prefix: /both}}
      to: [{version: v1, weight: 0}, {version: v2}]`+rule+`
    - name: other
      match: {path: {prefix: /other}}
      to: [{version: v1}]`+rule+`
    - name: limited
      match: {path: {prefix: /limited}}
      rateLimit: {requests: 0, per: hour, scope: local}
      responseHeaders: {set: {x-last: rule}}
    - name: answered
      match: {path: {prefix: /answered}}
      directResponse: {status: 200, body: here}
      responseHeaders: {set: {x-last: rule}}
    - name: maintained
      match: {path: {prefix: /maintained}}
      maintenance: {body: later}
      responseHeaders: {set: {x-last: rule}}
`, 1))
	w.write("plain.yaml", strings.ReplaceAll(strings.Replace(shop(v1.Address, v2.Address, 0, 1), "{name: v2}",
		"{name: v2, requestHeaders: {set: {x-only: version}}, responseHeaders: {set: {x-only: version}}}", 1), "checkout", "plain"))
	w.eventually("a version alone changes headers", func() error {
		got := w.mustDo(request{host: "plain.example.com"})
		if got.header.Get("X-Only") != "version" || got.header.Get("Echo-X-Only") != "version" {
			return fmt.Errorf("%d: %v", got.status, got.header)
		}
		return nil
	})
	type values map[string][]string
	check := func(path string, want values) {
		t.Helper()
		got := w.mustDo(request{host: checkout.host, path: path, headers: map[string]string{"X-List": "client", "X-Debug": "client", "X-Last": "client", "X-Old": "client"}})
		for name, v := range want {
			if !slices.Equal(got.header.Values(name), v) {
				t.Errorf("%s (%d): %s is %q, want %q", path, got.status, name, got.header.Values(name), v)
			}
		}
	}
	for _, path := range []string{"/one", "/both", "/retried"} {
		check(path, values{
			"Echo-X-List": {"client", "service", "rule", "version"}, "Echo-X-Last": {"version"}, "Echo-X-Rule": {"rule"},
			"Echo-X-Back": nil, "Echo-X-Gone": nil, "Echo-X-Debug": {"rule"}, "Echo-X-Service": {"1"},
			"Echo-X-Over": {"set"}, "X-Over": {"set"}, "Echo-X-New": {"client"}, "Echo-X-Old": nil,
			"X-List": {"service", "rule", "version"}, "X-Last": {"version"}, "X-Rule": {"rule"}, "X-Gone": nil, "Server": nil,
			"X-Cluster": {"shop/checkout/v2"}, "X-Version": {"shop/checkout/v2"},
		})
	}
	if !failed {
		t.Error("nothing was retried")
	}
	check("/other", values{
		"Echo-X-List": {"client", "service", "rule"}, "Echo-X-Last": {"rule"}, "Echo-X-Gone": {"rule"},
		"X-List": {"service", "rule"}, "X-Last": {"rule"}, "X-Gone": {"rule"}, "X-Version": nil, "X-Cluster": {"shop/checkout/v1"},
	})
	check("/", values{"Echo-X-Last": {"service"}, "Echo-X-Debug": nil, "X-Last": {"service"}, "X-Rule": {"service"}})
	for _, path := range []string{"/limited", "/answered", "/maintained"} {
		check(path, values{"X-List": {"service"}, "X-Last": {"rule"}, "X-Rule": {"service"}, "Server": nil})
	}
}
