package importer

import (
	"cmp"
	"encoding/base64"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/machinenativeops/weir/policy"
)

// layers are mappings read as one: a field is the first one's that has it. A VirtualService's delegate comes before what
// delegates to it.
type layers []field

func (l layers) get(name string) field {
	for _, f := range l {
		if one := f.get(name); one.given() {
			return one
		}
	}
	return l[0].get(name)
}

// pairs gives the fields of all mappings with a name, by key.
func (l layers) pairs(name string) []field {
	var all []field
	for _, f := range l {
		for _, p := range f.get(name).pairs() {
			if !slices.ContainsFunc(all, func(had field) bool { return had.name() == p.name() }) {
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.name(), b.name()) })
	return all
}

// conditional is a rule with what decides where it holds.
type conditional struct {
	*rule
	gateways []string // none: all of its VirtualService's
	port     int      // 0: all
	at       field
}

const meshGateway = "mesh"

// virtualServices reads them, oldest first.
func (i *istioReader) virtualServices() {
	all := i.of(groupIstio, "VirtualService")
	slices.SortStableFunc(all, older)
	for _, o := range all {
		if len(o.spec().get("hosts").list()) == 0 {
			i.delegates[o.ref()] = o
		}
	}
	for _, o := range all {
		if i.delegates[o.ref()] == nil {
			i.virtualService(o)
		}
	}
	for _, o := range all {
		if i.delegates[o.ref()] == o && !i.delegated[o] {
			o.lost("no VirtualService of the input delegates to it, and it has no hosts")
		}
	}
}

func (i *istioReader) virtualService(o *object) {
	spec := o.spec()
	visible := spec.get("exportTo")
	if all := visible.texts(); len(all) != 1 || all[0] != "*" {
		visible.lost("Weir's routes hold for all callers")
	}
	spec.get("tls").lost("Weir routes HTTP only")
	spec.get("tcp").lost("Weir routes HTTP only")
	if !spec.get("http").given() {
		spec.skipFields("hosts", "gateways")
		return
	}
	var rules []conditional
	for n, f := range spec.get("http").list() {
		rules = append(rules, i.httpRoute(o, layers{f}, o.name+"-"+strconv.Itoa(n), nil)...)
	}
	gateways := i.gatewayNames(spec.get("gateways").texts(), o.namespace)
	if len(gateways) == 0 {
		gateways = []string{meshGateway}
	}
	for _, host := range spec.get("hosts").list() {
		i.host(o, host, gateways, rules)
	}
	for _, r := range rules {
		if !i.holds(r.rule) {
			r.at.note(true, "the rule is left out: it holds for no host at any of its gateways")
		}
	}
}

// holds says whether any host has the rule.
func (i *istioReader) holds(r *rule) bool {
	for _, t := range i.tables {
		if slices.ContainsFunc(t.entries, func(e entry) bool { return e.rule == r }) {
			return true
		}
	}
	return false
}

func (i *istioReader) gatewayNames(all []string, namespace string) []string {
	out := make([]string, len(all))
	for n, name := range all {
		if out[n] = name; name != meshGateway && !strings.Contains(name, "/") {
			out[n] = namespace + "/" + name
		}
	}
	return out
}

// host gives a host its rules. One that is a service's own name gets those of the mesh, if the VirtualService has any;
// the others get those of the gateways.
func (i *istioReader) host(o *object, f field, gateways []string, rules []conditional) {
	full := fqdn(f.text(), o.namespace)
	own := i.service(f, o.namespace, 0)
	inMesh := slices.Contains(gateways, meshGateway)
	edge := slices.DeleteFunc(slices.Clone(gateways), func(g string) bool { return g == meshGateway })
	if own != nil && inMesh {
		t := i.ownTable(own)
		if len(t.entries) > 0 {
			f.lost("in the mesh the first routes of a host hold alone, and %s has it", t.entries[0].rule.at.of.policyKey())
			return
		}
		for _, r := range rules {
			i.inMesh(r, t, own)
		}
		i.atGateways(o, full, own, edge, rules)
		if len(t.entries) == 0 {
			t.add(nothing(f, o), place{})
		}
		return
	}
	if inMesh && len(edge) == 0 {
		for _, r := range rules {
			if r.of(meshGateway) && !r.elsewhere() {
				i.table(full).add(r.rule, place{})
			}
		}
		return
	}
	if full == "*" {
		f.say("proxies beside workloads send what no other host takes to these rules too")
	}
	if !i.atGateways(o, full, own, edge, rules) {
		f.lost("no server of its gateways takes this host")
	}
}

