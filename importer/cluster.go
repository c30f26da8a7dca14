package importer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// world is the input, and what is made of it.
type world struct {
	options  Options
	objects  []*object
	named    map[string]*object // by group, kind and name: the first
	notes    []Note
	kube     map[policy.Ref]*kubeService
	pods     []pod
	spaces   map[string]map[string]string // labels of Namespaces
	services map[serviceKey]*service
	tables   map[string]*table // by host
	gateways []*gateway
	entries  map[string]*service // of Istio's ServiceEntries, by host
	said     map[string]bool     // what is told once
}

func newWorld(o Options) *world {
	return &world{
		options: o, kube: make(map[policy.Ref]*kubeService), spaces: make(map[string]map[string]string),
		services: make(map[serviceKey]*service), tables: make(map[string]*table), entries: make(map[string]*service),
		said: make(map[string]bool), named: make(map[string]*object),
	}
}

// once says whether something is told for the first time.
func (w *world) once(key string) bool {
	told := w.said[key]
	w.said[key] = true
	return !told
}

// kubeService is a Service of Kubernetes.
type kubeService struct {
	object   *object // nil: not in the input
	ref      policy.Ref
	ports    []kubePort
	selector map[string]string
	external string // ExternalName
	headless bool
	slices   []slice
}

type kubePort struct {
	name     string
	number   int
	target   string // a number, or the name of a container's port
	protocol string // Weir's, "" where it is not HTTP
	said     string // what the Service says of the protocol
}

// slice is an EndpointSlice.
type slice struct {
	ports     map[string]int // by name
	endpoints []sliceEndpoint
}

type sliceEndpoint struct {
	addresses []string
	zone, pod string
}

type pod struct {
	ref    policy.Ref
	ip     string
	labels map[string]string
	ports  map[string]int
	zone   string
}

// serviceKey is a port of a service: a Service of ours has one.
type serviceKey struct {
	policy.Ref
	port int // 0: not known
}

// service is a Service document in the making.
type service struct {
	key      serviceKey
	named    policy.Ref // as its document is called, in the end
	wanted   string     // the name that it has rather than its key's
	kube     *kubeService
	spec     policy.ServiceSpec
	origins  []string
	meshed   bool // it is called by its own names
	grpc     bool // a GRPCRoute sends to it
	istio    bool // what Istio does where nothing is said holds for it
	own      *table
	labels   map[string]map[string]string       // of its versions, by name
	versions []string                           // in order
	assumed  map[string]bool                    // versions that no DestinationRule has
	needed   map[string]bool                    // versions that rules send to
	alike    map[string]bool                    // subsets that are all endpoints
	changed  map[string][2]policy.HeaderChanges // of a version's requests and responses
	used     bool                               // a rule or a name leads to it
	invalid  string                             // why nothing can be behind it
	nowhere  field                              // where that it has no endpoints is to be told
}

// cluster reads what Kubernetes says of where services run.
func (w *world) cluster() {
	for _, o := range w.of("", "Namespace") {
		w.spaces[o.name] = o.all().get("metadata").get("labels").labels()
		o.ignore()
	}
	for _, o := range w.of("", "Pod") {
		w.pod(o)
	}
	for _, o := range w.of("", "Service") {
		w.kubeService(o)
	}
	for _, o := range w.of(groupDiscovery, "EndpointSlice") {
		w.endpointSlice(o)
	}
	for _, o := range w.objects {
		if o.whole[""] || o.group == groupGateway || o.group == groupIstio || o.kind == "Service" && o.group == "" || o.kind == "EndpointSlice" {
			continue
		}
		w.foreign(o)
	}
}

// quietKinds run or describe workloads, which stay as they are.
var quietKinds = map[string]bool{
	"Deployment": true, "ReplicaSet": true, "StatefulSet": true, "DaemonSet": true, "Job": true, "CronJob": true,
	"ServiceAccount": true, "ConfigMap": true, "Secret": true, "Endpoints": true, "PersistentVolumeClaim": true,
	"PersistentVolume": true, "Role": true, "RoleBinding": true, "ClusterRole": true, "ClusterRoleBinding": true,
	"CustomResourceDefinition": true, "HorizontalPodAutoscaler": true, "PodDisruptionBudget": true, "Node": true, "Event": true,
}

