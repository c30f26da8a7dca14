package explain_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// author writes documents and requests that have something to do with each other.
type author struct{ *rand.Rand }

func pick[T any](a author, of ...T) T { return of[a.IntN(len(of))] }

func (a author) percent(p int) bool { return a.IntN(100) < p }

func some[T any](a author, most int, item func() T) []any {
	all := []any{}
	for range a.IntN(most + 1) {
		all = append(all, item())
	}
	return all
}

// host is of few letters, so that exact ones and wildcards meet.
func (a author) host() string {
	labels := make([]string, 1+a.IntN(3))
	for i := range labels {
		labels[i] = pick(a, "a", "b", "cc", "d-1")
	}
	return strings.Join(append(labels, "example"), ".")
}

func (a author) world() world {
	w := world{Inside: a.percent(30), Documents: []any{gateway(object{"name": "http", "port": 15001})}}
	taken, hosts := make(map[string]bool), []string{"nobody.example", "example", ".example"}
	for i := range servicesAWorld {
		own := []any{}
		for _, host := range []string{fmt.Sprintf("s%d.example", i), a.host(), "*." + a.host(), pick(a, "*", "*.example", a.host())} {
			if !taken[host] {
				own = append(own, host)
				hosts = append(hosts, host)
			}
			taken[host] = true
		}
		name := fmt.Sprintf("s%d", i)
		w.Documents = append(w.Documents, a.service(name, own))
		if a.percent(95) {
			w.Documents = append(w.Documents, a.route(name, i))
		}
		for j := range a.IntN(3) {
			if a.percent(40) {
				w.Documents = append(w.Documents, a.rateLimit(name, j))
			}
		}
	}
	for range servicesAWorld * requestsAService {
		w.Requests = append(w.Requests, a.request(hosts))
	}
	return w
}

func gateway(listener object) object {
	return object{
		"kind": "Gateway", "metadata": object{"name": "edge"},
		"spec": object{"listeners": []any{listener}, "address": "127.0.0.1"},
	}
}

func (a author) service(name string, hosts []any) object {
	second := object{"name": "v2"}
	if a.percent(20) {
		second["requestHeaders"], second["responseHeaders"] = a.changes(), a.changes()
	}
	spec := object{
		"hosts": hosts, "versions": []any{object{"name": "v1"}, second, object{"name": "v3"}},
		"endpoints": object{"static": []any{
			object{"address": "127.0.0.1", "port": 1, "labels": object{"version": "v1"}},
			object{"address": "127.0.0.1", "port": 2, "labels": object{"version": "v2"}},
		}},
	}
	if a.percent(5) {
		spec["maintenance"] = a.maintenance()
	}
	if a.percent(20) {
		spec["requestHeaders"], spec["responseHeaders"] = a.changes(), a.changes()
	}
	if a.percent(10) {
		spec["affinity"] = a.key()
	}
	if a.percent(5) {
		spec["cors"] = a.cors()
	}
	return object{"kind": "Service", "metadata": object{"name": name}, "spec": spec}
}

func (a author) route(name string, i int) object {
	rules := []any{}
	for range 1 + a.IntN(7) {
		rules = append(rules, a.rule(i, a.match(true)))
	}
	if a.percent(60) {
		rules = append(rules, a.rule(i, object{}))
	}
	return object{"kind": "Route", "metadata": object{"name": name}, "spec": object{"service": name, "rules": rules}}
}

func (a author) rule(i int, match object) object {
	r := object{"match": match}
	path, _ := match["path"].(object)
	_, prefix := path["prefix"]
	switch {
	case a.percent(10):
		r["redirect"] = a.redirect(prefix)
	case a.percent(10):
		r["directResponse"] = object{"status": pick(a, 200, 204, 404, 451, 503)}
		if d := r["directResponse"].(object); d["status"] != 204 && a.percent(60) {
			d["body"] = pick(a, "a body", "{}")
			d["contentType"] = pick(a, "application/json", "text/plain")
		}
	default:
		r["to"] = a.to(i)
		if a.percent(20) {
			u := object{}
			if a.percent(60) {
				u["path"] = a.pathRewrite(prefix)
			}
			if len(u) == 0 || a.percent(30) {
				u["hostname"] = "other.example"
			}
			r["urlRewrite"] = u
		}
		if a.percent(25) {
			r["sticky"] = a.key()
		}
		if a.percent(25) {
			r["requestHeaders"] = a.changes()
		}
		if a.percent(15) && (match["headers"] != nil && len(match["headers"].([]any)) > 0 || match["query"] != nil && len(match["query"].([]any)) > 0) {
			r["loadTest"] = pick(a, object{"until": "2126-11-30T18:00:00Z"}, object{"requests": 1000000})
		}
		if a.percent(10) {
			r["timeout"] = pick(a, "0s", "20s")
		}
		if a.percent(10) {
			r["retries"] = object{"attempts": 1, "on": []any{"connect-failure"}, "perTry": "19s"}
		}
	}
	if a.percent(25) {
		r["responseHeaders"] = a.changes()
	}
	if a.percent(10) {
		r["maintenance"] = a.maintenance()
	}
	if a.percent(10) {
		r["cors"] = a.cors()
	}
	if a.percent(10) {
		r["fault"] = a.fault()
	}
	if a.percent(20) {
		l := a.limit()
		l["scope"] = pick(a, "global", "local")
		if r["loadTest"] != nil {
			l["scope"] = "global"
		}
		if r["to"] == nil { // Envoy asks no global limit of what is answered
			l["scope"] = "local"
		} else if l["scope"] == "global" && l["requests"] == 0 {
			l["requests"] = 1000000
		}
		r["rateLimit"] = l
	}
	return r
}