// inMesh adds a rule to those of a service's own name.
func (i *istioReader) inMesh(r conditional, t *table, own *service) {
	switch {
	case !r.of(meshGateway):
	case own.key.port == 0 && r.elsewhere():
	case r.port != 0 && own.key.port != 0 && own.key.port < entryPort && r.port != own.key.port:
		r.at.get("port").note(true, "the rule is left out: the port %d is a service by itself in Weir, which its hosts don't name", r.port)
	default:
		t.add(r.rule, place{})
	}
}

// of says whether a rule holds at a gateway.
func (r *conditional) of(gateway string) bool {
	return len(r.gateways) == 0 || slices.Contains(r.gateways, gateway)
}

// elsewhere leaves out a rule for one port of a host of which no port is known.
func (r *conditional) elsewhere() bool {
	if r.port != 0 {
		r.at.note(true, "the rule is left out: it is for the port %d alone, and whether the host is served there is not in the input", r.port)
	}
	return r.port != 0
}

// atGateways adds the rules that hold at gateways, and says whether any of them takes the host.
func (i *istioReader) atGateways(o *object, host string, own *service, gateways []string, rules []conditional) (served bool) {
	for _, name := range gateways {
		g := i.byRef[policy.ParseRef(name, o.namespace)]
		if g == nil || g.object == nil {
			served = true
			i.unknownGateway(o, name, host, own, rules)
			continue
		}
		for _, l := range g.listeners {
			both, ok := l.takes(host, o.namespace)
			if !ok || l.ours == nil {
				continue
			}
			served, l.attached = true, true
			if l.ours.HTTPSRedirect != nil {
				continue
			}
			for _, r := range rules {
				if r.of(name) && (r.port == 0 || r.port == l.port) {
					i.tableFor(both, own).add(r.rule, place{g, l.port})
				}
			}
		}
	}
	return served
}

func (i *istioReader) tableFor(host string, own *service) *table {
	if own != nil {
		return i.ownTable(own)
	}
	return i.table(host)
}

func (i *istioReader) unknownGateway(o *object, name, host string, own *service, rules []conditional) {
	ref := policy.ParseRef(name, o.namespace)
	if i.once("gateway " + name) {
		o.spec().get("gateways").note(true, "the Gateway %s is not in the input: give it too, or write a Gateway document that serves what is made of its routes", name)
	}
	for _, r := range rules {
		if r.of(name) && !r.elsewhere() {
			i.tableFor(host, own).add(r.rule, place{i.stranger(ref), 0})
		}
	}
}

// stranger gives a gateway that is not in the input, the same each time.
func (i *istioReader) stranger(ref policy.Ref) *gateway {
	if i.byRef[ref] == nil {
		i.byRef[ref] = &gateway{ref: ref}
	}
	return i.byRef[ref]
}

// httpRoute reads one of a VirtualService's routes, or those that it delegates to.
func (i *istioReader) httpRoute(o *object, l layers, name string, matches []layers) []conditional {
	f := l[0]
	if d := f.get("delegate"); d.given() {
		return i.delegate(o, l, d, name)
	}
	r := &rule{at: f, from: o}
	r.Name = cmp.Or(l.names(), name)
	v := &virtualRule{istioReader: i, rule: r, namespace: f.of.namespace}
	v.action(l)
	if matches == nil {
		for _, m := range f.get("match").list() {
			matches = append(matches, layers{m})
		}
		if len(matches) == 0 {
			one := r.clone()
			v.rewrites(l, one, uriMatch{kind: "any"})
			return []conditional{{rule: one, at: f}}
		}
	}
	var all []conditional
	for _, m := range matches {
		all = append(all, v.match(l, m)...)
	}
	if len(all) == 0 {
		f.skip() // each of its matches is told
	}
	return all
}

