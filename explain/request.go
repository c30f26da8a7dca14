package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Request is what a client sends.
type Request struct {
	Method        string
	Scheme        string // http or https
	Authority     string // HOST or HOST:PORT
	Path          string // with the query
	Headers       []Header
	RemoteAddress netip.Addr // of the client, as the proxy sees it; default 192.0.2.1, which is nobody's
}

// Header is one line of a request's headers.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ParseRequest reads METHOD URL, or a URL alone, which is a GET. What is behind a # never leaves a client. Header lines are
// NAME: VALUE.
func ParseRequest(text string, headers []string) (Request, error) {
	r := Request{Method: "GET", RemoteAddress: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	url := strings.TrimSpace(text)
	if method, rest, ok := strings.Cut(url, " "); ok {
		r.Method, url = method, strings.TrimSpace(rest)
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if r.Scheme = strings.ToLower(scheme); !ok || r.Scheme != "http" && r.Scheme != "https" {
		return r, fmt.Errorf("%q: want a method and a URL, such as 'GET https://checkout.shop/cart?x=1'", text)
	}
	rest, _, _ = strings.Cut(rest, "#")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	r.Authority, r.Path = rest[:end], rest[end:]
	if !strings.HasPrefix(r.Path, "/") {
		r.Path = "/" + r.Path
	}
	if i := strings.LastIndexByte(r.Authority, '@'); i >= 0 { // who asks is not where
		r.Authority = r.Authority[i+1:]
	}
	if r.Authority == "" {
		return r, fmt.Errorf("%q: the URL has no host", text)
	}
	for _, line := range headers {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return r, fmt.Errorf("header %q: want NAME: VALUE", line)
		}
		if value = strings.TrimSpace(value); strings.EqualFold(name, "host") {
			r.Authority = value
			continue
		}
		r.Headers = append(r.Headers, Header{name, value})
	}
	return r, nil
}

// view is a request as Envoy's rules see it: after the connection manager has made its own of it.
type view struct {
	method, scheme, authority, path string // with the query
	headers                         map[string][]string
	remote                          string // who the client is taken for
}

// generatedID stands for the id that Envoy gives a request.
const generatedID = "00000000-0000-4000-8000-000000000000"

// What nobody can tell a proxy from outside.
var internalHeaders = []string{
	"x-envoy-expected-rq-timeout-ms", "x-envoy-force-trace", "x-envoy-hedge-on-per-try-timeout", "x-envoy-internal",
	"x-envoy-ip-tags", "x-envoy-max-retries", "x-envoy-retriable-header-names", "x-envoy-retriable-status-codes",
	"x-envoy-retry-grpc-on", "x-envoy-retry-on", "x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-per-try-timeout-ms",
	"x-envoy-upstream-rq-timeout-alt-response", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-stream-duration-ms",
	"x-forwarded-client-cert",
}

// What strangers can't tell a gateway either.
var edgeHeaders = []string{
	"x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
	"x-envoy-original-path", "x-weir-shadow",
}

// Of one connection, and not of what is sent on.
var hopHeaders = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

// see makes the view. An outcome is where Envoy answers before it looks for a route.
func (x *explainer) see() *Outcome {
	r := x.given
	v := view{method: r.Method, scheme: x.door.Protocol, authority: r.Authority, path: r.Path, headers: make(map[string][]string), remote: r.RemoteAddress.String()}
	for _, h := range r.Headers {
		name := strings.ToLower(h.Name)
		v.headers[name] = append(v.headers[name], strings.Trim(h.Value, " \t"))
	}
	x.seen = v
	if o := x.reject(); o != nil {
		return o
	}
	x.seen.forgetHops()
	for _, name := range internalHeaders {
		delete(x.seen.headers, name)
	}
	if x.door.edge {
		x.seen.atEdge()
	} else {
		x.seen.inside()
	}
	return x.normalise()
}

func (x *explainer) reject() *Outcome {
	if x.door.edge {
		for _, h := range x.given.Headers {
			if strings.Contains(h.Name, "_") {
				return &Outcome{Kind: Rejected, Status: 400, early: true, Reason: fmt.Sprintf("gateways take no header with an underscore in its name, as %s has", h.Name)}
			}
		}
	}
	if x.seen.method == "CONNECT" {
		return &Outcome{Kind: NotFound, Status: 404, Reason: "a CONNECT request has no path, and no rule is for those"}
	}
	for i := range len(x.seen.path) {
		if c := x.seen.path[i]; c <= ' ' || c >= 0x7f {
			return &Outcome{Kind: Rejected, Status: 400, early: true, Reason: fmt.Sprintf("the path has the character %q, which a URL has as %%%02X", c, c)}
		}
	}
	return nil
}

func (v *view) forgetHops() {
	if v.upgrades() {
		return
	}
	for _, line := range v.headers["connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "te" && name != "upgrade" {
				delete(v.headers, name)
			}
		}
	}
	for _, name := range hopHeaders {
		delete(v.headers, name)
	}
	if te := v.one("te"); !strings.EqualFold(te, "trailers") {
		delete(v.headers, "te")
	}
}

