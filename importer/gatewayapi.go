package importer

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

func itoa(n int) string { return strconv.Itoa(n) }

// gateway is a Gateway document in the making, of Gateway API or of Istio.
type gateway struct {
	ref       policy.Ref
	object    *object // nil: not in the input
	origins   []string
	listeners []*listener
	selector  string // of Istio
}

// listener is one of a gateway's, as it was there: several may share a port.
type listener struct {
	at       field
	name     string
	hostname string   // "" is every one
	hosts    []string // of Istio: [NAMESPACE/]HOST
	port     int
	ours     *policy.Listener // the one of its port; nil: none
	allows   func(route *object) bool
	attached bool // a route is
}

// grant is one of a ReferenceGrant's permissions.
type grant struct{ fromKind, fromNamespace, toKind, toNamespace, toName string }

// api is the reading of Gateway API's objects.
type api struct {
	*world
	grants []grant
	byRef  map[policy.Ref]*gateway
	grpc   map[string]*object // by host: the oldest GRPCRoute
	http   map[string]*object
}

func (w *world) gatewayAPI() {
	a := &api{world: w, byRef: make(map[policy.Ref]*gateway), grpc: make(map[string]*object), http: make(map[string]*object)}
	if w.options.From == FromIstio {
		for _, o := range w.objects {
			if o.group == groupGateway && !o.whole[""] {
				o.ignore()
				o.all().note(false, "not read: only Istio is asked for")
			}
		}
		return
	}
	for _, o := range w.of(groupGateway, "GatewayClass") {
		o.ignore()
		o.all().note(false, "left out: a proxy is told which gateway it is with weir bootstrap --gateway")
	}
	for _, o := range w.of(groupGateway, "ReferenceGrant") {
		a.grant(o)
	}
	for _, o := range w.of(groupGateway, "Gateway") {
		a.gateway(o)
	}
	routes := slices.Concat(w.of(groupGateway, "HTTPRoute"), w.of(groupGateway, "GRPCRoute"))
	slices.SortStableFunc(routes, older)
	for _, o := range routes {
		a.route(o)
	}
	for _, o := range w.objects {
		if o.group == groupGateway && !o.whole[""] && !read[o.kind] {
			a.unread(o)
		}
	}
}

var read = map[string]bool{"Gateway": true, "HTTPRoute": true, "GRPCRoute": true, "ReferenceGrant": true}

func (a *api) unread(o *object) {
	switch o.kind {
	case "TCPRoute", "TLSRoute", "UDPRoute":
		o.lost("Weir routes HTTP and gRPC only")
	case "BackendTLSPolicy":
		o.lost("Weir does not speak TLS to endpoints: have the service take plain HTTP from the proxy")
	case "ListenerSet", "XListenerSet":
		o.lost("write its listeners into the Gateway")
	default:
		o.lost("Weir does not read this kind: what it says of timeouts, retries and balancing goes into the Service and Route documents by hand")
	}
}

func (a *api) grant(o *object) {
	for _, from := range o.spec().get("from").list() {
		from.get("group").skip()
		for _, to := range o.spec().get("to").list() {
			to.get("group").skip()
			a.grants = append(a.grants, grant{
				fromKind: from.get("kind").text(), fromNamespace: from.get("namespace").text(),
				toKind: to.get("kind").text(), toNamespace: o.namespace, toName: to.get("name").text(),
			})
		}
	}
}

func (a *api) granted(from *object, kind string, to policy.Ref) bool {
	return from.namespace == to.Namespace || slices.ContainsFunc(a.grants, func(g grant) bool {
		return g.fromKind == from.kind && g.fromNamespace == from.namespace && g.toKind == kind &&
			g.toNamespace == to.Namespace && (g.toName == "" || g.toName == to.Name)
	})
}

// gateway reads a Gateway's listeners.
func (a *api) gateway(o *object) {
	g := &gateway{ref: o.ref(), object: o, origins: []string{o.origin()}}
	a.byRef[g.ref], a.gateways = g, append(a.gateways, g)
	spec := o.spec()
	spec.get("gatewayClassName").say("a proxy is told which gateway it is with weir bootstrap --gateway %s", g.ref)
	spec.get("addresses").lost("these are the load balancer's; in Weir spec.address is what Envoy binds")
	spec.get("infrastructure").lost("Weir makes no infrastructure")
	spec.get("allowedListeners").lost("Weir has no ListenerSets: write their listeners into the Gateway")
	spec.get("defaultScope").lost("routes name their Gateway in parentRefs")
	spec.get("tls").get("backend").lost("Weir does not speak TLS to endpoints")
	frontend := spec.get("tls").get("frontend")
	frontend.lost("Weir asks for no client certificates: the listeners of HTTPS are left out, since they must not be open to those without")
	for _, l := range spec.get("listeners").list() {
		if frontend.given() && l.get("protocol").text() == "HTTPS" {
			l.skip()
			continue
		}
		a.listener(g, l)
	}
}

