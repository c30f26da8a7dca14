package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// DefaultRateLimitAddress is where proxies ask about limits unless Options says otherwise.
const DefaultRateLimitAddress = "127.0.0.1:18001"

// The outbound listener of a proxy beside a workload.
const (
	OutboundAddress = "127.0.0.1"
	OutboundPort    = 15001
)

// Options is what translation depends on beside the model.
type Options struct {
	RateLimitAddress string // HOST:PORT as proxies reach it; "" is DefaultRateLimitAddress
}

// Translate makes everything that proxies are served. Its errors are defects of this package: what validates
// translates.
func Translate(m *mesh.Model, o Options) (*Snapshot, error) { return NewTranslator(o).Translate(m) }

// Translator translates one model after another as [Translate] does, and makes no resource again whose service is the
// same, as a [mesh.Resolver] leaves it: it is the same [Resource] then. It is for one goroutine.
type Translator struct {
	options Options
	made    map[resourceKey]made // of the last model
}

// NewTranslator gives a translator that has nothing made yet.
func NewTranslator(o Options) *Translator {
	if o.RateLimitAddress == "" {
		o.RateLimitAddress = DefaultRateLimitAddress
	}
	return &Translator{options: o}
}

// Translate translates a model as the function of that name does.
func (k *Translator) Translate(m *mesh.Model) (*Snapshot, error) {
	t := &translator{model: m, options: k.options, before: k.made, made: make(map[resourceKey]made, len(k.made))}
	views := make(map[mesh.Proxy]View)
	for _, g := range m.Gateways {
		views[mesh.Proxy{Role: mesh.RoleGateway, Ref: g.Ref}] = t.gateway(g)
	}
	t.sidecars(views)
	if t.err != nil {
		return nil, t.err
	}
	k.made = t.made
	s := NewSnapshot(views)
	s.grpc = sync.OnceValues(func() (View, error) { return grpcView(m, k.options) })
	return s, nil
}

type resourceKey struct{ kind, name string }

// translator makes each resource once. The first error sticks.
type translator struct {
	model   *mesh.Model
	options Options
	made    map[resourceKey]made
	before  map[resourceKey]made // by the translation before; nil: there was none
	chain   []*hcmv3.HttpFilter  // of every listener, after those that count; nil until the first
	door    string               // the route configuration of which routes are made
	err     error
}

// inputs are what a resource was made of, beside its name and the options. Of equal ones it would be the same.
type inputs struct {
	service *mesh.Service // nil: nobody knows what it was made of
	tls     bool
	source  policy.Key
	tracing *policy.Tracing
	log     *policy.AccessLog
	thinned bool
}

type made struct {
	*Resource
	of inputs
}

// kept gives the named resource if it is made, or was and would be the same; nil otherwise.
func (t *translator) kept(kind, name string, of inputs) *Resource {
	key := resourceKey{kind, name}
	if r, ok := t.made[key]; ok {
		return r.Resource
	}
	if r := t.before[key]; of.service != nil && r.of == of {
		t.made[key] = r
		return r.Resource
	}
	return nil
}

// resource gives the named resource, building it the first time.
func (t *translator) resource(kind, name string, of inputs, sources []policy.Key, build func() proto.Message) *Resource {
	if r := t.kept(kind, name, of); r != nil {
		return r
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(build())
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("marshal %s: %w", name, err)
	}
	r := &Resource{
		Type: kind, Name: name, Body: body, Sources: sortedKeys(sources),
		Version: versionOf(body),
	}
	key := resourceKey{kind, name}
	if old := t.before[key]; old.Resource != nil && old.Version == r.Version && slices.Equal(old.Sources, r.Sources) {
		r = old.Resource // whoever has it needs no other
	}
	t.made[key] = made{r, of}
	return r
}

