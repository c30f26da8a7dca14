package importer

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// destinationRules gives services their versions and how they are called.
func (i *istioReader) destinationRules() {
	all := i.of(groupIstio, "DestinationRule")
	slices.SortStableFunc(all, older)
	// Rules for one host come before those for many.
	slices.SortStableFunc(all, func(a, b *object) int {
		return compareBool(wild(a), wild(b))
	})
	ruled := make(map[*service]*object)
	for _, o := range all {
		i.destinationRule(o, ruled)
	}
	for _, s := range i.services {
		for _, v := range s.versions {
			if s.labels[v] == nil && s.assumed[v] {
				s.labels[v] = map[string]string{"version": v}
			}
		}
	}
}

func wild(o *object) bool { return strings.HasPrefix(o.spec().get("host").text(), "*") }

func (i *istioReader) destinationRule(o *object, ruled map[*service]*object) {
	spec := o.spec()
	if selector := spec.get("workloadSelector"); selector.given() {
		o.lost("it is for callers with certain labels alone, and Weir's are for all callers")
		return
	}
	spec.get("exportTo").lost("Weir's services are the same for all callers")
	host := spec.get("host")
	services := i.ruledBy(host, o.namespace)
	if len(services) == 0 {
		o.lost("no service of the input has the host %s", host.text())
		return
	}
	var applied []*service
	for _, s := range services {
		for _, subset := range spec.get("subsets").list() {
			s.addVersion(subset)
		}
		if had := ruled[s]; had != nil {
			if !wild(o) {
				spec.get("trafficPolicy").lost("the DestinationRule %s, which is older, says how %s is called", had.ref(), s.key.Ref)
			}
			continue
		}
		ruled[s] = o
		s.origins = append(s.origins, o.origin())
		applied = append(applied, s)
	}
	for _, subset := range spec.get("subsets").list() {
		if p := subset.get("trafficPolicy"); p.given() {
			p.lost("how a service is called holds for all of its versions: say it in the Service document, or make the version a service of its own")
		}
	}
	switch p := spec.get("trafficPolicy"); {
	case !p.given() || o.whole[p.path]:
	case len(applied) == 0:
		p.say("left out: each service that it is for has a DestinationRule of its own")
		p.skip()
	default:
		portLevel(p, applied)
	}
}