// names puts the names of a route and of what delegates to it together.
func (l layers) names() string {
	var all []string
	for _, f := range l {
		if name := f.get("name").text(); name != "" {
			all = append([]string{name}, all...)
		}
	}
	return strings.Join(all, "-")
}

// delegate reads the routes of another VirtualService under the conditions of this one.
func (i *istioReader) delegate(o *object, l layers, d field, name string) []conditional {
	ref := policy.Ref{Namespace: cmp.Or(d.get("namespace").text(), o.namespace), Name: d.get("name").text()}
	to := i.delegates[ref]
	root := l[0]
	if to == nil || len(l) > 1 {
		why := "the VirtualService " + ref.String() + " is not in the input, or has hosts of its own"
		if len(l) > 1 {
			why = "a delegate can't delegate"
		}
		root.lost("%s: its requests go to the rules that follow", why)
		return nil
	}
	i.delegated[to] = true
	spec := to.spec()
	spec.get("exportTo").skip()
	spec.get("gateways").skip()
	spec.get("tls").lost("Weir routes HTTP only")
	spec.get("tcp").lost("Weir routes HTTP only")
	var all []conditional
	for n, f := range spec.get("http").list() {
		matches, ok := mergeMatches(root.get("match").list(), f.get("match").list())
		if !ok {
			f.lost("its match contradicts that of %s, which delegates to it: Istio leaves it out too", root.of.ref())
			continue
		}
		all = append(all, i.httpRoute(o, layers{f, root}, name+"-"+strconv.Itoa(n), matches)...)
	}
	return all
}

// mergeMatches pairs each match of a delegate with those of its root that it agrees with.
func mergeMatches(root, delegate []field) ([]layers, bool) {
	var all []layers
	if len(root) == 0 || len(delegate) == 0 {
		for _, m := range slices.Concat(root, delegate) {
			all = append(all, layers{m})
		}
		return all, true
	}
	for _, d := range delegate {
		found := false
		for _, r := range root {
			if agree(r, d) {
				all, found = append(all, layers{d, r}), true
			}
		}
		if !found {
			return nil, false
		}
	}
	return all, true
}

// agree says whether a delegate's match narrows its root's.
func agree(root, leaf field) bool {
	for _, name := range []string{"uri", "scheme", "method", "authority"} {
		if !narrows(readString(root.get(name)), readString(leaf.get(name))) {
			return false
		}
	}
	for _, name := range []string{"headers", "withoutHeaders", "queryParams"} {
		for _, p := range leaf.get(name).pairs() {
			if !narrows(readString(root.get(name).get(p.name())), readString(p)) {
				return false
			}
		}
	}
	a, b := root.get("port").number(), leaf.get("port").number()
	return root.get("ignoreUriCase").yes() == leaf.get("ignoreUriCase").yes() && (a == 0 || b == 0 || a == b)
}

func narrows(root, leaf stringMatch) bool {
	switch {
	case root.kind == "" || leaf.kind == "":
		return true
	case root.kind == "exact":
		return leaf == root
	case root.kind == "prefix" && leaf.kind != "regex":
		return strings.HasPrefix(leaf.value, root.value)
	}
	return false
}

// stringMatch is Istio's; kind is "" where none is given, and "present" for one without a condition.
type stringMatch struct{ kind, value string }

func readString(f field) stringMatch {
	if !f.given() {
		return stringMatch{}
	}
	for _, kind := range []string{"exact", "prefix", "regex"} {
		if one := f.get(kind); one.given() {
			if kind == "regex" && one.text() == "*" {
				return stringMatch{kind: "present"}
			}
			return stringMatch{kind, one.text()}
		}
	}
	return stringMatch{kind: "present"}
}

