package importer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// draft is a document that is not written yet.
type draft struct {
	key     policy.Key
	origins []string
	spec    any     // pointer to a policy spec
	rules   []*rule // of a Route: what its rules were made of
	text    []byte  // as it is written; nil where that is to be done
	at      field   // what it was made of first
	closed  bool    // of a Route: no rule of the input is left, and one answers 404
}

// group is hosts with one list of rules.
type group struct {
	hosts    []string
	own      *service
	entries  []entry
	gateways []*gateway
	owner    *service
}

// documents decides which service has which hosts, names everything, and writes it.
func (w *world) documents() []Document {
	tables := w.sortedTables()
	w.redirectListeners(tables)
	w.tellListeners()
	w.tellWider(tables)
	groups := grouped(tables)
	w.own(groups)
	w.name(groups)
	var drafts []*draft
	for _, g := range w.gateways {
		if d := g.draft(groups); d != nil {
			drafts = append(drafts, d)
		}
	}
	slices.SortFunc(drafts, byKey)
	drafts = append(drafts, w.serviceDrafts(groups)...)
	return w.write(drafts)
}

func byKey(a, b *draft) int {
	return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name), -cmp.Compare(a.key.Kind, b.key.Kind))
}

// sortedTables gives the tables by host, each with its rules in the order in which they are to be tried.
func (w *world) sortedTables() []*table {
	var all []*table
	for _, host := range slices.Sorted(maps.Keys(w.tables)) {
		t := w.tables[host]
		slices.SortStableFunc(t.entries, func(a, b entry) int {
			return cmp.Or(-compareBool(a.rule.isIstio(), b.rule.isIstio()), compareBool(t.last(a), t.last(b)), a.rule.order.compare(b.rule.order))
		})
		all = append(all, t)
	}
	return all
}

// last says whether a rule is tried after all others: where several VirtualServices have a host, Istio puts those that
// take every request behind the others.
func (t *table) last(e entry) bool {
	return e.rule.isIstio() && everything(&e.rule.Match) && slices.ContainsFunc(t.entries, func(other entry) bool {
		return other.rule.isIstio() && other.rule.from != e.rule.from
	})
}

func (r *rule) isIstio() bool { return r.at.of.group == groupIstio }

// redirectListeners finds the listeners of HTTP whose every host only sends to a listener of HTTPS: our listeners do
// that by themselves, and their hosts' other rules are then of HTTPS alone.
func (w *world) redirectListeners(tables []*table) {
	for _, g := range w.gateways {
		for _, l := range g.listeners {
			if l.ours == nil || l.ours.Protocol != "http" || l.ours.HTTPSRedirect != nil {
				continue
			}
			at := place{g, l.port}
			if to := redirectedTo(g, at, tables); to != 0 {
				l.ours.HTTPSRedirect = &to
				withdraw(at, tables)
			}
		}
	}
}

// tellListeners tells what a listener's hosts have come to.
func (w *world) tellListeners() {
	for _, g := range w.gateways {
		if !slices.ContainsFunc(g.listeners, func(l *listener) bool { return l.attached }) {
			continue // which is told of the gateway
		}
		for _, l := range g.listeners {
			hosts := strings.Join(append(slices.Clone(l.hosts), l.hostname), " ")
			switch {
			case l.ours == nil:
			case l.ours.HTTPSRedirect != nil:
				l.at.say("it sends every request to HTTPS, and not those of %s alone", cmp.Or(strings.TrimSpace(hosts), "*"))
			case !l.attached:
				l.at.say("no route of the input attaches to it for %s", cmp.Or(strings.TrimSpace(hosts), "*"))
			}
		}
	}
}

// redirectedTo gives the port of HTTPS to which all rules of a place send; 0 if one does anything else.
func redirectedTo(g *gateway, at place, tables []*table) int {
	to := 0
	for _, t := range tables {
		for _, e := range t.entries {
			if !e.places[at] {
				continue
			}
			port := toHTTPS(e.rule)
			if port == 0 || to != 0 && port != to {
				return 0
			}
			to = port
		}
	}
	if !slices.ContainsFunc(g.listeners, func(l *listener) bool { return l.ours != nil && l.port == to && l.ours.Protocol == "https" }) {
		return 0
	}
	return to
}