// key tells users apart.
func (a author) key() object {
	cookie := object{"name": pick(a, "q", "c")}
	if a.percent(50) {
		cookie["ttl"] = pick(a, "0s", "1h")
	}
	return pick(a, object{"header": pick(a, "x-a", "X-B", "accept")}, object{"sourceAddress": true}, object{"cookie": cookie})
}

func (a author) match(regexPath bool) object {
	m := object{}
	if a.percent(65) {
		m["path"] = pick(a,
			object{"exact": pick(a, "/", "/a", "/a/", "/a/b", "/%c3%a9", "/b;p")},
			object{"prefix": pick(a, "/", "/a", "/a/", "/a/b", "/b", "//", "/%7B")},
		)
		if regexPath && a.percent(25) {
			m["path"] = object{"regex": pick(a, "/a", "/a/.*", "/[ab]", "/(a|b)/?", ".*", "(?i)/A", "", "/a$", `/\pL`, "/.")}
		}
	} else if a.percent(10) {
		m["grpc"] = object{"service": pick(a, "a", "a.B")}
		if a.percent(50) {
			m["grpc"].(object)["method"] = "b"
		}
	}
	if a.percent(15) {
		m["methods"] = []any{pick(a, "GET", "POST", "OPTIONS"), pick(a, "PUT", "HEAD", "DELETE")}
	}
	if a.percent(35) {
		m["headers"] = some(a, 2, func() object { return a.named(a.headerName()) })
	}
	if a.percent(25) {
		m["query"] = some(a, 2, func() object { return a.named(pick(a, "q", "r", "Q", "%71", "")) })
	}
	if a.percent(15) {
		m["cookies"] = some(a, 2, func() object { return a.named(pick(a, "q", "R", "c")) })
	}
	return m
}

func (a author) headerName() string {
	switch {
	case a.percent(85):
		return pick(a, "x-a", "X-B")
	case a.percent(25):
		return pick(a, "origin", "accept", "content-type", "cookie", "cookie", "upgrade", "connection")
	}
	return pick(a, "host", "cookie", "user-agent", "accept", "content-type", "te", "x-request-id", "x-forwarded-for", "x-forwarded-proto",
		"x-envoy-external-address", "x-envoy-internal", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-original-path", "x-weir-shadow",
		"x-envoy-upstream-rq-timeout-alt-response", "x-envoy-decorator-operation", "x-envoy-upstream-alt-stat-name", "x-envoy-ip-tags",
		"x-envoy-force-trace", "x-envoy-hedge-on-per-try-timeout", "x-envoy-original-host", "x-envoy-attempt-count", "x-forwarded-host",
		"x-envoy-retriable-status-codes", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-stream-duration-ms", "x-envoy-retriable-header-names", "x-envoy-retry-grpc-on", "x-envoy-expected-rq-timeout-ms",
		"x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node", "x-client-trace-id", "x-forwarded-client-cert",
		"connection", "keep-alive", "proxy-connection", "origin", "referer", "x-b3-sampled", "traceparent", "x-forwarded-port", "authorization")
}

func (a author) named(name string) object {
	if name == "" {
		name = "q"
	}
	switch strings.ToLower(name) {
	case "x-request-id", "x-forwarded-for": // what is in them is not known to the test
		return object{"name": name, "present": a.percent(50)}
	}
	m := pick(a,
		object{"exact": pick(a, "1", "beta", "1,beta", "a=b", "%31", "trailers", "http", "websocket")}, object{"exact": "1"}, object{"exact": "beta"},
		object{"prefix": pick(a, "1", "be", "B")},
		object{"regex": pick(a, "", "1|beta", ".*", ".+", "(?i)BETA", "[0-9]+", "b.*a", "1,.*", `\w+`, "é", "b.a", "b..a", `b\pLa`, "(?i)BÉA")},
		object{"present": a.percent(50)}, object{"present": a.percent(50)},
	)
	m["name"] = name
	return m
}