// pattern gives a regular expression of the whole text; "" where that is no regular expression.
func (m stringMatch) pattern() string {
	switch m.kind {
	case "exact":
		return regexp.QuoteMeta(m.value)
	case "prefix":
		return regexp.QuoteMeta(m.value) + ".*"
	case "regex":
		if _, err := regexp.Compile(m.value); err == nil {
			return m.value
		}
		return ""
	}
	return ".*"
}

// virtualRule is a route of a VirtualService being read.
type virtualRule struct {
	*istioReader
	rule      *rule
	namespace string
}

// action reads what a route does, but for what depends on its match.
func (v *virtualRule) action(l layers) {
	r := v.rule
	if t := l.get("timeout"); t.given() {
		r.Timeout = t.duration()
	}
	v.retries(l.get("retries"))
	h := l.get("headers")
	c := v.headers(h.get("request"))
	r.RequestHeaders, r.ResponseHeaders = c.HeaderChanges, v.headers(h.get("response")).HeaderChanges
	if c.host != "" {
		r.rewriteHost(c.host)
	}
	r.CORS = v.cors(l.get("corsPolicy"))
	r.Fault = v.fault(l.get("fault"))
	v.direct(l.get("directResponse"))
	v.destinations(l.get("route"))
	v.mirrors(l)
}

// settle leaves out what excludes each other, once the match has made redirects and rewrites complete.
func (r *rule) settle() {
	if r.answers() {
		r.to, r.mirrors, r.Timeout, r.Retries, r.URLRewrite = nil, nil, nil, nil, nil
		r.RequestHeaders = policy.HeaderChanges{}
	} else if len(r.to) == 0 {
		r.fail(503)
	}
}

func (v *virtualRule) destinations(f field) {
	all := f.list()
	for _, d := range all {
		weight := d.get("weight")
		one := share{weight: weight.number(), at: d}
		if len(all) == 1 {
			one.weight = 1
		}
		one.service, one.version = v.destination(d.get("destination"))
		h := d.get("headers")
		c := v.headers(h.get("request"))
		one.request, one.response = c.HeaderChanges, v.headers(h.get("response")).HeaderChanges
		if c.host != "" {
			if len(all) == 1 {
				v.rule.rewriteHost(c.host)
			} else {
				h.lost("one destination's Host can't be set: give it a rule of its own")
			}
		}
		v.rule.to = append(v.rule.to, one)
	}
	sum := 0
	for _, s := range v.rule.to {
		sum += s.weight
	}
	if sum == 0 {
		for i := range v.rule.to {
			v.rule.to[i].weight = 1
		}
	}
}

// destination gives a service, and the subset of it.
func (v *virtualRule) destination(f field) (*service, string) {
	host := f.get("host")
	s := v.service(host, v.namespace, f.get("port").get("number").number())
	subset := f.get("subset").text()
	if s == nil {
		host.lost("no Service and no ServiceEntry of the input has this host: its share is answered 503")
		name, _, _ := strings.Cut(host.text(), ".")
		return v.invalidBackend(policy.Ref{Namespace: v.namespace, Name: cmp.Or(name, "unknown")}, "no service has the host"), ""
	}
	if s.invalid != "" {
		host.note(true, "nothing can be sent to it: %s", s.invalid)
	}
	if subset != "" {
		v.wantSubset(s, subset, f)
	}
	return s, subset
}

// wantSubset remembers that a version is needed. Those that DestinationRules have come later.
func (v *virtualRule) wantSubset(s *service, subset string, f field) {
	if v.subsets()[[2]string{fqdn(f.get("host").text(), v.namespace), subset}] {
		return
	}
	if v.once("subset " + s.key.String() + " " + subset) {
		f.get("subset").note(true, "no DestinationRule of the input has the subset %s of %s: its endpoints are taken to have the label version: %s", subset, s.key.Ref, tidy(subset))
	}
	s.want(subset, true)
}

// subsets gives the subsets that DestinationRules have, by host and name.
func (i *istioReader) subsets() map[[2]string]bool {
	if i.subset == nil {
		i.subset = make(map[[2]string]bool)
		for _, o := range i.of(groupIstio, "DestinationRule") {
			host := fqdn(o.spec().get("host").text(), o.namespace)
			for _, s := range o.spec().get("subsets").list() {
				i.subset[[2]string{host, s.get("name").text()}] = true
			}
		}
	}
	return i.subset
}