// toHTTPS gives the port to which a rule sends every request as it is, but over HTTPS; 0 if it does anything else.
func toHTTPS(r *rule) int {
	d := r.Redirect
	if d == nil || d.Scheme != "https" || d.Hostname != "" || d.Path != nil || d.StripQuery || !everything(&r.Match) || !noChanges(r.ResponseHeaders) || d.StatusCode != 301 {
		return 0
	}
	return cmp.Or(d.Port, 443)
}

func everything(m *policy.Match) bool {
	return (m.Path == nil || m.Path.Prefix != nil && *m.Path.Prefix == "/") && m.GRPC == nil &&
		len(m.Methods)+len(m.Headers)+len(m.Query)+len(m.Cookies) == 0
}

func withdraw(at place, tables []*table) {
	for _, t := range tables {
		for _, e := range t.entries {
			delete(e.places, at)
		}
		t.entries = slices.DeleteFunc(t.entries, func(e entry) bool { return len(e.places) == 0 })
	}
}

// tellWider tells of rules that hold at more places than they were to. A host has one list of rules in Weir, and is
// served on all listeners of a gateway.
func (w *world) tellWider(tables []*table) {
	wider := make(map[*object]map[string]bool)
	hosts := make(map[*object][]string)
	for _, t := range tables {
		all := t.places()
		for _, e := range t.entries {
			for p := range all {
				if e.places[p] || p.isNone() || e.nowhere() {
					continue
				}
				o := e.rule.at.of
				if wider[o] == nil {
					wider[o] = make(map[string]bool)
				}
				wider[o][p.String()] = true
				if t.own == nil && !slices.Contains(hosts[o], t.host) {
					hosts[o] = append(hosts[o], t.host)
				}
			}
		}
	}
	for _, o := range w.objects {
		if len(wider[o]) == 0 {
			continue
		}
		f := o.spec().get("parentRefs")
		if !f.given() {
			f = o.spec().get("gateways")
		}
		f.note(true, "%sthe rules hold at %s too: in Weir a host has one list of rules, on all listeners of each gateway that serves it",
			prefixed(hosts[o]), strings.Join(slices.Sorted(maps.Keys(wider[o])), ", "))
	}
}

func prefixed(hosts []string) string {
	if len(hosts) == 0 {
		return ""
	}
	return strings.Join(hosts, ", ") + ": "
}

// isNone says whether a place is that of routes that attach to nothing.
func (p place) isNone() bool { return p.gateway != nil && p.gateway.ref.Name == "" }

// nowhere says whether a rule's route attaches to nothing.
func (e entry) nowhere() bool {
	for p := range e.places {
		if p.isNone() {
			return true
		}
	}
	return false
}

// places gives all places where a host is served.
func (t *table) places() map[place]bool {
	all := make(map[place]bool)
	if t.own != nil {
		all[place{}] = true
	}
	for _, e := range t.entries {
		for p := range e.places {
			all[p] = true
			if p.gateway == nil {
				continue
			}
			for _, l := range p.gateway.listeners {
				if l.ours != nil && l.ours.HTTPSRedirect == nil {
					all[place{p.gateway, l.port}] = true
				}
			}
		}
	}
	return all
}

// String names a place.
func (p place) String() string {
	if p.gateway == nil {
		return "the mesh"
	}
	if p.port == 0 {
		return "the Gateway " + p.gateway.ref.String()
	}
	return fmt.Sprintf("the port %d of the Gateway %s", p.port, p.gateway.ref)
}

// grouped puts hosts with the same rules at the same gateways together.
func grouped(tables []*table) []*group {
	var all []*group
	for _, t := range tables {
		if len(t.entries) == 0 && t.own == nil {
			continue
		}
		g := &group{own: t.own, entries: t.entries}
		if t.own == nil {
			g.hosts = []string{t.host}
		}
		for p := range t.places() {
			if p.gateway != nil && !slices.Contains(g.gateways, p.gateway) {
				g.gateways = append(g.gateways, p.gateway)
			}
		}
		slices.SortFunc(g.gateways, func(a, b *gateway) int { return strings.Compare(a.ref.String(), b.ref.String()) })
		if i := slices.IndexFunc(all, g.same); i >= 0 {
			all[i].hosts = append(all[i].hosts, g.hosts...)
			continue
		}
		all = append(all, g)
	}
	return all
}