func (a author) to(i int) []any {
	if a.percent(10) {
		return []any{object{}}
	}
	all := []any{}
	for _, v := range []string{"v1", "v2", "v3"} {
		if a.percent(50) {
			to := object{"version": v, "weight": pick(a, 0, 1, 1, 90)}
			if i > 0 && a.percent(10) {
				to["service"] = fmt.Sprintf("s%d", a.IntN(i))
			}
			if v == "v3" && a.percent(70) {
				to["weight"] = 0
			}
			all = append(all, to)
		}
	}
	for _, to := range all {
		if to.(object)["weight"] != 0 {
			return all
		}
	}
	return append(all, object{"version": "v1"})
}

func (a author) pathRewrite(prefix bool) object {
	if prefix && a.percent(70) {
		return object{"replacePrefixMatch": pick(a, "/", "/new", "/new/", "//", "/a/b/c")}
	}
	return pick(a, object{"replaceFullPath": pick(a, "/full", `/a\b$1`)}, object{"regex": object{
		"pattern": pick(a, "a", "/(a|b)", "^/", "b*", "(x)?"), "substitution": pick(a, "", "/z", `\0\0`, "$1"),
	}})
}

func (a author) redirect(prefix bool) object {
	r := object{"statusCode": pick(a, 301, 302, 303, 307, 308)}
	if a.percent(40) {
		r["scheme"] = pick(a, "http", "https")
	}
	if a.percent(40) {
		r["hostname"] = "to.example"
	}
	if a.percent(40) {
		r["port"] = pick(a, 80, 443, 8443)
	}
	if a.percent(50) {
		r["path"] = a.pathRewrite(prefix)
	}
	if len(r) == 1 || a.percent(20) {
		r["stripQuery"] = true
	}
	return r
}

func (a author) changes() object {
	values := func() object {
		o := object{}
		for _, name := range []string{"x-a", "x-b", "x-own"} {
			if a.percent(40) {
				o[name] = pick(a, "", "new", "other")
			}
		}
		return o
	}
	c := object{"add": values(), "set": values()}
	if a.percent(50) {
		c["remove"] = []any{pick(a, "x-a", "X-B", "x-own")}
	}
	return c
}

func (a author) maintenance() object {
	m := object{"body": "back soon"}
	if a.percent(50) {
		m["html"] = "<p>back soon"
	}
	if a.percent(50) {
		m["json"] = `{"back": "soon"}`
	}
	if a.percent(50) {
		m["retryAfter"] = pick(a, "10m", "1500ms")
	}
	if a.percent(20) {
		m["status"] = 418
	}
	if a.percent(60) {
		m["unless"] = a.match(false)
	}
	return m
}

func (a author) cors() object {
	c := object{"allowOrigins": []any{pick(a, "*", "https://a.example", "https://*.example", "http://*.example:81")}}
	if a.percent(20) {
		c["allowOrigins"] = []any{}
	}
	return c
}

func (a author) fault() object {
	f := object{"abort": object{"status": 555, "percent": pick(a, 0, 100)}}
	if a.percent(30) {
		f["abort"] = object{"grpcStatus": 5}
	}
	if a.percent(70) {
		f["headers"] = []any{a.named(a.headerName())}
	}
	return f
}

func (a author) limit() object {
	return object{
		"requests": pick(a, 0, 1000000, 1000000), "per": pick(a, "second", "hour"), "shadow": a.percent(20),
		"by": some(a, 2, func() object {
			return pick(a, object{"remoteAddress": true}, object{"header": "x-a"}, object{"header": "X-B"},
				object{"header": "x-a", "exact": pick(a, "1", "beta")}, object{"header": "x-b", "exact": "1"},
				object{"header": "x-a", "prefix": "b"}, object{"header": "x-b", "suffix": "a", "share": true}, object{"header": "x-a", "regex": "[0-9]+"})
		}),
	}
}

func (a author) rateLimit(name string, j int) object {
	scope, limits := pick(a, "global", "local"), []any{}
	for range 1 + a.IntN(3) {
		l := a.limit()
		if scope == "global" && l["requests"] == 0 || a.percent(70) {
			l["requests"] = 1000000
		}
		limits = append(limits, l)
	}
	return object{
		"kind": "RateLimit", "metadata": object{"name": fmt.Sprintf("%s-%d", name, j)},
		"spec": object{"service": name, "scope": scope, "onError": pick(a, "allow", "deny"), "limits": limits},
	}
}