// foreign tells of a kind that is not read.
func (w *world) foreign(o *object) {
	switch {
	case quietKinds[o.kind]:
		o.ignore()
		o.all().note(false, "left where it is: this is of workloads, and not of traffic")
	case o.group == groupIstioSecure:
		o.lost("Weir has no access rules and no authentication yet: keep what enforces them in front of it")
	case o.group == groupIstioTell:
		o.lost("telemetry is set in a Mesh document: tracing, accessLog")
	case o.group == groupEnvoyGateway, o.group == groupIstioExtend:
		o.lost("no route is read from this kind: what it says of timeouts, retries, limits and circuit breakers goes into Service, Route and RateLimit documents by hand")
	default:
		o.lost("Weir does not read this kind")
	}
}

func (w *world) pod(o *object) {
	p := pod{
		ref: o.ref(), labels: o.all().get("metadata").get("labels").labels(), ip: o.all().get("status").get("podIP").text(),
		ports: make(map[string]int),
	}
	for _, c := range o.spec().get("containers").list() {
		for _, port := range c.get("ports").list() {
			p.ports[port.get("name").text()] = port.get("containerPort").number()
		}
	}
	o.ignore()
	w.pods = append(w.pods, p)
}

func (w *world) kubeService(o *object) {
	spec := o.spec()
	spec.skipFields("clusterIP", "clusterIPs", "type", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "externalTrafficPolicy",
		"sessionAffinityConfig", "externalIPs", "loadBalancerIP", "loadBalancerClass", "loadBalancerSourceRanges",
		"allocateLoadBalancerNodePorts", "healthCheckNodePort", "publishNotReadyAddresses", "trafficDistribution")
	s := &kubeService{
		object: o, ref: o.ref(), selector: spec.get("selector").labels(), headless: spec.get("clusterIP").text() == "None",
	}
	if spec.get("type").text() == "ExternalName" {
		s.external = spec.get("externalName").text()
	} else {
		spec.skipFields("externalName")
	}
	if affinity := spec.get("sessionAffinity"); affinity.text() != "" && affinity.text() != "None" {
		affinity.lost("this is of Kubernetes' own balancing; say affinity: {sourceAddress: true} in the Service document for the same here")
	}
	for _, p := range spec.get("ports").list() {
		p.skipFields("nodePort")
		port := kubePort{name: p.get("name").text(), number: p.get("port").number(), target: p.get("targetPort").text()}
		port.said = cmp.Or(p.get("appProtocol").text(), protocolOfName(port.name), p.get("protocol").text())
		port.protocol = httpProtocol(cmp.Or(p.get("appProtocol").text(), protocolOfName(port.name)))
		if p.get("protocol").text() == "UDP" || p.get("protocol").text() == "SCTP" {
			port.protocol = ""
		}
		port.target = cmp.Or(port.target, strconv.Itoa(port.number))

		s.ports = append(s.ports, port)
	}
	w.kube[s.ref] = s
}

// protocolOfName is what Istio reads in the name of a port: PROTOCOL or PROTOCOL-SUFFIX.
func protocolOfName(name string) string {
	before, _, _ := strings.Cut(name, "-")
	if knownProtocols[before] {
		return before
	}
	return ""
}

var knownProtocols = map[string]bool{
	"http": true, "http2": true, "grpc": true, "https": true, "tls": true, "tcp": true, "udp": true, "mongo": true,
	"mysql": true, "redis": true, "kafka": true, "thrift": true, "dns": true,
}

// httpProtocol gives Weir's word for a protocol; "" is none of HTTP's.
func httpProtocol(said string) string {
	switch strings.ToLower(said) {
	case "", "http", "http1", "http/1.1", "kubernetes.io/ws", "ws":
		return "http"
	case "http2", "h2c", "kubernetes.io/h2c":
		return "http2"
	case "grpc", "grpc-web":
		return "grpc"
	}
	return ""
}