func (g *group) same(other *group) bool {
	return g.own == other.own && slices.Equal(g.gateways, other.gateways) &&
		slices.EqualFunc(g.entries, other.entries, func(a, b entry) bool { return a.rule == b.rule })
}

// target gives the only service that a group's rules send to, or nil.
func (g *group) target() *service {
	var only *service
	for _, e := range g.entries {
		for _, s := range e.rule.to {
			if only != nil && only != s.service || s.service.invalid != "" {
				return nil
			}
			only = s.service
		}
	}
	return only
}

// own gives each group the service that has its hosts: the one whose names they are; or the one to which all of its
// rules send, if that has no other names; or else one that runs nowhere.
func (w *world) own(groups []*group) {
	wanted := make(map[*service]int)
	for _, g := range groups {
		if g.own == nil && g.target() != nil {
			wanted[g.target()]++
		}
	}
	for _, g := range groups {
		target := g.target()
		switch {
		case g.own != nil:
			g.owner = g.own
		case target != nil && !target.meshed && wanted[target] == 1:
			g.owner = target
			target.spec.Hosts = g.hosts
		default:
			g.owner = w.front(g)
		}
		g.owner.used = true
	}
}

// front makes a service that has hosts and runs nowhere.
func (w *world) front(g *group) *service {
	of := g.entries[0].rule.at
	for _, e := range g.entries {
		if older(e.rule.at.of, of.of) < 0 {
			of = e.rule.at
		}
	}
	s := &service{key: serviceKey{Ref: of.of.ref(), port: -2}, wanted: of.of.name, nowhere: field{}}
	for i := 2; w.services[s.key] != nil; i++ {
		s.key.Name = of.of.name + "-" + itoa(i)
	}
	w.services[s.key] = s
	s.spec.Hosts, s.spec.Endpoints.None = g.hosts, true
	s.istio = of.of.group == groupIstio
	for _, e := range g.entries {
		if origin := e.rule.at.of.origin(); !slices.Contains(s.origins, origin) {
			s.origins = append(s.origins, origin)
		}
	}
	return s
}

// name gives every service that is used a name of its own, and its own hosts.
func (w *world) name(groups []*group) {
	for _, g := range groups {
		for _, e := range g.entries {
			for _, s := range e.rule.to {
				s.service.use(s.version, s.at)
			}
			for _, m := range e.rule.mirrors {
				m.service.use(m.version, e.rule.at)
			}
		}
	}
	var used []*service
	for _, s := range w.services {
		if s.used {
			used = append(used, s)
		}
	}
	// Services that run somewhere keep their names; of several ports of one, the first does.
	slices.SortFunc(used, func(a, b *service) int {
		return cmp.Or(compareBool(a.key.port < 0, b.key.port < 0), cmp.Compare(a.key.Namespace, b.key.Namespace),
			cmp.Compare(a.key.Name, b.key.Name), a.rank()-b.rank())
	})
	taken := make(map[string]map[string]bool)
	short := make(map[string]int)
	for _, s := range used {
		namespace := tidy(s.key.Namespace)
		if taken[namespace] == nil {
			taken[namespace] = make(map[string]bool)
		}
		name := tidy(cmp.Or(s.wanted, s.key.Name))
		switch {
		case taken[namespace][name] && s.key.port > 0 && s.key.port < entryPort:
			name += "-" + itoa(s.key.port)
		case taken[namespace][name]:
			name += "-front"
		}
		s.named = policy.Ref{Namespace: namespace, Name: distinctName(name, taken[namespace])}
		if s.meshed && s.kube != nil && s.named.Name == tidy(s.key.Name) {
			short[s.key.Name]++
		}
	}
	for _, s := range used {
		s.ownHosts(short)
	}
	for _, g := range groups {
		if g.own != nil {
			g.owner.spec.Hosts = append(g.owner.spec.Hosts, g.hosts...)
		}
	}
}

// use remembers that a rule sends to a service, and to which version of it.
func (s *service) use(version string, at field) {
	s.used = true
	if !s.nowhere.given() {
		s.nowhere = at
	}
	if s.needed == nil {
		s.needed = make(map[string]bool)
	}
	s.needed[s.version(version)] = true
}

