package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/parallel"
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
	ownSum   uint64      // of the hashes of those
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
	t.shared = sync.OnceValue(t.share)
	t.anew = m.Source != k.last.Source || m.Tracing != k.last.Tracing || m.AccessLog != k.last.AccessLog || m.Thinned != k.last.Thinned ||
		!slices.Equal(m.Marks, k.last.Marks)
	sorted.Changes(k.last.Services, m.Services, compareServices, func(was, is *mesh.Service) {
		ref := cmp.Or(was, is).Ref
		t.changed[ref] = true
	})
	if t.anew {
		t.changeSampled()
	}
	var all []*revision
	next := make(map[policy.Ref]*audience, len(m.Gateways))
	for _, g := range m.Gateways {
		a := k.gateways[g.Ref]
		if a == nil {
			a = newAudience("gateway " + g.Ref.String())
		}
		all = append(all, &revision{audience: a, doors: doorsOf(g), services: g.Services})
		next[g.Ref] = a
		delete(k.gateways, g.Ref)
	}
	for _, gone := range k.gateways {
		all = append(all, &revision{audience: gone})
	}
	outside := []door{{routes: outbound, address: OutboundAddress, port: OutboundPort, serves: true, inside: true}}
	all = append(all, &revision{audience: k.beside, doors: outside, services: m.Services})
	parallel.Each(len(all), func(i int) { t.revise(all[i]) })
	jobs := t.work(all)
	for _, r := range all {
		t.changeFrame(r)
	}
	parallel.Do(
		func() { parallel.Each(len(all), func(i int) { all[i].finish() }) },
		func() { k.listen(jobs) },
	)
	for _, r := range all {
		t.forget(r)
	}
	if t.err != nil {
		*k = Translator{options: k.options} // which is between two models
		return nil, t.err
	}
	k.last, k.gateways = m, next
	t.keep(k.made, jobs)
	k.snapshot = newSnapshot(k, m)
	return k.snapshot, nil
}

// changeSampled has services made anew whose routes say how many traces are begun: no more than the mesh says.
func (t *translator) changeSampled() {
	for _, s := range t.model.Services {
		if slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return r.TracePercent != 0 }) {
			t.changed[s.Ref] = true
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
		sum += k.beside.sum + k.ownSum
	}
	s.version = func() string { return strconv.FormatUint(sum, 16) }
	s.takeOver(k.snapshot)
	return s
}

func compareServices(a, b *mesh.Service) int { return a.Ref.Compare(b.Ref) }

// translator makes each resource of one model once. The first error sticks.
type translator struct {
	model                 *mesh.Model
	options               Options
	changed               map[policy.Ref]bool    // services that have changed, come or gone since the translation before
	anew                  bool                   // what all listeners share has
	before                map[string][]*Resource // made before, by whose they are
	of                    map[string]*owner      // by their names
	now                   *owner                 // of what is made by itself; nil: nobody
	whole                 map[string]bool        // audiences of which all is made
	door                  string                 // the route configuration of which routes are made
	lastHost, lastCluster rest                   // made last
	shared                func() shared          // of listeners of proxies beside workloads
	err                   error
}

func newTranslator(m *mesh.Model, o Options) *translator {
	return &translator{
		model: m, options: o, changed: make(map[policy.Ref]bool), of: make(map[string]*owner), whole: make(map[string]bool),
	}
}

// fork gives a translator that does jobs, while others do other ones.
func (t *translator) fork() *translator {
	return &translator{model: t.model, options: t.options, before: t.before, shared: t.shared}
}

// rest is what messages of a service share that differ in their names, encoded.
type rest struct {
	of      *mesh.Service
	like    uint64 // what it depends on besides
	encoded []byte
}

// get gives the rest of a message, making it unless it is there.
func (r *rest) get(s *mesh.Service, like uint64, build func() []byte) []byte {
	if r.of != s || r.like != like {
		*r = rest{of: s, like: like, encoded: build()}
	}
	return r.encoded
}

// owner is whose resources are, a service's or an audience's by their names, which says for how long they are kept.
type owner struct {
	name         string
	before, made []*Resource
}

// owner gives the named owner.
func (t *translator) owner(name string) *owner {
	if t.now != nil && t.now.name == name {
		return t.now
	}
	o := t.of[name]
	if o == nil {
		o = &owner{name: name, before: t.before[name]}
		t.of[name] = o
	}
	return o
}

// resource gives the named resource, building it the first time.
func (t *translator) resource(kind, name, whose string, sources []policy.Key, build func() proto.Message) *Resource {
	return t.made(kind, name, whose, sources, func() []byte { return t.marshal(build()) })
}

// named gives a resource as resource does, of a message whose first field is its name; rest gives the others, encoded: what
// differs in nothing but its name is encoded once.
func (t *translator) named(kind, name, whose string, sources []policy.Key, rest func() []byte) *Resource {
	return t.made(kind, name, whose, sources, func() []byte {
		others := rest()
		body := make([]byte, 0, protowire.SizeTag(1)+protowire.SizeBytes(len(name))+len(others))
		return append(protowire.AppendString(protowire.AppendTag(body, 1, protowire.BytesType), name), others...)
	})
}

