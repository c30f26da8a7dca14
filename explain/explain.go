// Package explain tells what Envoy does with a request, and why: which listener, host, rule and version take it, what
// happens to it on the way, in the order in which Envoy does it, and why no earlier rule took it.
//
// It works from the mesh model alone, by the semantics of Envoy 1.40 under the listeners that xds makes; a property test
// holds it against the real one. What depends on more than the request (counters of limits, ejected endpoints, the dice
// that shares are thrown with) is told as what may happen.
package explain

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Explanation is what happens to a request. What did not come to pass is not there.
type Explanation struct {
	Request  Seen     `json:"request"`
	Listener Listener `json:"listener"`
	Notes    []string `json:"notes,omitempty"` // what was taken for granted
	Host     *Host    `json:"host,omitempty"`
	Rules    []Tried  `json:"rules,omitempty"` // in order, to the one that takes it
	Taken    *Taken   `json:"taken,omitempty"`
	Outcome  Outcome  `json:"outcome"`
}

// Seen is the request as rules see it.
type Seen struct {
	Method    string   `json:"method"`
	Scheme    string   `json:"scheme"`
	Authority string   `json:"authority"`
	Path      string   `json:"path"`            // normalised, with the query
	Given     string   `json:"given,omitempty"` // the path as it was given, where that differs
	Headers   []Header `json:"headers,omitempty"`
}

// Listener is where the request comes in.
type Listener struct {
	Proxy    string `json:"proxy"` // gateway NAME, or service NAMESPACE/NAME
	Name     string `json:"name"`
	Address  string `json:"address,omitempty"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
}

// Host is which service the request is for.
type Host struct {
	Host    string `json:"host"`    // without port, in lower case
	Pattern string `json:"pattern"` // of the service's hosts, the one that takes it
	Service string `json:"service"`
}

// Tried is a rule and whether it takes the request.
type Tried struct {
	Rule    string     `json:"rule"`
	Source  policy.Key `json:"source"`
	Path    string     `json:"path,omitempty"` // of the rule in its document
	Matches bool       `json:"matches"`
	Failed  string     `json:"failed,omitempty"` // the first part of its match that does not hold, such as match.headers[0]
	Reason  string     `json:"reason,omitempty"`
}

// Taken is what a rule does with the request, field by field in the order in which Envoy does it.
type Taken struct {
	Rule            string     `json:"rule"`
	Source          policy.Key `json:"source"`
	Maintenance     string     `json:"maintenance,omitempty"` // in force, or which part of unless lets the request through
	CORS            string     `json:"cors,omitempty"`
	Limits          []Limit    `json:"limits,omitempty"`
	MaxRequestBytes int64      `json:"maxRequestBytes,omitempty"` // 413 above it
	Fault           *Fault     `json:"fault,omitempty"`
	RequestHeaders  []Change   `json:"requestHeaders,omitempty"`
	Path            string     `json:"path,omitempty"` // rewritten
	Hostname        string     `json:"hostname,omitempty"`
	LoadTest        string     `json:"loadTest,omitempty"` // until when, how many requests, and what stops it
	To              []Share    `json:"to,omitempty"`
	Sticky          *Sticky    `json:"sticky,omitempty"` // nil: shares are by chance, request by request
	Mirrors         []Mirror   `json:"mirrors,omitempty"`
	Timeout         string     `json:"timeout,omitempty"` // none, or a duration
	Retries         *Retries   `json:"retries,omitempty"`
	ResponseHeaders []Change   `json:"responseHeaders,omitempty"`
	Compression     []string   `json:"compression,omitempty"` // of the answer, in order of preference
}

// Fault is what may be done to the request on purpose.
type Fault struct {
	Applies      bool    `json:"applies"`
	Reason       string  `json:"reason,omitempty"` // why not
	Delay        string  `json:"delay,omitempty"`
	DelayPercent float64 `json:"delayPercent,omitempty"`
	Abort        string  `json:"abort,omitempty"`
	AbortPercent float64 `json:"abortPercent,omitempty"`
}

// Change is one change of a header.
type Change struct {
	Op    string `json:"op"` // add, set or remove
	Name  string `json:"name"`
	Value string `json:"value,omitempty"` // with Envoy's command operators, as the document has it
}

// Share is one of the versions that may get the request.
type Share struct {
	Subset    string  `json:"subset"` // SERVICE, or SERVICE/VERSION
	Weight    int     `json:"weight"`
	Percent   float64 `json:"percent"`
	Endpoints *int    `json:"endpoints,omitempty"` // nil: as many as DNS gives

	// The version's own changes, after the rule's.
	RequestHeaders  []Change `json:"requestHeaders,omitempty"`
	ResponseHeaders []Change `json:"responseHeaders,omitempty"`
}

// Mirror is where copies go.
type Mirror struct {
	Subset  string  `json:"subset"`
	Percent float64 `json:"percent"`
	Timeout string  `json:"timeout"`
}

// Retries is what is tried again.
type Retries struct {
	Attempts int      `json:"attempts"`
	On       []string `json:"on"`
	Codes    []int    `json:"codes,omitempty"`
	PerTry   string   `json:"perTry,omitempty"`
	Backoff  string   `json:"backoff,omitempty"`
	Hedged   bool     `json:"hedged,omitempty"`
}

// What becomes of a request.
const (
	Forwarded   = "forwarded"   // to one of Taken.To
	Unavailable = "unavailable" // where it would go has no endpoint: 503
	Redirected  = "redirected"
	Responded   = "responded"   // by the rule's directResponse
	Maintenance = "maintenance" // answered by it
	Limited     = "limited"     // a limit refuses every request: 429
	Aborted     = "aborted"     // by a fault
	Preflight   = "preflight"   // answered for CORS
	NotFound    = "notFound"    // no host, or no rule: 404
	Normalised  = "normalised"  // sent to the same place by its proper path: 307
	Rejected    = "rejected"    // no request that Envoy takes: 400, or 403 of an upgrade
)

// Outcome is what the caller sees, but for what versions answer.
type Outcome struct {
	Kind        string `json:"kind"`
	Status      int    `json:"status,omitempty"`     // 0: the version's
	GRPCStatus  *int   `json:"grpcStatus,omitempty"` // of a gRPC request, which gets it with the HTTP status 200
	Reason      string `json:"reason,omitempty"`
	Location    string `json:"location,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Body        string `json:"body,omitempty"`
	RetryAfter  int    `json:"retryAfter,omitempty"` // seconds

	early bool // before Envoy knows whether it is a gRPC request
}