func (w *world) endpointSlice(o *object) {
	all := o.all()
	all.get("addressType").skip()
	name := all.get("metadata").get("labels").get("kubernetes.io/service-name").text()
	s := w.kube[policy.Ref{Namespace: o.namespace, Name: name}]
	if s == nil {
		o.ignore()
		o.all().note(false, "left out: the Service %s/%s is not in the input", o.namespace, name)
		return
	}
	one := slice{ports: make(map[string]int)}
	for _, p := range all.get("ports").list() {
		p.skipFields("protocol", "appProtocol")
		one.ports[p.get("name").text()] = p.get("port").number()
	}
	for _, e := range all.get("endpoints").list() {
		e.skipFields("nodeName", "hostname", "hints", "deprecatedTopology")
		ready := e.get("conditions").get("ready").text()
		e.get("conditions").skip()
		end := sliceEndpoint{addresses: e.get("addresses").texts(), zone: e.get("zone").text(), pod: e.get("targetRef").get("name").text()}
		e.get("targetRef").skip()
		if ready == "false" {
			e.say("left out: it is not ready")
			continue
		}
		one.endpoints = append(one.endpoints, end)
	}
	s.slices = append(s.slices, one)
}

// known gives a Service of the input, or one of which nothing is known.
func (w *world) known(ref policy.Ref) *kubeService {
	if s := w.kube[ref]; s != nil {
		return s
	}
	s := &kubeService{ref: ref}
	w.kube[ref] = s
	return s
}

// port gives the named port, or the only one there could be.
func (s *kubeService) port(number int) *kubePort {
	for i := range s.ports {
		if s.ports[i].number == number {
			return &s.ports[i]
		}
	}
	return nil
}

// backend gives the service of a port of a Kubernetes Service. Port 0 is its first HTTP port.
func (w *world) backend(ref policy.Ref, port int) *service {
	k := w.known(ref)
	if port == 0 {
		for _, p := range k.ports {
			if p.protocol != "" {
				port = p.number
				break
			}
		}
	}
	key := serviceKey{Ref: ref, port: port}
	if s := w.services[key]; s != nil {
		return s
	}
	if s := w.services[serviceKey{Ref: ref}]; s != nil { // its port was not known
		delete(w.services, s.key)
		w.services[key], s.key.port, s.spec.Port = s, port, port
		return s
	}
	if port == 0 {
		for _, s := range w.services {
			if s.key.Ref == ref && s.key.port > 0 && s.key.port < entryPort {
				return s // the only one: of several, the Service that is known says which is first
			}
		}
	}
	s := &service{key: key, kube: k, labels: make(map[string]map[string]string), assumed: make(map[string]bool)}
	s.spec.Port, s.spec.Protocol = port, "http"
	if p := k.port(port); p != nil {
		s.spec.Protocol = p.protocol
		if p.protocol == "" {
			s.invalid = "its protocol is " + p.said + ", and Weir takes HTTP only"
		}
	}
	if k.object != nil {
		s.origins = append(s.origins, k.object.origin())
	}
	w.services[key] = s
	return s
}

func (o *object) origin() string { return o.policyKey().String() + " (" + o.all().place() + ")" }

// invalidBackend gives a service behind which nothing is, for the share of requests that was to fail.
func (w *world) invalidBackend(ref policy.Ref, why string) *service {
	key := serviceKey{Ref: ref, port: -1}
	s := w.services[key]
	if s == nil {
		s = &service{key: key, wanted: ref.Name + "-refused", labels: make(map[string]map[string]string), assumed: make(map[string]bool), invalid: why}
		w.services[key] = s
	}
	return s
}

