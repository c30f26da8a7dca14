package importer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// istioReader is the reading of Istio's objects.
type istioReader struct {
	*world
	delegates map[policy.Ref]*object // VirtualServices without hosts
	delegated map[*object]bool
	byRef     map[policy.Ref]*gateway
	subset    map[[2]string]bool // those that DestinationRules have, by host and name
}

const clusterDomain = ".svc.cluster.local"

func (w *world) istio() {
	if w.options.From == FromGatewayAPI {
		for _, o := range w.objects {
			if o.group == groupIstio && !o.whole[""] {
				o.ignore()
				o.all().note(false, "not read: only Gateway API is asked for")
			}
		}
		return
	}
	if !slices.ContainsFunc(w.objects, func(o *object) bool { return o.group == groupIstio && !o.whole[""] }) {
		return
	}
	i := &istioReader{
		world: w, delegates: make(map[policy.Ref]*object), delegated: make(map[*object]bool), byRef: make(map[policy.Ref]*gateway),
	}
	for _, o := range w.objects {
		if o.group == groupIstio && !o.whole[""] && !readOfIstio[o.kind] {
			i.unread(o)
		}
	}
	i.kubeServices()
	for _, o := range w.of(groupIstio, "ServiceEntry") {
		i.serviceEntry(o)
	}
	i.istioGateways()
	i.virtualServices()
	i.destinationRules()
	for _, s := range w.services {
		s.istio = s.istio || s.meshed
	}
}

var readOfIstio = map[string]bool{"Gateway": true, "VirtualService": true, "DestinationRule": true, "ServiceEntry": true}

func (i *istioReader) unread(o *object) {
	switch o.kind {
	case "Sidecar":
		o.lost("each proxy of Weir's knows all services")
	case "EnvoyFilter":
		o.lost("Weir takes no Envoy configuration of others: see whether a field of Service or Route says the same")
	case "WorkloadEntry", "WorkloadGroup":
		o.lost("write its address into endpoints.static of the Service")
	default:
		o.lost("Weir does not read this kind")
	}
}

// kubeServices gives each Service of the input its names: in Istio's mesh all are called by them.
func (i *istioReader) kubeServices() {
	refs := slices.Collect(maps.Keys(i.kube))
	slices.SortFunc(refs, func(a, b policy.Ref) int { return strings.Compare(a.String(), b.String()) })
	for _, ref := range refs {
		k := i.kube[ref]
		first := true
		for _, p := range k.ports {
			if p.protocol == "" {
				k.object.spec().get("ports").note(true, "the port %d is of %s, and Weir takes HTTP only: callers must reach it past the proxy", p.number, p.said)
				continue
			}
			s := i.backend(ref, p.number)
			i.ownTable(s)
			if !first {
				k.object.spec().get("ports").note(true, "a host has one port in Weir: the port %d is a service by itself, called %s-%d.%s", p.number, tidy(ref.Name), p.number, tidy(ref.Namespace))
			}
			first = false
		}
	}
}

// fqdn gives a host as Istio completes it.
func fqdn(host, namespace string) string {
	host = strings.ToLower(host)
	if host == "" || strings.Contains(host, ".") || strings.HasPrefix(host, "*") {
		return host
	}
	return host + "." + namespace + clusterDomain
}

// kubeRef gives the Service that a complete host names.
func kubeRef(host string) (policy.Ref, bool) {
	rest, ok := strings.CutSuffix(host, clusterDomain)
	name, namespace, two := strings.Cut(rest, ".")
	if !ok || !two || strings.Contains(namespace, ".") || strings.HasPrefix(name, "*") {
		return policy.Ref{}, false
	}
	return policy.Ref{Namespace: namespace, Name: name}, true
}

// service gives the service that a host names, and nil with a note where there is none.
func (i *istioReader) service(host field, namespace string, port int) *service {
	full := fqdn(host.text(), namespace)
	if s := i.entries[full]; s != nil {
		return s
	}
	ref, ok := kubeRef(full)
	if !ok {
		return nil
	}
	known := i.kube[ref]
	s := i.backend(ref, port)
	if known == nil && i.once("service "+ref.String()) {
		host.say("the Service %s is not in the input", ref)
	}
	if !s.nowhere.given() {
		s.nowhere = host
	}
	if !s.meshed {
		i.ownTable(s)
	}
	return s
}