func (t *translator) made(kind, name, whose string, sources []policy.Key, body func() []byte) *Resource {
	o := t.owner(whose)
	if r := find(o.made, kind, name); r != nil {
		return r
	}
	r := newResource(kind, name, body(), sources)
	if old := find(o.before, kind, name); old != nil && old.Version == r.Version && slices.Equal(old.Sources, r.Sources) {
		r = old // whoever has it needs no other
	}
	o.made = append(o.made, r)
	return r
}

// marshal gives the same bytes for the same message.
func (t *translator) marshal(m proto.Message) []byte {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("marshal %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return body
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
func (t *translator) keep(made map[string][]*Resource, jobs []*job) {
	for whose := range t.whole {
		delete(made, whose)
	}
	for _, j := range jobs {
		if t.changed[j.ref] {
			delete(made, j.name)
		}
		j.keep(made)
	}
	for _, o := range t.of {
		o.keep(made)
	}
}

func (o *owner) keep(made map[string][]*Resource) {
	for _, old := range made[o.name] {
		if find(o.made, old.Type, old.Name) == nil {
			o.made = append(o.made, old)
		}
	}
	if len(o.made) > 0 {
		made[o.name] = slices.Clip(o.made)
	}
}

// sortedKeys leaves out what no document says, such as a Mesh of defaults only.
func sortedKeys(keys []policy.Key) []policy.Key {
	inOrder := true
	for i, k := range keys {
		inOrder = inOrder && k.Name != "" && (i == 0 || keys[i-1].Compare(k) < 0)
	}
	if inOrder {
		return keys
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k policy.Key) bool { return k.Name == "" })
	slices.SortFunc(keys, policy.Key.Compare)
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

// job is what is made of a service, by itself: its part of views, and the listener of a proxy beside it. All those proxies
// share everything but the listener, which says whose requests it takes.
type job struct {
	owner
	ref      policy.Ref
	parts    []part
	own      bool
	listener *Resource // nil: there is no such service
}

// work makes what is made of services, on all cores, and notes what is others in views then.
func (t *translator) work(revisions []*revision) []*job {
	byRef := make(map[policy.Ref]*job, len(t.changed))
	of := func(ref policy.Ref) *job {
		j := byRef[ref]
		if j == nil {
			j = &job{ref: ref}
			byRef[ref] = j
		}
		return j
	}
	for _, r := range revisions {
		for ref := range r.touched {
			j := of(ref)
			j.parts = append(j.parts, part{of: r})
		}
	}
	for ref := range t.changed {
		of(ref).own = true
	}
	if t.anew {
		for _, s := range t.model.Services {
			of(s.Ref).own = true
		}
	}
	jobs := slices.SortedFunc(maps.Values(byRef), func(a, b *job) int { return a.ref.Compare(b.ref) })
	var mu sync.Mutex
	parallel.Runs(len(jobs), 64, func(from, to int) {
		fork := t.fork()
		for _, j := range jobs[from:to] {
			fork.do(j)
		}
		mu.Lock()
		defer mu.Unlock()
		t.err = cmp.Or(t.err, fork.err)
	})
	for _, j := range jobs {
		for i := range j.parts {
			j.parts[i].of.replace(j.ref, &j.parts[i])
		}
	}
	return jobs
}

func (t *translator) do(j *job) {
	s := serviceOf(t.model.Services, j.ref)
	if s == nil {
		j.name = j.ref.String()
	} else {
		j.name = s.Name
		j.before = t.before[j.name]
		t.now = &j.owner
	}
	for i := range j.parts {
		p := &j.parts[i]
		if s != nil {
			p.all = t.part(p.of.audience, s)
		}
		p.differ(p.of.parts[j.ref])
	}
	if j.own && s != nil {
		j.listener = t.beside(s)
	}
}

// listen takes the listeners of proxies beside workloads that are others now.
func (k *Translator) listen(jobs []*job) {
	var edits []sorted.Edit[string, *Resource]
	for _, j := range jobs {
		name := besideListener(j.ref)
		var was *Resource
		if at, ok := slices.BinarySearchFunc(k.own, name, compareName); ok {
			was = k.own[at]
		}
		if !j.own || was == j.listener {
			continue
		}
		edits = append(edits, sorted.Edit[string, *Resource]{Key: name, Value: j.listener, Gone: j.listener == nil})
		k.ownSum += j.listener.hash() - was.hash()
	}
	k.own = sorted.Edited(k.own, sorted.Merged(edits, cmp.Compare[string]), compareName)
}

func compareName(r *Resource, name string) int { return cmp.Compare(r.Name, name) }

// serviceOf gives a service, or nil.
func serviceOf(all []*mesh.Service, ref policy.Ref) *mesh.Service {
	at, ok := slices.BinarySearchFunc(all, ref, func(s *mesh.Service, ref policy.Ref) int { return s.Ref.Compare(ref) })
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