// Explain tells what the proxy does with the request at now; nil is the first gateway that has a listener for it. The
// model is one with load tests that are over, as [mesh.Build] gives it.
func Explain(m *mesh.Model, proxy *mesh.Proxy, r Request, now time.Time) (*Explanation, error) {
	d, notes, err := findDoor(m, proxy, &r)
	if err != nil {
		return nil, err
	}
	x := &explainer{model: m, door: d, given: r, now: now}
	x.out.Notes, x.out.Listener = notes, d.Listener
	x.explain()
	return &x.out, nil
}

// explainer explains one request.
type explainer struct {
	model *mesh.Model
	door  door
	given Request
	now   time.Time
	seen  view
	out   Explanation
}

func (x *explainer) explain() {
	verdict := x.see()
	x.out.Request = x.seen.shown(x.given.Path)
	if verdict != nil {
		x.end(*verdict)
		return
	}
	if port := x.door.secure; port != nil {
		if !x.otherUpgrade() {
			x.end(x.secured(*port))
		}
		return
	}
	service := x.host()
	if service == nil {
		x.end(Outcome{Kind: NotFound, Status: 404, Reason: fmt.Sprintf("no service here has the host %q", hostOf(x.seen.authority))})
		return
	}
	rule := x.rule(service)
	if rule == nil {
		x.end(Outcome{Kind: NotFound, Status: 404, Reason: "no rule of the service " + service.Ref.String() + " takes it"})
		return
	}
	if !x.otherUpgrade() {
		x.taken(service, rule)
	}
}

// otherUpgrade says whether it ends because the request asks for a protocol that is not spoken. Envoy says so once it has
// found a route.
func (x *explainer) otherUpgrade() bool {
	to := x.seen.one("upgrade")
	if !x.seen.upgrades() || strings.EqualFold(to, "websocket") {
		return false
	}
	x.end(Outcome{Kind: Rejected, Status: 403, Reason: fmt.Sprintf("no listener takes an upgrade to %q, only one to websocket", to)})
	return true
}

// end is how it ends. To a gRPC request, what Envoy answers by itself is said as gRPC does.
func (x *explainer) end(o Outcome) {
	if o.Status != 0 && o.Kind != Preflight && o.GRPCStatus == nil && !o.early && x.seen.grpc() {
		status := grpcStatus(o.Status)
		o.GRPCStatus = &status
	}
	x.out.Outcome = o
}

// grpcStatus is the status of gRPC that Envoy makes of an answer of its own.
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13 // internal
	case 401:
		return 16 // unauthenticated
	case 403:
		return 7 // permission denied
	case 404:
		return 12 // unimplemented
	case 429, 502, 503, 504:
		return 14 // unavailable
	default:
		return 2 // unknown
	}
}

// host finds the service: that with the host itself, or with the longest wildcard, or with *.
func (x *explainer) host() *mesh.Service {
	host := hostOf(x.seen.authority)
	var best *mesh.Service
	pattern := ""
	for _, s := range x.door.services {
		for _, h := range s.Spec.Hosts {
			if hostMatches(h, host) && (best == nil || h == host || pattern != host && len(h) > len(pattern)) {
				best, pattern = s, h
			}
		}
	}
	if best != nil {
		x.out.Host = &Host{Host: host, Pattern: pattern, Service: best.Ref.String()}
	}
	return best
}

// hostOf is the host of an authority as hosts are compared: in lower case and without the port.
func hostOf(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		authority = authority[:i]
	}
	return strings.ToLower(authority)
}