// serviceEntry makes services of hosts that are no Services of Kubernetes.
func (i *istioReader) serviceEntry(o *object) {
	spec := o.spec()
	hosts := spec.get("hosts").texts()
	spec.get("addresses").lost("Weir routes by host, and not by address")
	spec.get("location").skip()
	spec.get("exportTo").lost("each proxy of Weir's knows all services")
	spec.get("subjectAltNames").lost("Weir does not speak TLS to endpoints")
	spec.get("workloadSelector").lost("write the addresses that it selects into endpoints.static of the Service")
	var ports []field
	for _, p := range spec.get("ports").list() {
		if httpProtocol(cmp.Or(p.get("protocol").text(), protocolOfName(p.get("name").text()))) == "" {
			p.lost("it is of %s, and Weir takes HTTP only", p.get("protocol").text())
			continue
		}
		ports = append(ports, p)
	}
	if len(ports) == 0 {
		o.lost("it has no port of HTTP")
		return
	}
	for _, p := range ports[1:] {
		p.lost("a host has one port in Weir: the first is taken")
	}
	port := ports[0]
	name := port.get("name").text()
	s := policy.ServiceSpec{Protocol: httpProtocol(cmp.Or(port.get("protocol").text(), protocolOfName(name)))}
	s.Port = cmp.Or(port.get("targetPort").number(), port.get("number").number())
	resolution := spec.get("resolution")
	endpoints := spec.get("endpoints")
	var names []string
	for _, e := range endpoints.list() {
		e.get("weight").lost("endpoints have no weights in Weir")
		e.get("network").lost("this version of Weir has no networks")
		e.get("serviceAccount").lost("this version of Weir has no identities")
		address := e.get("address").text()
		one := policy.StaticEndpoint{Address: address, Port: s.Port, Labels: e.get("labels").labels(), Zone: zoneOf(e.get("locality"))}
		for _, p := range e.get("ports").pairs() {
			if n := p.number(); p.name() == name {
				one.Port = n
			}
		}
		if _, err := netip.ParseAddr(address); err == nil {
			s.Endpoints.Static = append(s.Endpoints.Static, one)
			continue
		}
		if names = append(names, address); len(names) > 1 || len(s.Endpoints.Static) > 0 {
			e.lost("endpoints are addresses, or one name that is looked up")
			continue
		}
		s.Port = one.Port
	}
	switch {
	case len(s.Endpoints.Static) > 0:
	case len(names) > 0:
		s.Endpoints.DNS = &policy.DNSEndpoints{Name: names[0]}
	case resolution.text() == "STATIC":
		s.Endpoints.None = true
		resolution.lost("no addresses are in the input: write them into endpoints.static")
	}
	switch resolution.text() {
	case "STATIC", "DNS", "DNS_ROUND_ROBIN":
	case "", "NONE", "DYNAMIC_DNS":
		resolution.lost("the proxy looks the host up, where Istio sends to the address that the caller had")
	default:
		resolution.lost("the proxy looks the host up")
	}
	for n, host := range hosts {
		i.entryHost(o, s, strings.ToLower(host), n, len(hosts))
	}
}

// entryHost makes the service of one of a ServiceEntry's hosts. Those with endpoints of their own share one.
func (i *istioReader) entryHost(o *object, spec policy.ServiceSpec, host string, n, of int) {
	looksUp := len(spec.Endpoints.Static) == 0 && spec.Endpoints.DNS == nil && !spec.Endpoints.None
	if n > 0 && !looksUp {
		first := i.entries[strings.ToLower(o.spec().get("hosts").list()[0].text())]
		if first != nil {
			first.spec.Hosts = append(first.spec.Hosts, host)
			i.entries[host] = first
			return
		}
	}
	if looksUp && strings.HasPrefix(host, "*") {
		o.spec().get("hosts").note(true, "%s: the endpoints of a wildcard can't be looked up", host)
		return
	}
	if looksUp {
		spec.Endpoints.DNS = &policy.DNSEndpoints{Name: host}
	}
	spec.Hosts = []string{host}
	s := &service{
		key: serviceKey{Ref: o.ref(), port: entryPort + len(i.entries)}, wanted: o.name, spec: spec, origins: []string{o.origin()},
		istio: true, meshed: true, used: true, labels: make(map[string]map[string]string), assumed: make(map[string]bool), nowhere: o.spec(),
	}
	if of > 1 && looksUp {
		s.wanted = host
	}
	i.services[s.key], i.entries[host] = s, s
	i.ownTable(s)
}

// entryPort is where the ports of services begin that are none of Kubernetes': it only tells them apart.
const entryPort = 1 << 20

// zoneOf gives the zone of REGION/ZONE/SUBZONE.
func zoneOf(locality field) string {
	parts := append(strings.Split(locality.text(), "/"), "")
	locality.lost("of a locality Weir has the zone alone, %s", cmp.Or(parts[1], "which is not given"))
	return parts[1]
}

// istioGateways reads Gateways. Those with one selector are of the same proxies, and become one.
func (i *istioReader) istioGateways() {
	all := i.of(groupIstio, "Gateway")
	slices.SortStableFunc(all, func(a, b *object) int { return strings.Compare(a.ref().String(), b.ref().String()) })
	bySelector := make(map[string]*gateway)
	for _, o := range all {
		selector := o.spec().get("selector")
		key := fmt.Sprint(selector.labels())
		if len(selector.labels()) == 0 {
			key = o.ref().String()
		}
		g := bySelector[key]
		if g == nil {
			g = &gateway{ref: o.ref(), object: o, selector: key}
			bySelector[key], i.gateways = g, append(i.gateways, g)
			selector.say("a proxy is told which gateway it is with weir bootstrap --gateway %s", g.ref)
		} else {
			selector.say("put together with the Gateway %s, which has the same proxies", g.ref)
		}
		g.origins = append(g.origins, o.origin())
		i.byRef[o.ref()] = g
		for _, server := range o.spec().get("servers").list() {
			i.server(g, o, server)
		}
	}
	for _, g := range i.gateways {
		g.redirectToHTTPS()
	}
}

