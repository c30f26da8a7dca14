package explain_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

var now = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// TestGolden holds what people read against stories: request/NAME has the request in its first line, headers in the
// lines after that, and, where the first line begins with "service NAME:", who asks. Of the first archive JSON too.
func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		m := load(t, string(files["policy.yaml"]))
		out := make(map[string][]byte)
		for file, data := range files {
			name, ok := strings.CutPrefix(file, "request/")
			if !ok {
				continue
			}
			x := explained(t, m, string(data))
			out[name] = []byte(x.Text())
			if strings.HasPrefix(name, "json-") {
				var b bytes.Buffer
				enc := json.NewEncoder(&b)
				enc.SetIndent("", "  ")
				if err := enc.Encode(x); err != nil {
					t.Fatal(err)
				}
				out[name] = b.Bytes()
			}
		}
		return out
	})
}

func explained(t *testing.T, m *mesh.Model, text string) *explain.Explanation {
	t.Helper()
	line, headers, _ := strings.Cut(strings.TrimSpace(text), "\n")
	var proxy *mesh.Proxy
	if rest, ok := strings.CutPrefix(line, "service "); ok {
		name, request, _ := strings.Cut(rest, ": ")
		proxy, line = &mesh.Proxy{Role: mesh.RoleService, Ref: policy.ParseRef(name, "")}, request
	}
	var lines []string
	if headers != "" {
		lines = strings.Split(headers, "\n")
	}
	r, err := explain.ParseRequest(line, lines)
	if err != nil {
		t.Fatal(err)
	}
	x, err := explain.Explain(m, proxy, r, now)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestParseRequest(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.b":                       "GET https a.b /",
		"POST http://u:p@a.b:80?x=1#y":      "POST http a.b:80 /?x=1",
		" PUT   HTTP://A.b/c%2fd?e=/../#f ": "PUT http A.b /c%2fd?e=/../",
		"/cart":                             "",
		"GET ftp://a":                       "",
		"GET http:///a":                     "",
	} {
		r, err := explain.ParseRequest(text, nil)
		got := r.Method + " " + r.Scheme + " " + r.Authority + " " + r.Path
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q (%v), want %q", text, got, err, want)
		}
	}
	if r, err := explain.ParseRequest("http://a", []string{"Host: b:1", "x-a:  1 "}); err != nil || r.Authority != "b:1" || r.Headers[0].Value != "1" {
		t.Errorf("headers: %+v, %v", r, err)
	}
	for _, header := range []string{"x", ": v", "a b: c"} {
		if _, err := explain.ParseRequest("http://a", []string{header}); err == nil {
			t.Errorf("the header %q is taken", header)
		}
	}
}

// TestWhichListener: of the request's scheme and port, that serves the host; what had to be taken for granted is said.
func TestWhichListener(t *testing.T) {
	m := load(t, `
kind: Gateway
metadata: {name: edge}
spec:
  listeners:
    - {name: http, port: 80, httpsRedirect: 443}
    - {name: https, port: 443, protocol: https, tls: {certificate: /c, key: /k}}
    - {name: plain, port: 8080}
  services: [shop/*]
---
kind: Gateway
metadata: {name: partners}
spec: {listeners: [{name: http, port: 8080}], services: [partner]}
---
kind: Service
metadata: {name: cart, namespace: shop}
spec: {endpoints: {none: true}}
---
kind: Service
metadata: {name: partner}
spec: {endpoints: {none: true}}
`)
	gateway := func(name string) *mesh.Proxy {
		return &mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: name}}
	}
	for _, c := range []struct {
		proxy         *mesh.Proxy
		url, listener string
		notes         string
		outcome       explain.Outcome
	}{
		{nil, "http://cart.shop", "gateway edge http", "", explain.Outcome{Kind: "redirected", Status: 301, Location: "https://cart.shop/"}},
		{nil, "http://cart.shop:80", "gateway edge http", "", explain.Outcome{Kind: "redirected", Status: 301, Location: "https://cart.shop:443/"}},
		{nil, "https://cart.shop", "gateway edge https", "", explain.Outcome{Kind: "unavailable", Status: 503}},
		{nil, "http://cart.shop:8080", "gateway edge plain", "", explain.Outcome{Kind: "unavailable", Status: 503}},
		{nil, "http://partner:8080", "gateway partners http", "", explain.Outcome{Kind: "unavailable", Status: 503}},
		{gateway("partners"), "https://partner", "gateway partners http", "no listener takes https: explained at the listener http", explain.Outcome{Kind: "unavailable", Status: 503}},
		{gateway("edge"), "http://partner:8080", "gateway edge plain", "", explain.Outcome{Kind: "notFound", Status: 404}},
		{&mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Name: "partner"}}, "http://cart.shop", "service partner outbound", "", explain.Outcome{Kind: "unavailable", Status: 503}},
	} {
		r, err := explain.ParseRequest(c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := explain.Explain(m, c.proxy, r, now)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		o := x.Outcome
		o.Reason = ""
		if at := x.Listener.Proxy + " " + x.Listener.Name; at != c.listener || strings.Join(x.Notes, "; ") != c.notes || o != c.outcome {
			t.Errorf("%s: %s, %q, %+v; want %s, %q, %+v", c.url, at, x.Notes, o, c.listener, c.notes, c.outcome)
		}
	}
	for _, p := range []*mesh.Proxy{gateway("nobody"), {Role: mesh.RoleService, Ref: policy.Ref{Name: "nobody"}}} {
		if _, err := explain.Explain(m, p, explain.Request{}, now); err == nil {
			t.Errorf("%s is there", p)
		}
	}
}