func (v *virtualRule) mirrors(l layers) {
	add := func(destination, percentage field) {
		percent := 100.0
		if percentage.given() {
			if percent = percentage.decimalOf("value"); percent <= 0 {
				return
			}
		}
		s, subset := v.destination(destination)
		if s.invalid != "" {
			return
		}
		v.rule.mirrors = append(v.rule.mirrors, mirror{service: s, version: subset, percent: partly(percent)})
	}
	old, share := l.get("mirrorPercent"), l.get("mirrorPercentage")
	if older := l.get("mirror_percent"); !old.given() {
		old = older
	} else {
		older.skip()
	}
	if one := l.get("mirror"); one.given() {
		if !share.given() {
			share = old
		} else {
			old.skip()
		}
		add(one, share)
	}
	for _, m := range l.get("mirrors").list() {
		add(m.get("destination"), m.get("percentage"))
	}
}

// decimalOf gives the number in a field of f, or f itself where it is a number.
func (f field) decimalOf(name string) float64 {
	if f.given() && f.value.Value != "" {
		return f.decimal()
	}
	return f.get(name).decimal()
}

func (v *virtualRule) retries(f field) {
	if !f.given() {
		return
	}
	attempts := f.get("attempts").number()
	words, perTry, backoff := f.get("retryOn"), f.get("perTryTimeout").duration(), f.get("backoff").duration()
	if previous := f.get("retryIgnorePreviousHosts"); previous.text() == "false" {
		previous.lost("Weir's retries go to another endpoint")
	}
	if remote := f.get("retryRemoteLocalities"); remote.text() == "true" {
		remote.lost("this version of Weir has no localities")
	}
	if attempts <= 0 {
		v.rule.Retries = &policy.Retries{Attempts: new(0)}
		return
	}
	r := istioRetries()
	r.Attempts, r.Backoff = &attempts, backoff
	if perTry != nil && *perTry > 0 {
		r.PerTry = perTry
	}
	if words.text() != "" {
		r.On = nil
		for word := range strings.SplitSeq(words.text(), ",") {
			word = strings.TrimSpace(word)
			code, err := strconv.Atoi(word)
			switch {
			case err == nil:
				r.Codes = append(r.Codes, code)
			case slices.Contains(retryWords, word):
				r.On = append(r.On, word)
			case word != "" && word != "retriable-status-codes":
				words.note(true, "%s: Weir does not retry on this", word)
			}
		}
	}
	v.rule.Retries = r
}

var retryWords = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
	"envoy-ratelimited", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

// What Envoy puts into values: %NAME% and %NAME(ARGUMENT):LENGTH%.
var operators = regexp.MustCompile(`^([^%]|%%|%[A-Z0-9_]+(\([^%]*\))?(:\d+)?%)*$`)

// headers reads header changes. Istio hands values to Envoy as they stand, with command operators.
func (v *virtualRule) headers(f field) changes {
	var c changes
	put := func(to *map[string]string, p field) {
		value := p.text()
		if !operators.MatchString(value) {
			p.say("a %% that begins no command operator of Envoy's is written as %%%%")
			value = literal(value)
		}
		c.put(to, p, p.name(), value)
	}
	for _, p := range f.get("set").pairs() {
		put(&c.Set, p)
	}
	for _, p := range f.get("add").pairs() {
		put(&c.Add, p)
	}
	for _, name := range f.get("remove").texts() {
		if isHost(name) || strings.HasPrefix(name, ":") {
			continue // Istio passes over it too
		}
		c.Remove = append(c.Remove, name)
	}
	return c
}

