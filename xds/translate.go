package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/sorted"
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

// Translator translates one model after another as [Translate] does, and makes only what depends on something that has
// changed, as a [mesh.Resolver] tells by what it leaves the same: all else is the same [Resource], in slices that views of
// before and after share. It is for one goroutine.
type Translator struct {
	options  Options
	last     *mesh.Model // nil: there was none
	snapshot *Snapshot
	made     map[string][]*Resource // by whose they are: a service, an audience, or nobody
	gateways map[policy.Ref]*audience
	beside   *audience   // all proxies beside workloads
	own      []*Resource // their listeners, by name
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
	if k.last == nil {
		*k = Translator{options: k.options, last: new(mesh.Model), made: make(map[string][]*Resource), beside: newAudience("all services")}
	}
	t := newTranslator(m, k.options)
	t.before = k.made
	t.anew = m.Source != k.last.Source || m.Tracing != k.last.Tracing || m.AccessLog != k.last.AccessLog || m.Thinned != k.last.Thinned ||
		!slices.Equal(m.Marks, k.last.Marks)
	sorted.Changes(k.last.Services, m.Services, compareServices, func(was, is *mesh.Service) {
		ref := cmp.Or(was, is).Ref
		t.changed[ref], t.whole[ref.String()] = true, true
	})
	if t.anew {
		t.changeSampled()
	}
	next := make(map[policy.Ref]*audience, len(m.Gateways))
	for _, g := range m.Gateways {
		a := k.gateways[g.Ref]
		if a == nil {
			a = newAudience("gateway " + g.Ref.String())
		}
		t.update(a, doorsOf(g), g.Services)
		next[g.Ref] = a
		delete(k.gateways, g.Ref)
	}
	for _, gone := range k.gateways {
		t.update(gone, nil, nil)
	}
	t.update(k.beside, []door{{routes: outbound, address: OutboundAddress, port: OutboundPort, serves: true, inside: true}}, m.Services)
	k.own = t.listeners(k.own)
	if t.err != nil {
		*k = Translator{options: k.options} // which is between two models
		return nil, t.err
	}
	k.last, k.gateways = m, next
	t.keep(k.made)
	k.snapshot = newSnapshot(k, m)
	return k.snapshot, nil
}

// changeSampled has services made anew whose routes say how many traces are begun: no more than the mesh says.
func (t *translator) changeSampled() {
	for _, s := range t.model.Services {
		if slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return r.TracePercent != 0 }) {
			t.changed[s.Ref], t.whole[s.Ref.String()] = true, true
		}
	}
}

func newSnapshot(k *Translator, m *mesh.Model) *Snapshot {
	s := NewSnapshot(make(map[mesh.Proxy]View, len(k.gateways)))
	s.grpc = sync.OnceValues(func() (View, error) { return grpcView(m, k.options) })
	var sum uint64
	for ref, a := range k.gateways {
		s.views[mesh.Proxy{Role: mesh.RoleGateway, Ref: ref}] = a.view
		sum += a.sum
	}
	if len(k.own) > 0 {
		s.beside, s.own = k.beside.view, k.own
		sum += k.beside.sum
		for _, r := range k.own {
			sum += r.hash()
		}
	}
	s.version = func() string { return strconv.FormatUint(sum, 16) }
	s.takeOver(k.snapshot)
	return s
}

func compareServices(a, b *mesh.Service) int { return compareRefs(a.Ref, b.Ref) }