// upgrades says whether the request asks for another protocol on its connection, as WebSockets do.
func (v *view) upgrades() bool {
	return len(v.headers["upgrade"]) > 0 && slices.ContainsFunc(v.headers["connection"], func(line string) bool {
		return slices.ContainsFunc(strings.Split(line, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "upgrade") })
	})
}

// atEdge: what a stranger says of where it comes from counts for nothing.
func (v *view) atEdge() {
	for _, name := range edgeHeaders {
		delete(v.headers, name)
	}
	came := append(slices.Clone(v.headers["x-forwarded-for"]), v.remote)
	v.headers["x-forwarded-for"] = []string{strings.Join(came, ",")}
	v.headers["x-envoy-external-address"] = []string{v.remote}
	v.headers["x-forwarded-proto"] = []string{v.scheme}
	v.headers[requestID] = []string{generatedID}
}

// inside: the edge has said where the request comes from, and under which id it goes.
func (v *view) inside() {
	if came := v.one("x-forwarded-for"); came != "" {
		last := strings.TrimSpace(came[strings.LastIndexByte(came, ',')+1:])
		if a, err := netip.ParseAddr(last); err == nil {
			v.remote = a.String()
		}
	}
	if proto := strings.ToLower(v.one("x-forwarded-proto")); proto == "" {
		v.headers["x-forwarded-proto"] = []string{v.scheme}
	} else if proto == "http" || proto == "https" {
		v.scheme = proto
	}
	if v.one(requestID) == "" {
		v.headers[requestID] = []string{generatedID}
	}
}

// lines gives the values of a header, which are compared one by one. Of some headers Envoy makes one line at once.
func (v *view) lines(name string) []string {
	name = strings.ToLower(name)
	all := v.headers[name]
	switch {
	case name == "host":
		return []string{v.authority}
	case len(all) > 1 && slices.Contains(joinedHeaders, name):
		return []string{strings.Join(all, ",")}
	default:
		return all
	}
}

// one gives a header of which there should be one line; "" where there is none.
func (v *view) one(name string) string {
	if all := v.lines(name); len(all) > 0 {
		return all[0]
	}
	return ""
}

var joinedHeaders = []string{
	"accept", "accept-encoding", "access-control-request-headers", "access-control-request-method", "authorization", "cache-control", "connection",
	"content-type", "expect", "origin", "referer", "te", "upgrade", "user-agent", "via", "x-client-trace-id", "x-forwarded-for", "x-forwarded-host",
	"x-forwarded-port", "x-forwarded-proto", "x-request-id",
}

func (v *view) grpc() bool {
	rest, ok := strings.CutPrefix(v.one("content-type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}

func (v *view) bare() string { p, _, _ := strings.Cut(v.path, "?"); return p }

func (v *view) query() string { return v.path[len(v.bare()):] }

// parameter gives the first of that name, as it stands in the query.
func (v *view) parameter(name string) (string, bool) {
	query := v.query()
	if query == "" {
		return "", false
	}
	for part := range strings.SplitSeq(query[1:], "&") {
		if key, value, _ := strings.Cut(part, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// cookie gives the first of that name, without quotes around its value.
func (v *view) cookie(name string) (string, bool) {
	for _, line := range v.headers["cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			key, value, ok := strings.Cut(part, "=")
			if ok && strings.TrimLeft(key, " ") == name {
				if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
					value = value[1 : len(value)-1]
				}
				return value, true
			}
		}
	}
	return "", false
}

func (v *view) shown(given string) Seen {
	s := Seen{Method: v.method, Scheme: v.scheme, Authority: v.authority, Path: v.path}
	if given != v.path {
		s.Given = given
	}
	for name, all := range v.headers {
		for _, value := range all {
			s.Headers = append(s.Headers, Header{name, value})
		}
	}
	slices.SortStableFunc(s.Headers, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	return s
}