// hostMatches: a wildcard stands for at least one character.
func hostMatches(pattern, host string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return pattern == host
	}
	return suffix == "" || len(host) > len(suffix) && strings.HasSuffix(host, suffix)
}

// rule finds the first rule that takes the request.
func (x *explainer) rule(s *mesh.Service) *mesh.Rule {
	for i, r := range s.Rules {
		tried := Tried{Rule: r.Name, Source: r.Source}
		if r.Source.Kind == "Route" {
			tried.Path = fmt.Sprintf("spec.rules[%d]", i)
		}
		x.try(r, &tried)
		x.out.Rules = append(x.out.Rules, tried)
		if tried.Matches {
			return r
		}
	}
	return nil
}

// try says whether a rule takes the request. That of a load test takes what has its mark too, and nothing once it is over.
func (x *explainer) try(r *mesh.Rule, tried *Tried) {
	if t := r.LoadTest; t != nil {
		if ends := t.Ends(); !ends.IsZero() && !x.now.Before(ends) {
			tried.Failed, tried.Reason = "loadTest.until", "the load test is over since "+ends.Format(time.RFC3339)
			return
		}
	}
	tried.Failed, tried.Reason = x.seen.match(&r.Match, "match")
	switch {
	case tried.Failed == "":
	case x.seen.marked(r):
		tried.Failed, tried.Reason = "", "as load, by the mark in its baggage"
	case preflightOf(r, &x.seen):
		tried.Failed, tried.Reason = "", "as the browser's question whether it may send one that matches"
	}
	tried.Matches = tried.Failed == ""
}

// door is a listener and the services behind it.
type door struct {
	Listener
	edge     bool
	secure   *int // the port of https to which it redirects; nil: it serves
	services []*mesh.Service
}

// The listener of a proxy beside a workload, as xds has it.
const (
	outboundAddress = "127.0.0.1"
	outboundPort    = 15001
)

// findDoor picks the listener: of the request's scheme and port, and of those one that serves its host.
func findDoor(m *mesh.Model, proxy *mesh.Proxy, r *Request) (door, []string, error) {
	doors, err := doorsOf(m, proxy)
	if err != nil {
		return door{}, nil, err
	}
	var notes []string
	narrow := func(what string, keep func(d door) bool) {
		kept := slices.DeleteFunc(slices.Clone(doors), func(d door) bool { return !keep(d) })
		if len(kept) > 0 {
			doors = kept
		} else if what != "" {
			notes = append(notes, fmt.Sprintf("no listener %s: explained at the listener %s", what, doors[0].Name))
		}
	}
	if doors[0].edge {
		narrow("takes "+r.Scheme, func(d door) bool { return d.Protocol == r.Scheme })
		if _, port, err := net.SplitHostPort(r.Authority); err == nil && port != "" {
			narrow("has the port "+port, func(d door) bool { return strconv.Itoa(d.Port) == port })
		} else {
			narrow("", func(d door) bool { return d.Port == map[string]int{"http": 80, "https": 443}[r.Scheme] })
		}
		narrow("", func(d door) bool {
			x := explainer{door: d, seen: view{authority: r.Authority}}
			return x.host() != nil
		})
	} else if r.Scheme == "https" {
		notes = append(notes, "workloads speak plain HTTP to the proxy beside them")
	}
	for _, other := range doors[1:] {
		notes = append(notes, fmt.Sprintf("%s takes it too, with the listener %s", other.Proxy, other.Name))
	}
	return doors[0], notes, nil
}

func doorsOf(m *mesh.Model, proxy *mesh.Proxy) ([]door, error) {
	outbound := func(name string) []door {
		return []door{{Listener: Listener{
			Proxy: strings.TrimSpace("service " + name), Name: "outbound", Address: outboundAddress, Port: outboundPort, Protocol: "http",
		}, services: m.Services}}
	}
	if proxy != nil && proxy.Role == mesh.RoleService {
		if !slices.ContainsFunc(m.Services, func(s *mesh.Service) bool { return s.Ref == proxy.Ref }) {
			return nil, fmt.Errorf("%s: no Service document of that name", proxy)
		}
		return outbound(proxy.Ref.String()), nil
	}
	var all []door
	for _, g := range m.Gateways {
		if proxy != nil && g.Ref != proxy.Ref {
			continue
		}
		for _, l := range g.Listeners {
			all = append(all, door{
				Listener: Listener{Proxy: "gateway " + g.Ref.String(), Name: l.Name, Address: g.Address, Port: l.Port, Protocol: l.Protocol},
				edge:     true, secure: l.HTTPSRedirect, services: g.Services,
			})
		}
	}
	switch {
	case len(all) > 0:
		return all, nil
	case proxy != nil:
		return nil, fmt.Errorf("%s: no Gateway document of that name", proxy)
	case len(m.Services) > 0:
		return outbound(m.Services[0].Ref.String()), nil
	default:
		return nil, fmt.Errorf("the documents have neither a gateway nor a service")
	}
}

func duration(d time.Duration) string { return policy.Duration(d).String() }