// needsVersions says whether a rule sends to a version.
func (s *service) needsVersions() bool {
	return len(s.needed) > 1 || len(s.needed) == 1 && !s.needed[""]
}

// rank puts the port that a Service names first, or else the lowest, first.
func (s *service) rank() int {
	if s.kube != nil {
		for i, p := range s.kube.ports {
			if p.number == s.key.port {
				return i - 100
			}
		}
	}
	return s.key.port
}

// ownHosts gives a service of the mesh the names by which its callers know it.
func (s *service) ownHosts(short map[string]int) {
	if !s.meshed || s.kube == nil {
		return
	}
	if s.named.Name != tidy(s.key.Name) {
		s.spec.Hosts = nil // another port of the same name: the default host tells it apart
		return
	}
	name := s.key.Name + "." + s.key.Namespace
	s.spec.Hosts = append(s.spec.Hosts, name+".svc.cluster.local", name+".svc", name)
	if short[s.key.Name] == 1 {
		s.spec.Hosts = append(s.spec.Hosts, s.key.Name)
	}
}

// draft gives a Gateway document; nil if there is nothing that it would serve.
func (g *gateway) draft(groups []*group) *draft {
	if g.object == nil {
		return nil
	}
	spec := &policy.GatewaySpec{}
	for _, l := range g.listeners {
		if l.ours != nil && !slices.ContainsFunc(spec.Listeners, func(had policy.Listener) bool { return had.Port == l.port }) {
			spec.Listeners = append(spec.Listeners, *l.ours)
		}
	}
	for _, group := range groups {
		if slices.Contains(group.gateways, g) {
			spec.Services = append(spec.Services, group.owner.named.String())
		}
	}
	slices.Sort(spec.Services)
	spec.Services = slices.Compact(spec.Services)
	if len(spec.Services) == 0 || len(spec.Listeners) == 0 {
		if !g.object.whole[""] {
			g.object.all().note(true, "no route of the input attaches to it, or it has no listener that Weir could have")
		}
		return nil
	}
	return &draft{
		key:     policy.Key{Kind: "Gateway", Namespace: tidy(g.ref.Namespace), Name: tidy(g.ref.Name)},
		origins: g.origins, spec: spec, at: g.object.all(),
	}
}

// serviceDrafts gives the Service documents, each with its Route.
func (w *world) serviceDrafts(groups []*group) []*draft {
	routes := make(map[*service]*group)
	for _, g := range groups {
		if len(g.entries) > 0 {
			routes[g.owner] = g
		}
	}
	w.versionHeaders(groups)
	var all []*draft
	for _, s := range w.services {
		if s.used {
			all = append(all, w.serviceDraft(s, routes[s]))
			if g := routes[s]; g != nil {
				all = append(all, w.routeDraft(s, g))
			}
		}
	}
	slices.SortFunc(all, byKey)
	return all
}

func (w *world) serviceDraft(s *service, route *group) *draft {
	for _, v := range s.versions {
		one := policy.Version{Name: v, Selector: s.labels[v]}
		if len(one.Selector) == 1 && one.Selector["version"] == v {
			one.Selector = nil // the default
		}
		one.RequestHeaders, one.ResponseHeaders = s.changed[v][0], s.changed[v][1]
		s.spec.Versions = append(s.spec.Versions, one)
	}
	if s.grpc && s.spec.Protocol == "http" {
		s.spec.Protocol = "grpc"
	}
	if s.spec.Protocol == "http" || s.spec.Protocol == "" {
		s.spec.Protocol = ""
	}
	at := s.nowhere
	switch {
	case route != nil && len(route.entries) > 0:
		at = route.entries[0].rule.at
	case !at.given() && s.kube != nil && s.kube.object != nil:
		at = s.kube.object.all()
	case !at.given():
		at = w.objects[0].all()
	}
	if s.istio {
		s.istioDefaults()
	}
	w.locate(s)
	if s.spec.Endpoints.None {
		s.spec.Port = 0
	}
	return &draft{
		key: policy.Key{Kind: "Service", Namespace: s.named.Namespace, Name: s.named.Name}, origins: s.origins, spec: &s.spec, at: at,
	}
}

