package e2e_test

import (
	"net/http"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

func TestCORS(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, `  cors: {allowOrigins: ["*"]}
`)+checkoutRoute+`    - name: pay
      match: {path: {prefix: /pay}, methods: [POST, PUT], headers: [{name: x-group, exact: beta}]}
      rateLimit: {requests: 0, per: hour}
      cors:
        allowOrigins: [https://shop.example.com, "https://*.example.org", "http://*:8443"]
        allowMethods: [POST, PUT]
        allowHeaders: [content-type, x-group]
        exposeHeaders: [x-total]
        allowCredentials: true
        maxAge: 1h
    - {name: old, match: {path: {prefix: /pay}}, directResponse: {status: 410}, cors: {allowOrigins: []}}
    - name: closed
      match: {path: {prefix: /closed}}
      maintenance: {json: '{}'}
      cors: {allowOrigins: [https://shop.example.com], allowCredentials: true, allowMethods: ["*"], exposeHeaders: [x-total]}
    - {name: own, match: {path: {prefix: /own}}, cors: {allowOrigins: [https://shop.example.com]}}
    - {name: rest}
`)
	ask := func(path, origin, method string) response {
		t.Helper()
		return w.mustDo(request{method: http.MethodOptions, host: checkout.host, path: path, headers: map[string]string{
			"Origin": origin, "Access-Control-Request-Method": method,
		}})
	}
	allowed := map[string]string{
		"https://shop.example.com": "POST", "https://a.example.org": "PUT", "https://a.b.example.org": "POST", "http://localhost:8443": "PUT",
	}
	for origin, method := range allowed {
		got := ask("/pay/now", origin, method)
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "POST,PUT", "Access-Control-Allow-Headers": "content-type,x-group",
			"Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "3600",
		} {
			if got.header.Get(name) != want {
				t.Errorf("preflight from %s: %d, %s is %q, want %q", origin, got.status, name, got.header.Get(name), want)
			}
		}
	}
	for _, origin := range []string{
		"https://example.org", "http://a.example.org", "https://a.example.org:1", "https://a.example.org.evil.com", "https://aexample.org",
		"https://shopxexample.com", "null", "http://localhost",
	} {
		if got := ask("/pay", origin, "POST"); got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s may call: %d %v", origin, got.status, got.header)
		}
	}
	if got := ask("/own", "https://evil.example.com", "GET"); got.header.Get("Access-Control-Allow-Origin") != "" || got.body == "up" {
		t.Errorf("a stranger's preflight: %d %s %v", got.status, got.body, got.header)
	}
	if n := up.Requests.Load(); n > 0 {
		t.Errorf("%d preflight requests reached the service", n)
	}

	// Another method is another rule's.
	if got := ask("/pay", "https://shop.example.com", "DELETE"); got.status != http.StatusGone || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another method: %d %v", got.status, got.header)
	}
	// What refuses the request itself may be read by the page.
	got := w.mustDo(request{method: http.MethodPost, host: checkout.host, path: "/pay", headers: map[string]string{
		"Origin": "https://shop.example.com", "X-Group": "beta",
	}})
	if got.status != http.StatusTooManyRequests || got.header.Get("Access-Control-Allow-Origin") != "https://shop.example.com" || got.header.Get("Access-Control-Expose-Headers") != "x-total" {
		t.Errorf("a refused request: %d %v", got.status, got.header)
	}
	// So may what Envoy answers by itself.
	if got := ask("/closed", "https://shop.example.com", "PATCH"); got.status != 200 || got.header.Get("Access-Control-Allow-Methods") != "PATCH" {
		t.Errorf("preflight in maintenance: %d %v", got.status, got.header)
	}
	for origin, want := range map[string]string{"https://shop.example.com": "https://shop.example.com", "https://evil.example.com": "", "": ""} {
		got := w.mustDo(request{host: checkout.host, path: "/closed", headers: map[string]string{"Origin": origin, "Accept": "application/json"}})
		if got.status != http.StatusServiceUnavailable || got.body != "{}" || got.header.Get("Access-Control-Allow-Origin") != want ||
			(got.header.Get("Access-Control-Expose-Headers") == "x-total") != (want != "") || (got.header.Get("Access-Control-Allow-Credentials") == "true") != (want != "") ||
			got.header.Get("Vary") == "" {
			t.Errorf("maintenance, from %q: %d %q %v", origin, got.status, got.body, got.header)
		}
	}
	// The service's own, for the rule that has none.
	if got := ask("/", "https://any.where", "GET"); got.header.Get("Access-Control-Allow-Origin") != "https://any.where" || got.header.Get("Access-Control-Max-Age") != "5" {
		t.Errorf("preflight of the service's: %d %v", got.status, got.header)
	}
	got = w.mustDo(request{host: checkout.host, path: "/", headers: map[string]string{"Origin": "https://any.where"}})
	if got.body != "up" || got.header.Get("Access-Control-Allow-Origin") != "https://any.where" || got.header.Get("Vary") != "Origin" {
		t.Errorf("a request: %d %v", got.status, got.header)
	}
	if got := w.mustDo(checkout); got.body != "up" || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a request of no page: %d %v", got.status, got.header)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