// server reads a listener.
func (i *istioReader) server(g *gateway, o *object, f field) {
	port := f.get("port")
	l := &listener{at: f, name: cmp.Or(f.get("name").text(), port.get("name").text()), port: port.get("number").number(), hosts: f.get("hosts").texts()}
	for n, host := range l.hosts {
		if rest, ok := strings.CutPrefix(host, "./"); ok {
			l.hosts[n] = o.namespace + "/" + rest
		}
	}
	port.skipFields("targetPort", "name")
	g.listeners = append(g.listeners, l)
	f.get("bind").lost("give the address as spec.address of the Gateway document, for all of its listeners")
	f.get("defaultEndpoint").lost("Weir has no such endpoint")
	tls := f.get("tls")
	redirect := tls.get("httpsRedirect")
	switch protocol := strings.ToUpper(port.get("protocol").text()); protocol {
	case "HTTP", "HTTP2", "GRPC", "GRPC-WEB":
		g.open(l, policy.Listener{Protocol: "http"})
		if redirect.yes() && l.ours != nil {
			l.ours.HTTPSRedirect = new(0)
		}
	case "HTTPS":
		i.https(g, l, tls)
	default:
		f.lost("Weir's listeners are of HTTP and HTTPS, and this one is of %s", protocol)
	}
}

func (i *istioReader) https(g *gateway, l *listener, tls field) {
	if mode := cmp.Or(tls.get("mode").text(), "PASSTHROUGH"); mode != "SIMPLE" {
		l.at.lost("Weir's listeners of HTTPS end TLS and ask for no client certificates, and this one's mode is %s", mode)
		return
	}
	ours := policy.Listener{Protocol: "https"}
	switch credential := tls.get("credentialName"); {
	case credential.given():
		name := credential.text()
		ours.TLS = secretFiles(name)
		credential.lost("Weir reads no Secrets: mount %s at /etc/weir/tls/%s, where the proxy reads its files, or change the paths", name, tidy(name))
		tls.skipFields("serverCertificate", "privateKey")
	default:
		ours.TLS = &policy.ListenerTLS{Certificate: tls.get("serverCertificate").text(), Key: tls.get("privateKey").text()}
	}
	switch version := tls.get("minProtocolVersion"); version.text() {
	case "", "TLS_AUTO", "TLSV1_2":
	case "TLSV1_3":
		ours.TLS.MinVersion = "1.3"
	default:
		version.lost("Weir's oldest version of TLS is 1.2")
	}
	for _, name := range []string{"caCertificates", "caCrl", "caCertCredentialName", "subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash"} {
		if tls.get(name).given() {
			l.at.lost("Weir asks for no client certificates, and this listener checks them: %s", name)
			return
		}
	}
	g.open(l, ours)
}

// redirectToHTTPS gives listeners that only send to HTTPS the port that they send to.
func (g *gateway) redirectToHTTPS() {
	port := 443
	for _, l := range g.listeners {
		if l.ours != nil && l.ours.Protocol == "https" {
			port = l.port
			break
		}
	}
	for _, l := range g.listeners {
		if l.ours != nil && l.ours.HTTPSRedirect != nil {
			l.ours.HTTPSRedirect = &port
		}
	}
}

// takes gives the narrowest host that a server and a VirtualService of a namespace have in common.
func (l *listener) takes(host, namespace string) (string, bool) {
	for _, h := range l.hosts {
		space, name, ok := strings.Cut(h, "/")
		if !ok {
			space, name = "*", h
		}
		if space != "*" && space != namespace {
			continue
		}
		if both, ok := intersect(host, strings.ToLower(name)); ok {
			return both, true
		}
	}
	return "", false
}

// istioDefaults is what Istio does where nothing is said. Timeouts and retries are those of the service that has the
// rules; bounds on connections, those of the service that is called.
func (s *service) istioDefaults() {
	if s.spec.Timeout == nil {
		s.spec.Timeout = new(policy.Duration(0))
	}
	if s.spec.Retries == nil {
		s.spec.Retries = istioRetries()
	}
	if s.key.port == -2 {
		return
	}
	unbounded := 1 << 30
	b := &s.spec.CircuitBreaker
	for _, n := range []**int{&b.MaxConnections, &b.MaxPending, &b.MaxRequests, &b.MaxRetries} {
		if *n == nil {
			*n = &unbounded
		}
	}
}

func istioRetries() *policy.Retries {
	return &policy.Retries{On: []string{"connect-failure", "refused-stream", "unavailable", "cancelled"}}
}