// ruledBy gives the services of a DestinationRule's host.
func (i *istioReader) ruledBy(host field, namespace string) []*service {
	full := fqdn(host.text(), namespace)
	if ref, ok := kubeRef(full); ok && i.entries[full] == nil {
		i.service(host, namespace, 0)
		for _, s := range i.services {
			if s.kube != nil && s.key.Ref == ref && s.invalid == "" && !s.nowhere.given() {
				s.nowhere = host
			}
		}
	}
	var all []*service
	for _, s := range i.services {
		if s.key.port < 0 {
			continue
		}
		for _, name := range s.istioHosts() {
			if name == full || covers(full, name) {
				all = append(all, s)
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b *service) int {
		return cmp.Or(strings.Compare(a.key.Ref.String(), b.key.Ref.String()), cmp.Compare(a.key.port, b.key.port))
	})
	return all
}

// istioHosts are the complete names of a service.
func (s *service) istioHosts() []string {
	if s.kube != nil {
		return []string{s.key.Name + "." + s.key.Namespace + clusterDomain}
	}
	return s.spec.Hosts
}

// addVersion takes a subset. One without labels is all endpoints.
func (s *service) addVersion(f field) {
	name, labels := f.get("name").text(), f.get("labels").labels()
	if len(labels) == 0 {
		s.everything(name)
		return
	}
	s.want(name, false)
	s.labels[tidy(name)] = labels
}

func (s *service) everything(subset string) {
	if s.alike == nil {
		s.alike = make(map[string]bool)
	}
	s.alike[tidy(subset)] = true
	s.versions = slices.DeleteFunc(s.versions, func(v string) bool { return v == tidy(subset) })
}

// want makes sure that there is a version. One that is only assumed has the labels that most have.
func (s *service) want(subset string, assumed bool) {
	v := tidy(subset)
	if !slices.Contains(s.versions, v) && !s.alike[v] {
		s.versions = append(s.versions, v)
		slices.Sort(s.versions)
	}
	s.assumed[v] = assumed || s.assumed[v]
}

// version gives our name of a subset.
func (s *service) version(subset string) string {
	if v := tidy(subset); subset != "" && !s.alike[v] {
		return v
	}
	return ""
}

// portLevel applies a traffic policy. What is said of a port replaces all that is said of the host.
func portLevel(p field, services []*service) {
	ports := p.get("portLevelSettings").list()
	matched := make(map[string]bool)
	general := false
	for _, s := range services {
		settings := p
		for _, one := range ports {
			if one.get("port").get("number").number() == s.key.port || s.key.port >= entryPort && one.get("port").get("number").number() == s.spec.Port {
				settings, matched[one.path] = one, true
			}
		}
		general = general || settings.path == p.path
		trafficPolicy(settings, s)
	}
	for _, one := range ports {
		if !matched[one.path] {
			one.lost("no service of the input has this port")
		}
	}
	if !general {
		for _, name := range []string{"loadBalancer", "connectionPool", "outlierDetection", "tls"} {
			p.get(name).say("left out: portLevelSettings replace it for each port")
			p.get(name).skip()
		}
	}
}

// trafficPolicy reads how a service is called.
func trafficPolicy(p field, s *service) {
	loadBalancer(p.get("loadBalancer"), s)
	connectionPool(p.get("connectionPool"), s)
	outliers(p.get("outlierDetection"), s)
	switch mode := p.get("tls").get("mode"); mode.text() {
	case "", "DISABLE":
		p.get("tls").skip()
	case "ISTIO_MUTUAL":
		p.get("tls").lost("this version of Weir has no mutual TLS between proxies: requests go out as plain text")
	default:
		p.get("tls").lost("Weir does not speak TLS to endpoints: requests go out as plain text")
	}
	p.get("tunnel").lost("Weir has no tunnels")
	p.get("proxyProtocol").lost("Weir does not speak the PROXY protocol")
	if budget := p.get("retryBudget"); budget.given() {
		s.spec.Retries = istioRetries()
		s.spec.Retries.Budget = 20
		if percent := budget.get("percent"); percent.given() {
			s.spec.Retries.Budget = percent.decimal()
		}
		retries := max(1, cmp.Or(budget.get("minRetryConcurrency").number(), 3))
		s.spec.CircuitBreaker.MaxRetries = &retries
		budget.get("budgetInterval").lost("Weir's budget is of the requests that are active")
	}
}

func loadBalancer(f field, s *service) {
	if !f.given() {
		return
	}
	switch simple := f.get("simple"); simple.text() {
	case "", "UNSPECIFIED", "LEAST_REQUEST", "LEAST_CONN":
	case "ROUND_ROBIN":
		s.spec.LoadBalancing.Policy = "round_robin"
	case "RANDOM":
		s.spec.LoadBalancing.Policy = "random"
	default:
		simple.lost("Weir has no policy %s: least_request it is", simple.text())
	}
	hash := f.get("consistentHash")
	for _, name := range []string{"httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"} {
		if one := hash.get(name); one.given() {
			hashKey(one, name, s)
		}
	}
	if hash.given() && s.spec.Affinity != nil {
		hash.say("carried over as affinity, by which a user stays with a version as well where a rule sends to several")
		s.spec.LoadBalancing.Policy = "ring_hash"
		if hash.get("maglev").given() {
			s.spec.LoadBalancing.Policy = "maglev"
		}
	}
	const size = "Weir leaves the table's size to Envoy"
	hash.get("minimumRingSize").lost(size)
	hash.get("ringHash").get("minimumRingSize").lost(size)
	hash.get("maglev").get("tableSize").lost(size)
	for _, name := range []string{"localityLbSetting", "zoneAwareLbSetting"} {
		f.get(name).lost("this version of Weir has no localities")
	}
	f.get("warmup").lost("Weir's endpoints take their share at once")
	f.get("warmupDurationSecs").lost("Weir's endpoints take their share at once")
}

func hashKey(f field, kind string, s *service) {
	switch kind {
	case "httpHeaderName":
		s.spec.Affinity = &policy.HashKey{Header: f.text()}
	case "useSourceIp":
		if f.yes() {
			s.spec.Affinity = &policy.HashKey{SourceAddress: true}
		}
	case "httpCookie":
		f.get("attributes").lost("the attributes of Weir's cookies are its own")
		s.spec.Affinity = &policy.HashKey{Cookie: cookieKey(f.get("name").text(), f.get("ttl"), f.get("path"))}
	default:
		f.lost("Weir tells users apart by a cookie, a header or the source address, and not by a query parameter")
	}
}

// cookieKey gives a cookie of which Weir takes whole seconds.
func cookieKey(name string, ttl, path field) *policy.CookieKey {
	c := &policy.CookieKey{Name: name, TTL: ttl.span(), Path: path.text()}
	if c.Path == "/" {
		c.Path = "" // the default
	}
	if c.TTL == nil {
		path.say("left out: it is of a cookie that Weir makes, and this one is somebody else's")
		c.Path = ""
		return c
	}
	switch t := time.Duration(*c.TTL); {
	case *c.TTL > policy.MaxCookieTTL:
		ttl.lost("browsers keep cookies for 400 days at most: 400d it is")
		*c.TTL = policy.MaxCookieTTL
	case t%time.Second != 0:
		ttl.lost("a cookie's time is in whole seconds")
		*c.TTL = policy.Duration(t.Truncate(time.Second) + time.Second)
	}
	return c
}

func connectionPool(f field, s *service) {
	tcp, http, b := f.get("tcp"), f.get("http"), &s.spec.CircuitBreaker
	bound := func(to **int, of field, name string) {
		if n := of.get(name); n.given() {
			at := max(0, min(n.number(), 1<<30))
			*to = &at
		}
	}
	bound(&b.MaxConnections, tcp, "maxConnections")
	bound(&b.MaxPending, http, "http1MaxPendingRequests")
	bound(&b.MaxRequests, http, "http2MaxRequests")
	bound(&b.MaxRetries, http, "maxRetries")
	for _, name := range []string{"connectTimeout", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"} {
		tcp.get(name).lost("Weir has no such setting of connections")
	}
	for _, name := range []string{"maxRequestsPerConnection", "idleTimeout", "maxConcurrentStreams", "http2KeepAlive", "useClientProtocol"} {
		http.get(name).lost("Weir has no such setting of connections")
	}
	switch upgrade := http.get("h2UpgradePolicy"); upgrade.text() {
	case "UPGRADE":
		if s.spec.Protocol == "http" {
			s.spec.Protocol = "http2"
		}
	}
}

func outliers(f field, s *service) {
	if !f.given() {
		return
	}
	o := &policy.OutlierDetection{MaxEjected: 10}
	errors := f.get("consecutive5xxErrors")
	if old := f.get("consecutiveErrors"); !errors.given() {
		errors = old
	} else {
		old.skip()
	}
	gateway := f.get("consecutiveGatewayErrors")
	if errors.given() && errors.number() == 0 {
		f.lost("consecutive5xxErrors is 0, and Weir ejects by those alone")
		return
	}
	o.Consecutive5xx = errors.number()
	if gateway.given() && gateway.number() != 0 {
		gateway.lost("Weir ejects by consecutive 5xx, of which these are a part")
	}
	if d := f.get("interval").duration(); d != nil {
		o.Interval = *d
	}
	if d := f.get("baseEjectionTime").duration(); d != nil {
		o.EjectFor = *d
	}
	if m := f.get("maxEjectionPercent"); m.given() && m.number() > 0 {
		o.MaxEjected = m.decimal()
	}
	f.get("minHealthPercent").lost("Weir ejects whatever share is healthy, up to maxEjected")
	f.get("splitExternalLocalOriginErrors").lost("Weir counts both alike")
	f.get("consecutiveLocalOriginFailures").lost("Weir counts both alike")
	f.get("outlierDetectionHttpErrorCodes").lost("Weir counts 5xx")
	s.spec.OutlierDetection = o
}