// versionHeaders puts header changes of single destinations where our documents can say them: at the rule, if all of
// its destinations have the same ones, or at the version, if all rules that send to it have.
func (w *world) versionHeaders(groups []*group) {
	type use struct {
		service *service
		version string
	}
	seen := make(map[*rule]bool)
	uses := make(map[use][]used)
	var order []use
	for _, g := range groups {
		for _, e := range g.entries {
			r := e.rule
			if seen[r] || len(r.to) == 0 {
				continue
			}
			seen[r] = true
			first := r.to[0]
			if !slices.ContainsFunc(r.to, func(s share) bool {
				return !sameChanges(s.request, first.request) || !sameChanges(s.response, first.response)
			}) {
				r.RequestHeaders = mergeChanges(r.RequestHeaders, first.request)
				r.ResponseHeaders = mergeChanges(r.ResponseHeaders, first.response)
				for i := range r.to {
					r.to[i].request, r.to[i].response = policy.HeaderChanges{}, policy.HeaderChanges{}
				}
			}
			for i := range r.to {
				u := use{r.to[i].service, r.to[i].service.version(r.to[i].version)}
				if uses[u] == nil {
					order = append(order, u)
				}
				uses[u] = append(uses[u], used{&r.to[i], r})
			}
		}
	}
	for _, u := range order {
		w.atVersion(u.service, u.version, uses[u])
	}
}

// used is a destination, and the rule that has it.
type used struct {
	*share
	rule *rule
}

func (w *world) atVersion(s *service, version string, uses []used) {
	first := uses[0]
	differ := slices.ContainsFunc(uses, func(u used) bool {
		// Of one header, the rule has the last word there, and the version here.
		return !sameChanges(u.request, first.request) || !sameChanges(u.response, first.response) ||
			overlap(u.request, u.rule.RequestHeaders) || overlap(u.response, u.rule.ResponseHeaders)
	})
	if !differ && noChanges(first.request) && noChanges(first.response) {
		return
	}
	if differ || version == "" {
		told := make(map[string]bool)
		for _, u := range uses {
			if (!noChanges(u.request) || !noChanges(u.response)) && !told[u.at.path+u.at.place()] {
				told[u.at.path+u.at.place()] = true
				u.at.note(true, "header changes of one destination among several are its version's in Weir, and hold for all rules: write them into the rule, or as versions[].requestHeaders")
			}
		}
		return
	}
	if s.changed == nil {
		s.changed = make(map[string][2]policy.HeaderChanges)
	}
	s.changed[version] = [2]policy.HeaderChanges{first.request, first.response}
}

func (w *world) routeDraft(s *service, g *group) *draft {
	spec := &policy.RouteSpec{Service: s.named.Name}
	d := &draft{
		key: policy.Key{Kind: "Route", Namespace: s.named.Namespace, Name: s.named.Name}, spec: spec, at: g.entries[0].rule.at,
	}
	taken := make(map[string]bool)
	for _, e := range g.entries {
		r := e.rule.Rule
		r.Name = distinctName(r.Name, taken)
		for _, to := range e.rule.to {
			one := policy.Destination{Version: to.service.version(to.version)}
			if to.service != s {
				one.Service = reference(to.service.named, s.named)
			}
			if to.weight != 1 && len(e.rule.to) > 1 {
				one.Weight = new(to.weight)
			}
			r.To = append(r.To, one)
		}
		if len(r.To) == 1 && r.To[0] == (policy.Destination{}) {
			r.To = nil // the default
		}
		for _, m := range e.rule.mirrors {
			one := policy.Mirror{Version: m.service.version(m.version), Percent: m.percent}
			if m.service != s {
				one.Service = reference(m.service.named, s.named)
			}
			r.Mirror = append(r.Mirror, one)
		}
		spec.Rules, d.rules = append(spec.Rules, r), append(d.rules, e.rule)
		if origin := e.rule.at.of.origin(); !slices.Contains(d.origins, origin) {
			d.origins = append(d.origins, origin)
		}
	}
	return d
}

// reference names a service from a document of a namespace.
func reference(to, from policy.Ref) string {
	if to.Namespace == from.Namespace {
		return to.Name
	}
	return to.String()
}

// String tells services apart.
func (k serviceKey) String() string { return k.Ref.String() + ":" + itoa(k.port) }