func (a *api) listener(g *gateway, f field) {
	one := &listener{at: f, name: f.get("name").text(), hostname: strings.ToLower(f.get("hostname").text()), port: f.get("port").number()}
	one.allows = a.allows(g.object, f.get("allowedRoutes"))
	g.listeners = append(g.listeners, one)
	tls := f.get("tls")
	switch protocol := f.get("protocol"); protocol.text() {
	case "HTTP":
		tls.skip()
		g.open(one, policy.Listener{Protocol: "http"})
	case "HTTPS":
		if mode := tls.get("mode"); mode.text() != "" && mode.text() != "Terminate" {
			f.lost("Weir's listeners of HTTPS end TLS, and this one passes it through")
			return
		}
		refs := tls.get("certificateRefs")
		all := refs.list()
		if len(all) == 0 {
			f.lost("the listener names no certificate")
			return
		}
		name := all[0].get("name").text()
		refs.skip()
		tls.get("options").lost("Weir has minVersion alone for options of TLS")
		refs.note(true, "Weir reads no Secrets: mount %s at /etc/weir/tls/%s, where the proxy reads its files, or change the paths", name, tidy(name))
		if len(all) > 1 {
			refs.note(true, "a listener has one certificate: the first is taken")
		}
		g.open(one, policy.Listener{Protocol: "https", TLS: secretFiles(name)})
	default:
		f.lost("Weir's listeners are of HTTP and HTTPS, and this one is of %s", protocol.text())
	}
}

// secretFiles is where a Secret is to be mounted.
func secretFiles(secret string) *policy.ListenerTLS {
	dir := "/etc/weir/tls/" + tidy(secret)
	return &policy.ListenerTLS{Certificate: dir + "/tls.crt", Key: dir + "/tls.key"}
}

// open gives a listener the one of ours that has its port.
func (g *gateway) open(l *listener, ours policy.Listener) {
	for _, other := range g.listeners {
		if other == l || other.ours == nil || other.port != l.port {
			continue
		}
		if other.ours.Protocol != ours.Protocol {
			l.at.lost("the port %d is another listener's already, of %s", l.port, other.ours.Protocol)
			return
		}
		if ours.TLS != nil && *ours.TLS != *other.ours.TLS {
			l.at.get("tls").lost("a listener has one certificate, and the port %d has that of %s: use one that holds all names", l.port, other.name)
		}
		l.ours = other.ours
		return
	}
	taken := make(map[string]bool)
	for _, other := range g.listeners {
		if other.ours != nil {
			taken[other.ours.Name] = true
		}
	}
	ours.Name, ours.Port = distinctName(l.name, taken), l.port
	l.ours = &ours
}

// allows reads which routes may attach to a listener.
func (a *api) allows(gw *object, f field) func(*object) bool {
	from, selector := cmp.Or(f.get("namespaces").get("from").text(), "Same"), f.get("namespaces").get("selector")
	matches := a.selector(selector)
	var kinds []string
	for _, k := range f.get("kinds").list() {
		k.get("group").skip()
		kinds = append(kinds, k.get("kind").text())
	}
	return func(route *object) bool {
		if len(kinds) > 0 && !slices.Contains(kinds, route.kind) {
			return false
		}
		switch from {
		case "All":
			return true
		case "Selector":
			labels := maps.Clone(a.spaces[route.namespace])
			if labels == nil {
				labels = make(map[string]string)
			}
			labels["kubernetes.io/metadata.name"] = route.namespace
			return matches(labels)
		case "Same":
			return route.namespace == gw.namespace
		}
		return false
	}
}

// selector reads a label selector.
func (a *api) selector(f field) func(map[string]string) bool {
	equal := f.get("matchLabels").labels()
	type expression struct {
		key, operator string
		values        []string
	}
	var all []expression
	for _, e := range f.get("matchExpressions").list() {
		all = append(all, expression{e.get("key").text(), e.get("operator").text(), e.get("values").texts()})
	}
	return func(labels map[string]string) bool {
		if !selects(equal, labels) {
			return false
		}
		for _, e := range all {
			value, ok := labels[e.key]
			in := ok && slices.Contains(e.values, value)
			if e.operator == "In" && !in || e.operator == "NotIn" && in || e.operator == "Exists" && !ok || e.operator == "DoesNotExist" && ok {
				return false
			}
		}
		return true
	}
}

// attachment is a host that a route takes at a place.
type attachment struct {
	host string
	own  *service // of the mesh, in host's stead
	place
}

// route reads an HTTPRoute or a GRPCRoute.
func (a *api) route(o *object) {
	attached := a.attach(o)
	if len(attached) == 0 {
		if !o.whole[""] {
			o.lost("it attaches to no listener of the input")
		}
		return
	}
	a.unattached(o, attached)
	rules := a.rules(o, attached)
	var refused []string
	for _, at := range attached {
		t := a.tableOf(at)
		if at.own == nil && !a.kindOf(o, at.host) {
			if !slices.Contains(refused, at.host) {
				refused = append(refused, at.host)
			}
			continue
		}
		for _, r := range rules {
			t.add(r, at.place)
		}
		if at.own != nil && len(t.entries) == 0 {
			t.add(nothing(o.spec(), nil), place{})
		}
	}
	if len(refused) > 0 {
		o.spec().get("hostnames").lost("%s: a host has HTTPRoutes or GRPCRoutes, and an older route of the other kind has it", strings.Join(refused, ", "))
	}
}