func compareRefs(a, b policy.Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

type resourceKey struct{ kind, name string }

// translator makes each resource of one model once. The first error sticks.
type translator struct {
	model   *mesh.Model
	options Options
	changed map[policy.Ref]bool    // services that have changed, come or gone since the translation before
	anew    bool                   // what all listeners share has
	before  map[string][]*Resource // made before, by whose they are
	made    map[resourceKey]*Resource
	of      map[string][]*Resource // the same, by whose they are
	whole   map[string]bool        // whose they are of whom all are made
	chain   []*hcmv3.HttpFilter    // of every listener, after those that count; nil until the first
	door    string                 // the route configuration of which routes are made
	err     error
}

func newTranslator(m *mesh.Model, o Options) *translator {
	return &translator{
		model: m, options: o, changed: make(map[policy.Ref]bool),
		made: make(map[resourceKey]*Resource), of: make(map[string][]*Resource), whole: make(map[string]bool),
	}
}

// resource gives the named resource, building it the first time. whose it is, a service's or an audience's by their names,
// says for how long it is kept.
func (t *translator) resource(kind, name, whose string, sources []policy.Key, build func() proto.Message) *Resource {
	key := resourceKey{kind, name}
	if r := t.made[key]; r != nil {
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
	if old := find(t.before[whose], kind, name); old != nil && old.Version == r.Version && slices.Equal(old.Sources, r.Sources) {
		r = old // whoever has it needs no other
	}
	t.made[key] = r
	t.of[whose] = append(t.of[whose], r)
	return r
}

func find(all []*Resource, kind, name string) *Resource {
	for _, r := range all {
		if r.Name == name && r.Type == kind {
			return r
		}
	}
	return nil
}

// keep keeps what was made for the next translation, and what was made before of those of whom not all were made.
func (t *translator) keep(made map[string][]*Resource) {
	for whose := range t.whole {
		delete(made, whose)
	}
	for whose, all := range t.of {
		for _, old := range made[whose] {
			if find(all, old.Type, old.Name) == nil {
				all = append(all, old)
			}
		}
		made[whose] = slices.Clip(all)
	}
}

// sortedKeys leaves out what no document says, such as a Mesh of defaults only.
func sortedKeys(keys []policy.Key) []policy.Key {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k policy.Key) bool { return k.Name == "" })
	slices.SortFunc(keys, func(a, b policy.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(keys)
}

// outbound is the route configuration of proxies beside workloads.
const outbound = "outbound"

// door is a listener and what is behind it.
type door struct {
	name    string // of the listener
	routes  string // its route configuration
	address string
	port    int
	edge    bool // strangers come in here
	inside  bool // each proxy has a listener of its own, beside its service
	owner   policy.Ref
	tls     *policy.ListenerTLS // nil: none
	http3   bool                // over QUIC too
	secure  *int                // the port of https to which it redirects; nil: it serves
	sources []policy.Key
	serves  bool // there are services behind it
}

func doorsOf(g *mesh.Gateway) (doors []door) {
	for _, l := range g.Listeners {
		name := "gateway/" + g.Ref.String() + "/" + l.Name
		doors = append(doors, door{
			name: name, routes: name, address: g.Address, port: l.Port, edge: true, owner: g.Ref, tls: l.TLS, http3: l.HTTP3, secure: l.HTTPSRedirect,
			sources: []policy.Key{g.Source}, serves: l.HTTPSRedirect == nil && len(g.Services) > 0,
		})
	}
	return doors
}

// listeners gives the listeners of proxies beside workloads, which route by host. All those proxies share everything but
// the listener, which says whose requests it takes.
func (t *translator) listeners(before []*Resource) []*Resource {
	edits := make(map[string]*Resource, len(t.changed))
	for ref := range t.changed {
		edits[outbound+"/"+ref.String()] = nil
	}
	listener := func(s *mesh.Service) {
		d := door{name: outbound + "/" + s.Ref.String(), routes: outbound, address: OutboundAddress, port: OutboundPort, owner: s.Ref}
		edits[d.name] = t.listener(d, s.Ref.String())
	}
	for ref := range t.changed {
		if s := t.service(ref); s != nil {
			listener(s)
		}
	}
	if t.anew {
		for _, s := range t.model.Services {
			listener(s)
		}
	}
	maps.DeleteFunc(edits, func(name string, r *Resource) bool {
		at, ok := slices.BinarySearchFunc(before, name, compareName)
		return ok && before[at] == r
	})
	return sorted.Edited(before, sorted.Edits(edits, cmp.Compare[string]), compareName)
}

func compareName(r *Resource, name string) int { return cmp.Compare(r.Name, name) }

// service gives a service of the model, or nil.
func (t *translator) service(ref policy.Ref) *mesh.Service { return serviceOf(t.model.Services, ref) }

func serviceOf(all []*mesh.Service, ref policy.Ref) *mesh.Service {
	at, ok := slices.BinarySearchFunc(all, ref, func(s *mesh.Service, ref policy.Ref) int { return compareRefs(s.Ref, ref) })
	if !ok {
		return nil
	}
	return all[at]
}

// limited says whether requests to a service ask about limits.
func limited(s *mesh.Service) bool {
	return len(s.Quota) > 0 || slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return len(r.Global) > 0 })
}

func (v View) add(r *Resource) { v[r.Type] = append(v[r.Type], r) }