// locate gives a service its endpoints: those that the input names, and otherwise the name that DNS has for them.
func (w *world) locate(s *service) {
	e := &s.spec.Endpoints
	switch {
	case s.invalid != "":
		e.None, s.spec.Port = true, max(0, s.spec.Port)
	case len(e.Static) > 0 || e.DNS != nil || e.None: // of a ServiceEntry
	case s.kube.external != "":
		e.DNS = &policy.DNSEndpoints{Name: s.kube.external}
	default:
		w.locateKube(s)
	}
	if e.DNS != nil && len(s.spec.Versions) > 0 && !s.needsVersions() {
		s.spec.Versions = nil
		s.nowhere.note(true, "the subsets of %s are left out: no rule sends to one, and without EndpointSlices and Pods in the input it is found by DNS, which has no labels", s.key.Ref)
	}
	if e.DNS != nil && len(s.spec.Versions) > 0 || e.DNS != nil && s.spec.Port == 0 && e.DNS.Port == 0 {
		*e = policy.Endpoints{None: true}
		w.unlocated(s)
	}
	compactPorts(&s.spec)
}

// unlocated tells that nothing is known of where a service runs.
func (w *world) unlocated(s *service) {
	const mend = "give the Service, its EndpointSlices and its Pods as input too (kubectl get services,endpointslices,pods -o yaml), or write them into the document as endpoints.static; until then its requests are answered 503"
	if s.nowhere.given() {
		s.nowhere.note(true, "the endpoints of %s, with their labels, are not in the input: %s", s.key.Ref, mend)
	}
}

func (w *world) locateKube(s *service) {
	e := &s.spec.Endpoints
	port := s.kube.port(s.spec.Port)
	if port != nil {
		e.Static = w.static(s.kube, port)
	}
	if len(e.Static) > 0 {
		return
	}
	e.DNS = &policy.DNSEndpoints{Name: s.key.Name + "." + s.key.Namespace + ".svc.cluster.local"}
	if n, err := strconv.Atoi(portTarget(port)); s.kube.headless && err == nil && n != s.spec.Port {
		e.DNS.Port = n
	}
}

func portTarget(p *kubePort) string {
	if p == nil {
		return ""
	}
	return p.target
}

// static gives the endpoints of a port, from EndpointSlices or else from Pods.
func (w *world) static(k *kubeService, port *kubePort) []policy.StaticEndpoint {
	var all []policy.StaticEndpoint
	add := func(address string, number int, zone string, labels map[string]string) {
		if _, err := netip.ParseAddr(address); err == nil && number > 0 {
			all = append(all, policy.StaticEndpoint{Address: address, Port: number, Zone: zone, Labels: labels})
		}
	}
	for _, sl := range k.slices {
		number, ok := sl.ports[port.name]
		if !ok {
			continue
		}
		for _, end := range sl.endpoints {
			for _, address := range end.addresses {
				add(address, number, end.zone, w.podLabels(k.ref.Namespace, end.pod, address))
			}
		}
	}
	if len(k.slices) > 0 || len(k.selector) == 0 {
		return all
	}
	for _, p := range w.pods {
		if p.ref.Namespace != k.ref.Namespace || !selects(k.selector, p.labels) {
			continue
		}
		number, err := strconv.Atoi(port.target)
		if err != nil {
			number = p.ports[port.target]
		}
		add(p.ip, number, p.zone, p.labels)
	}
	return all
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (w *world) podLabels(namespace, name, address string) map[string]string {
	for _, p := range w.pods {
		if p.ref.Namespace == namespace && (name != "" && p.ref.Name == name || name == "" && p.ip == address) {
			return p.labels
		}
	}
	return nil
}

// compactPorts says a port that all endpoints have once, and keeps of their labels what a version asks for.
func compactPorts(s *policy.ServiceSpec) {
	asked := make(map[string]bool)
	for _, v := range s.Versions {
		for k := range v.Selector {
			asked[k] = true
		}
		if len(v.Selector) == 0 {
			asked["version"] = true
		}
	}
	static := s.Endpoints.Static
	same := len(static) > 0
	for i := range static {
		static[i].Labels = maps.Clone(static[i].Labels)
		maps.DeleteFunc(static[i].Labels, func(k, _ string) bool { return !asked[k] })
		same = same && static[i].Port == static[0].Port
	}
	slices.SortStableFunc(static, func(a, b policy.StaticEndpoint) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	if !same {
		return
	}
	s.Port = static[0].Port
	for i := range static {
		static[i].Port = 0
	}
}