func (w *world) tableOf(at attachment) *table {
	if at.own != nil {
		return w.ownTable(at.own)
	}
	return w.table(at.host)
}

// unattached tells of hostnames that no listener takes.
func (a *api) unattached(o *object, attached []attachment) {
	for _, host := range o.spec().get("hostnames").list() {
		if !slices.ContainsFunc(attached, func(at attachment) bool {
			_, ok := intersect(strings.ToLower(host.text()), at.host)
			return ok || at.own != nil
		}) {
			host.lost("no listener that the route attaches to takes this host")
		}
	}
}

// kindOf says whether a host is for routes of the object's kind: the oldest decides.
func (a *api) kindOf(o *object, host string) bool {
	mine, other := a.http, a.grpc
	if o.kind == "GRPCRoute" {
		mine, other = other, mine
	}
	if other[host] != nil {
		return false
	}
	if mine[host] == nil {
		mine[host] = o
	}
	return true
}

// attach finds where a route's rules hold.
func (a *api) attach(o *object) []attachment {
	spec := o.spec()
	hosts := spec.get("hostnames").texts()
	spec.get("useDefaultGateways").lost("name the Gateway in parentRefs")
	var all []attachment
	if parents := spec.get("parentRefs"); !parents.given() {
		o.all().note(true, "it names no parentRefs, and so does nothing there: carried over for all gateways that serve its service")
		return unknownListeners(a.unknown(policy.Ref{}), 0, hosts)
	}
	for _, p := range spec.get("parentRefs").list() {
		switch cmp.Or(p.get("kind").text(), "Gateway") {
		case "Gateway":
			p.get("group").skip()
			all = append(all, a.attachGateway(o, p, hosts)...)
		case "Service":
			p.get("group").skip()
			all = append(all, a.attachService(o, p)...)
		default:
			p.lost("a route attaches to a Gateway or a Service")
		}
	}
	return all
}

func (a *api) attachService(o *object, p field) []attachment {
	ref := policy.Ref{Namespace: cmp.Or(p.get("namespace").text(), o.namespace), Name: p.get("name").text()}
	port := p.get("port").number()
	p.get("sectionName").lost("a Service has no sections")
	if ref.Namespace != o.namespace {
		p.lost("the rules would hold for callers of the namespace %s alone, and Weir's hold for all", o.namespace)
		return nil
	}
	s := a.backend(ref, port)
	return []attachment{{own: s}}
}

func (a *api) attachGateway(o *object, p field, hosts []string) []attachment {
	ref := policy.Ref{Namespace: cmp.Or(p.get("namespace").text(), o.namespace), Name: p.get("name").text()}
	section, port := p.get("sectionName"), p.get("port")
	g := a.unknown(ref)
	if g.object == nil {
		if a.once("gateway " + ref.String()) {
			p.note(true, "the Gateway %s is not in the input: give it too, or write a Gateway document that serves what is made of its routes", ref)
		}
		return unknownListeners(g, port.number(), hosts)
	}
	var all []attachment
	found := false
	for _, l := range g.listeners {
		if section.text() != "" && section.text() != l.name || port.number() != 0 && port.number() != l.port || l.ours == nil || !l.allows(o) {
			continue
		}
		for _, host := range intersections(hosts, l.hostname) {
			l.attached = true
			all, found = append(all, attachment{host: host, place: place{g, l.port}}), true
		}
	}
	if !found {
		p.lost("no listener of the Gateway %s takes the route: see its hostnames, allowedRoutes and ports", ref)
	}
	return all
}

// unknown gives a gateway, which may not be in the input.
func (a *api) unknown(ref policy.Ref) *gateway {
	if a.byRef[ref] == nil {
		a.byRef[ref] = &gateway{ref: ref}
	}
	return a.byRef[ref]
}

func unknownListeners(g *gateway, port int, hosts []string) []attachment {
	if len(hosts) == 0 {
		hosts = []string{"*"}
	}
	var all []attachment
	for _, host := range hosts {
		all = append(all, attachment{host: strings.ToLower(host), place: place{g, port}})
	}
	return all
}

// intersections gives the hosts that both a route and a listener take.
func intersections(route []string, listener string) []string {
	if len(route) == 0 {
		return []string{cmp.Or(listener, "*")}
	}
	var all []string
	for _, host := range route {
		if both, ok := intersect(strings.ToLower(host), cmp.Or(listener, "*")); ok && !slices.Contains(all, both) {
			all = append(all, both)
		}
	}
	return all
}

// intersect gives the narrower of two hosts, either of which may be * or begin with it.
func intersect(a, b string) (string, bool) {
	switch {
	case a == b || covers(b, a):
		return a, true
	case covers(a, b):
		return b, true
	}
	return "", false
}

// covers says whether every name of host is one of pattern's.
func covers(pattern, host string) bool {
	suffix, ok := strings.CutPrefix(pattern, "*")
	return ok && (suffix == "" || strings.HasSuffix(host, suffix) && len(host) > len(suffix))
}
