package e2e_test

import (
	"net/http"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// redirecting is a service with a rule for each form of redirect, rewrite and direct response.
const redirecting = checkoutRoute + `    - {name: secure, match: {headers: [{name: x-insecure, present: true}]}, redirect: {scheme: https, statusCode: 301}}
    - {name: moved, match: {path: {prefix: /old/}}, redirect: {hostname: new.example.com, path: {replacePrefixMatch: /new/}}}
    - {name: root, match: {path: {prefix: /up}}, redirect: {path: {replacePrefixMatch: /}, statusCode: 307}}
    - {name: port, match: {path: {exact: /port}}, redirect: {scheme: https, port: 8443, path: {replaceFullPath: /here}, stripQuery: true, statusCode: 308}}
    - {name: numbered, match: {path: {prefix: /item}}, redirect: {path: {regex: {pattern: "^/item/([0-9]+)$", substitution: '/items/\1'}}, statusCode: 303}}
    - {name: xyz, match: {path: {prefix: /foo}}, urlRewrite: {hostname: inner.example.com, path: {replacePrefixMatch: /xyz}}}
    - {name: xyz-slash, match: {path: {prefix: /bar/}}, urlRewrite: {path: {replacePrefixMatch: /xyz/}}}
    - {name: drop, match: {path: {prefix: /drop}}, urlRewrite: {path: {replacePrefixMatch: ""}}}
    - {name: drop-slash, match: {path: {prefix: /cut/}}, urlRewrite: {path: {replacePrefixMatch: /}}}
    - {name: full, match: {path: {prefix: /full}}, urlRewrite: {path: {replaceFullPath: '/a\1'}}}
    - {name: regex, match: {path: {prefix: /users}}, urlRewrite: {path: {regex: {pattern: "^/users/([^/]+)/", substitution: '/u/\1/x/'}}}}
    - name: robots
      match: {path: {exact: /robots.txt}}
      directResponse: {status: 200, body: "User-agent: *\n"}
      responseHeaders: {set: {x-by: "100%%", x-not: here}, remove: [x-not]}
    - {name: json, match: {path: {exact: /config.json}}, directResponse: {status: 203, body: '{"a":1}', contentType: application/json}}
    - {name: gone, match: {path: {prefix: /gone}}, directResponse: {status: 410}}
    - {name: under, match: {path: {prefix: /}}, urlRewrite: {path: {replacePrefixMatch: /app}}}
`

func TestRedirectsRewritesAndDirectResponses(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		_, _ = rw.Write([]byte(r.Host + r.RequestURI))
		return true
	}
	w := newWorld(t, service("checkout", up.Address, "")+redirecting)
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	insecure := map[string]string{"X-Insecure": "1"}
	for _, c := range []struct {
		host, path string
		headers    map[string]string
		status     int
		location   string
	}{
		{"", "/a?b=c", insecure, 301, "https://checkout.example.com/a?b=c"},
		{"checkout.example.com:8080", "/a", insecure, 301, "https://checkout.example.com:443/a"}, // its port is https's
		{"", "/old/a?b=c", nil, 302, "http://new.example.com/new/a?b=c"},
		{"", "/old", nil, 302, "http://new.example.com/new"},
		{"checkout.example.com:8080", "/up/a/b", nil, 307, "http://checkout.example.com:8080/a/b"},
		{"", "/up", nil, 307, "http://checkout.example.com/"},
		{"", "/port?b=c", nil, 308, "https://checkout.example.com:8443/here"},
		{"", "/item/12?b", nil, 303, "http://checkout.example.com/items/12?b"},
	} {
		host := c.host
		if host == "" {
			host = checkout.host
		}
		got := w.mustDo(request{host: host, path: c.path, headers: c.headers})
		if got.status != c.status || got.header.Get("Location") != c.location {
			t.Errorf("%s%s: %d %q, want %d %q", host, c.path, got.status, got.header.Get("Location"), c.status, c.location)
		}
	}
	if n := up.Requests.Load(); n > 0 {
		t.Errorf("%d redirected requests reached the service", n)
	}

	// The table of Gateway API's ReplacePrefixMatch, and the other forms.
	for path, want := range map[string]string{
		"/foo/bar": "inner.example.com/xyz/bar", "/foo": "inner.example.com/xyz", "/foo/": "inner.example.com/xyz/",
		"/foo/bar?q=1": "inner.example.com/xyz/bar?q=1", "/foobar": "/app/foobar",
		"/bar/foo": "/xyz/foo", "/bar": "/xyz", "/bar/": "/xyz/",
		"/drop/bar": "/bar", "/drop/": "/", "/drop": "/", "/drop?q=1": "/?q=1",
		"/cut/bar": "/bar", "/cut/": "/", "/cut": "/",
		"/full/of/it?q=1": `/a\1?q=1`, "/users/ann/cart": "/u/ann/x/cart",
		"/": "/app/", "/a": "/app/a",
	} {
		if want[0] == '/' {
			want = checkout.host + want
		}
		if got := w.mustDo(request{host: checkout.host, path: path}); got.body != want {
			t.Errorf("%s arrives as %q (%d), want %q", path, got.body, got.status, want)
		}
	}

	up.Requests.Store(0)
	for path, want := range map[string]struct {
		status            int
		body, contentType string
	}{
		"/robots.txt":  {200, "User-agent: *\n", "text/plain"},
		"/config.json": {203, `{"a":1}`, "application/json"},
		"/gone/long":   {410, "", ""},
	} {
		got := w.mustDo(request{host: checkout.host, path: path})
		if got.status != want.status || got.body != want.body || got.header.Get("Content-Type") != want.contentType {
			t.Errorf("%s: %d %q %q, want %+v", path, got.status, got.body, got.header.Get("Content-Type"), want)
		}
	}
	if got := w.mustDo(request{host: checkout.host, path: "/robots.txt"}).header; got.Get("X-By") != "100%" || got.Get("X-Not") != "" {
		t.Errorf("a direct response's headers are %v", got)
	}
	if n := up.Requests.Load(); n > 0 {
		t.Errorf("%d directly answered requests reached the service", n)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