func (v *virtualRule) fault(f field) *policy.Fault {
	if !f.given() {
		return nil
	}
	out := &policy.Fault{}
	if d := f.get("delay"); d.given() {
		fixed := d.get("fixedDelay").duration()
		percent := d.get("percentage")
		share := percent.decimalOf("value")
		if old := d.get("percent"); !percent.given() {
			share = old.decimal()
		} else {
			old.skip()
		}
		d.get("exponentialDelay").lost("Weir's delays are fixed")
		if fixed != nil && share > 0 {
			out.Delay = &policy.FaultDelay{Fixed: *fixed, Percent: partly(share)}
		}
	}
	if a := f.get("abort"); a.given() {
		out.Abort = v.abort(a)
	}
	if out.Delay == nil && out.Abort == nil {
		f.say("left out: it touches no request")
		return nil
	}
	return out
}

func (v *virtualRule) abort(f field) *policy.FaultAbort {
	share := f.get("percentage").decimalOf("value")
	a := &policy.FaultAbort{Percent: partly(share), Status: f.get("httpStatus").number()}
	f.get("http2Error").lost("Weir's aborts have a status of HTTP or gRPC")
	if g := f.get("grpcStatus"); g.given() {
		n, ok := grpcStatuses[g.text()]
		if number, err := strconv.Atoi(g.text()); err == nil {
			n, ok = number, true
		}
		if !ok {
			g.lost("this is no status of gRPC")
			return nil
		}
		a.GRPCStatus, a.Status = &n, 0
	}
	if share <= 0 || a.Status == 0 && a.GRPCStatus == nil {
		return nil
	}
	return a
}

// partly gives a share, or nil for all.
func partly(percent float64) *float64 {
	if percent >= 100 {
		return nil
	}
	return &percent
}

var grpcStatuses = map[string]int{
	"OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "ALREADY_EXISTS": 6,
	"PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "OUT_OF_RANGE": 11,
	"UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
}

func (v *virtualRule) direct(f field) {
	if !f.given() {
		return
	}
	d := &policy.DirectResponse{Status: f.get("status").number()}
	body := f.get("body")
	d.Body = body.get("string").text()
	if bytes := body.get("bytes"); bytes.given() {
		text, err := base64.StdEncoding.DecodeString(bytes.text())
		if err != nil || !utf8.Valid(text) {
			bytes.lost("a body is text in Weir")
		} else {
			d.Body = string(text)
		}
	}
	v.rule.DirectResponse = d
}

func (v *virtualRule) cors(f field) *policy.CORS {
	if !f.given() {
		return nil
	}
	c := &policy.CORS{
		AllowMethods: f.get("allowMethods").texts(), AllowHeaders: f.get("allowHeaders").texts(), ExposeHeaders: f.get("exposeHeaders").texts(),
		AllowCredentials: f.get("allowCredentials").yes(), MaxAge: f.get("maxAge").span(),
	}
	if origins := f.get("allowOrigins"); origins.given() {
		f.get("allowOrigin").skip()
		for _, o := range origins.list() {
			if origin, ok := corsOrigin(o); ok {
				c.AllowOrigins = append(c.AllowOrigins, origin)
			}
		}
	} else {
		c.AllowOrigins = f.get("allowOrigin").texts()
	}
	if preflights := f.get("unmatchedPreflights"); preflights.text() != "UNSPECIFIED" {
		preflights.lost("Weir treats preflight requests of other origins in one way")
	}
	if len(c.AllowOrigins) == 0 {
		f.lost("it allows no origin that Weir can name")
		return nil
	}
	return c
}

// What regular expressions of origins may be, to be said with a wildcard: https://.*\.example\.com.
var wildOrigin = regexp.MustCompile(`^\^?(https?)://(?:\.\*|\.\+|\[\^/\]\+)((?:\\\.[a-zA-Z0-9-]+)+)(:[0-9]+)?\$?$`)

func corsOrigin(f field) (string, bool) {
	m := readString(f)
	switch m.kind {
	case "exact":
		return m.value, true
	case "regex":
		if m.value == ".*" {
			return "*", true
		}
		if parts := wildOrigin.FindStringSubmatch(m.value); parts != nil {
			origin := parts[1] + "://*" + strings.ReplaceAll(parts[2], `\.`, ".") + parts[3]
			f.say("carried over as %s", origin)
			return origin, true
		}
	}
	f.lost("origins are names, or have *. in the place of their first label: write down those that this means")
	return "", false
}