// sortedKeys leaves out what no document says, such as a Mesh of defaults only.
func sortedKeys(keys []policy.Key) []policy.Key {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k policy.Key) bool { return k.Name == "" })
	slices.SortFunc(keys, func(a, b policy.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(keys)
}

// door is a listener and the services behind it.
type door struct {
	name     string        // of the listener
	service  *mesh.Service // beside which it is; nil at the edge
	routes   string        // its route configuration
	address  string
	port     int
	edge     bool // strangers come in here
	owner    policy.Ref
	tls      *policy.ListenerTLS // nil: none
	http3    bool                // over QUIC too
	secure   *int                // the port of https to which it redirects; nil: it serves
	sources  []policy.Key
	services []*mesh.Service
}

func (t *translator) gateway(g *mesh.Gateway) View {
	var doors []door
	for _, l := range g.Listeners {
		name := "gateway/" + g.Ref.String() + "/" + l.Name
		d := door{
			name: name, routes: name, address: g.Address, port: l.Port, edge: true, owner: g.Ref, tls: l.TLS, http3: l.HTTP3, secure: l.HTTPSRedirect,
			sources: []policy.Key{g.Source}, services: g.Services,
		}
		if d.secure != nil {
			d.services = nil
		}
		doors = append(doors, d)
	}
	return t.view(doors, g.Services)
}

// sidecars adds the views of proxies beside workloads: an outbound listener that routes by host. All share the same
// resources but for the listener, which says whose requests it takes.
func (t *translator) sidecars(views map[mesh.Proxy]View) {
	var shared View
	for i, s := range t.model.Services {
		d := door{
			service: s, name: "outbound/" + s.Ref.String(), routes: "outbound", address: OutboundAddress, port: OutboundPort,
			owner: s.Ref, services: t.model.Services,
		}
		if i == 0 {
			shared = t.view([]door{d}, t.model.Services)
		}
		v := maps.Clone(shared)
		v[ListenerType] = []*Resource{t.listener(d)}
		views[mesh.Proxy{Role: mesh.RoleService, Ref: s.Ref}] = v
	}
}

func (t *translator) view(doors []door, services []*mesh.Service) View {
	v, beside := View{}, variants(services)
	for _, s := range t.reachable(services) {
		for _, sub := range s.subsets {
			v.add(t.cluster(s.Service, sub, ""))
			if s.Spec.Endpoints.DNS == nil {
				v.add(t.endpoints(s.Service, sub))
			}
		}
		for _, sub := range s.subsets {
			for _, one := range []variant{shadow, loadTest} {
				if beside[sub.Name+string(one)] {
					v.add(t.cluster(s.Service, sub, one))
				}
			}
		}
	}
	if slices.ContainsFunc(services, limited) {
		v.add(t.infrastructure(rateLimitCluster, t.options.RateLimitAddress))
	}
	if t.model.Tracing != nil {
		v.add(t.infrastructure(collectorCluster, t.model.Tracing.Collector))
	}
	for _, d := range doors {
		if d.tls != nil {
			v.add(t.certificate(d))
		}
		if d.http3 {
			v.add(t.quicListener(d))
		}
		v.add(t.localChains(localService, d))
		v.add(t.localChains(localRule, d))
		v.add(t.localChains(localShare, d))
		v.add(t.quotaChains(d))
		v.add(t.listener(d))
		v.add(t.routes(d))
		for _, s := range d.services {
			v.add(t.virtualHost(d, s))
		}
	}
	for _, kind := range v {
		slices.SortFunc(kind, func(a, b *Resource) int { return cmp.Compare(a.Name, b.Name) })
	}
	return v
}

// limited says whether requests to a service ask about limits.
func limited(s *mesh.Service) bool {
	return len(s.Quota) > 0 || slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return len(r.Global) > 0 })
}

// target is a service and those of its subsets that a proxy needs.
type target struct {
	*mesh.Service
	subsets []*mesh.Subset
}

// reachable gives what rules of the services send requests to, and all versions of those, so that they are warm before
// a rule turns to them. All of a service's endpoints as one are there only where a rule says so.
func (t *translator) reachable(services []*mesh.Service) []target {
	wanted := make(map[string]bool)
	for _, s := range services {
		wanted[s.Ref.String()+"/"] = true
		for _, r := range s.Rules {
			for _, to := range r.To {
				wanted[to.Subset] = true
			}
			for _, m := range r.Mirror {
				wanted[m.Subset] = true
			}
		}
	}
	var all []target
	for _, s := range t.model.Services {
		isWanted := func(sub *mesh.Subset) bool { return wanted[sub.Name] }
		if !wanted[s.Ref.String()+"/"] && !slices.ContainsFunc(s.Subsets, isWanted) {
			continue
		}
		needed := slices.DeleteFunc(slices.Clone(s.Subsets), func(sub *mesh.Subset) bool { return sub.Version == "" && !isWanted(sub) })
		all = append(all, target{s, needed})
	}
	return all
}

func (v View) add(r *Resource) { v[r.Type] = append(v[r.Type], r) }