func (a author) request(hosts []string) request {
	host := strings.Replace(pick(a, hosts...), "*", pick(a, "x", "a.b", "cc", ""), 1)
	if host == "" {
		host = "some.test"
	}
	if a.percent(10) {
		host = a.host()
	}
	if a.percent(10) {
		host = strings.ToUpper(host)
	}
	if a.percent(20) {
		host += pick(a, ":80", ":8443", ":443", ":", ".")
	}
	r := request{Method: "GET", Host: host, Path: a.path()}
	if a.percent(40) {
		r.Method = pick(a, "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH")
	}
	for range a.IntN(4) {
		value := pick(a, "1", "beta", "Beta", "", "1,beta", "b\xc3\xa9a", "\xc3\xa9", `b\xe9a`, " x ")
		switch name := a.headerName(); name {
		case "host":
		case "origin":
			r.Headers = append(r.Headers, name+": "+pick(a, "https://a.example", "https://b.a.example", "http://c.example:81", "null"))
			if a.percent(60) {
				r.Method = "OPTIONS"
				r.Headers = append(r.Headers, "access-control-request-method: "+pick(a, "GET", "PUT", "POST", "TRACE"))
			}
		case "accept":
			r.Headers = append(r.Headers, a.accept())
		case "content-type":
			r.Headers = append(r.Headers, name+": "+pick(a, "application/grpc", "application/grpc+proto", "application/grpcx", "application/json", "application/grpc;a"))
		case "cookie":
			r.Headers = append(r.Headers, name+": "+pick(a, "a=b", "q=1; r=2", "q=1", "q=beta; c=1", `R="1"; q="`, "Q=1;q=2;q=1", "q", "c= 1;R =1", "q=;c=1=2", "=1; q=a=b", " q=1 ;\tc=1"))
		case "upgrade":
			r.Headers = append(r.Headers, "upgrade: websocket")
		case "te":
			r.Headers = append(r.Headers, name+": "+pick(a, "trailers", "gzip"))
		case "connection":
			r.Headers = append(r.Headers, name+": "+pick(a, "keep-alive", "x-a", "X-B, keep-alive"))
		case "x-forwarded-proto":
			r.Headers = append(r.Headers, name+": "+pick(a, "http", "https"))
		case "x-forwarded-for":
			r.Headers = append(r.Headers, name+": "+pick(a, "10.1.2.3", "10.1.2.3, 10.9.9.9", "nobody"))
		case "x-envoy-upstream-rq-timeout-alt-response", "x-envoy-upstream-rq-timeout-ms", "x-envoy-expected-rq-timeout-ms", "x-envoy-max-retries":
			r.Headers = append(r.Headers, name+": "+"1")
		default:
			r.Headers = append(r.Headers, name+": "+value)
		}
	}
	if a.percent(20) { // pages of maintenance go by it
		r.Headers = append(r.Headers, a.accept())
	}
	if a.percent(4) {
		r.Headers = append(r.Headers, "upgrade: "+pick(a, "websocket", "WebSocket", "foo"), pick(a, "connection: upgrade", "connection: keep-alive, Upgrade"))
	}
	if a.percent(2) {
		r.Headers = append(r.Headers, "x_a: 1")
	}
	for a.percent(20) {
		r.Headers = append(r.Headers, "baggage: "+pick(a, "weir.load-test=1", "a=b, weir.load-test=1;c", "weir.load-test=10", "a=b", "", "weir.load-test = 1"))
	}
	return r
}

func (a author) accept() string {
	return "accept: " + pick(a, "text/html", "Application/JSON, text/html", "text/html, application/json", "application/problem+json", "*/*")
}

func (a author) path() string {
	path := ""
	for range 1 + a.IntN(3) {
		path += "/"
		if a.percent(90) {
			path += pick(a, "a", "a", "b", "b", "cart", "", "a.B")
		} else {
			path += pick(a, ".", "..", "%2e%2E", ".a", "a..", "%61", "%c3%a9", "%C3%A9", "{", "%7b", "%7B", "%", "%zz", "%%361", "%%3361", "%2561",
				"a%2fb", "a%5Cb", `a\b`, "b;p", "~", "%7e", "a%00", "a#b", `"`, "%20", "%%34%31", "%6%31")
		}
	}
	if a.percent(40) {
		path += "?" + pick(a, "q=1", "q=beta", "q", "q=", "r=1&q=1", "q=2&q=1", "q=%31", "%71=1", "Q=1", "", "&&q=1", "q=1=2", "q=1#f", "r=a/../b", "q=b+a", "q=1;r=1")
	}
	return path
}
