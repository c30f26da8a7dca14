package mesh

import (
	"cmp"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/machinenativeops/weir/internal/parallel"
	"github.com/machinenativeops/weir/internal/sorted"
	"github.com/machinenativeops/weir/policy"
)

// Resolver resolves one set after another as [At] does, and makes only what depends on something that has changed. All
// else is the same: each [Service] and [Gateway], and the slices of a [Model] of which nothing has changed. So whoever
// works from the model finds what has changed by identity. It is for one goroutine.
type Resolver struct {
	// Stopped are the load tests that have stopped before their time: their rules refuse what they would take.
	Stopped map[LoadTestID]bool

	set      *policy.Set // the last; nil: there was none
	model    *Model
	made     map[policy.Ref]*made
	routes   map[string]*policy.Document[policy.RouteSpec]       // by service
	limits   map[string][]*policy.Document[policy.RateLimitSpec] // by service, in order
	users    map[policy.Ref]map[policy.Ref]bool                  // by service, those whose rules send requests to it
	timed    map[policy.Ref]bool                                 // that are others at another time, or when a load test stops
	gateways map[*policy.Document[policy.GatewaySpec]]*Gateway
}

// made is a service and what it was made of besides its own documents.
type made struct {
	service *Service
	limits  []*Limit
	others  map[policy.Ref]bool // services that its rules send requests to
	route   *policy.Document[policy.RouteSpec]
}

// At resolves a set as [At] does.
func (r *Resolver) At(set *policy.Set, now time.Time) *Model {
	if r.set == nil {
		*r = Resolver{
			Stopped: r.Stopped, set: new(policy.Set), model: new(Model), made: make(map[policy.Ref]*made, len(set.Services)),
			routes: make(map[string]*policy.Document[policy.RouteSpec], len(set.Routes)), limits: make(map[string][]*policy.Document[policy.RateLimitSpec]),
			users: make(map[policy.Ref]map[policy.Ref]bool), timed: make(map[policy.Ref]bool),
		}
	}
	stale := r.note(set)
	maps.Copy(stale, r.timed)
	edits, limits := r.remake(stale, &builder{set: set, now: now, stopped: r.Stopped, routes: r.routes, limits: r.limits})
	r.model = &Model{
		Source:  policy.Key{Kind: "Mesh", Namespace: set.Mesh.Metadata.Namespace, Name: set.Mesh.Metadata.Name},
		Tracing: set.Mesh.Spec.Tracing, AccessLog: set.Mesh.Spec.AccessLog,
		Thinned:  set.Mesh.Spec.Tracing != nil && set.Sampling.Spec.Adaptive != nil && set.Sampling.Spec.ThinnedAtSource(),
		Services: sorted.Edited(r.model.Services, edits, func(s *Service, ref policy.Ref) int { return s.Ref.Compare(ref) }),
		Limits:   sorted.Edited(r.model.Limits, sorted.Edits(limits, cmp.Compare[string]), func(l *Limit, id string) int { return cmp.Compare(l.ID, id) }),
	}
	if r.model.Tracing != nil && set.Sampling.Spec.Keep != nil {
		r.model.Marks = set.Sampling.Spec.Keep.Marked
	}
	r.model.Gateways = r.gatewaysOf(set, edits)
	r.set = set
	return r.model
}

func compareDocuments[S any](a, b *policy.Document[S]) int { return a.Ref().Compare(b.Ref()) }

// note notes which documents there are now, and gives the services that depend on those that have changed.
func (r *Resolver) note(set *policy.Set) (stale map[policy.Ref]bool) {
	stale = make(map[policy.Ref]bool, max(0, len(set.Services)-len(r.set.Services)))
	sorted.Changes(r.set.Routes, set.Routes, compareDocuments, func(was, is *policy.Document[policy.RouteSpec]) {
		if was != nil && r.routes[was.Spec.Service] == was {
			delete(r.routes, was.Spec.Service)
		}
		if is != nil {
			r.routes[is.Spec.Service] = is
		}
		for _, d := range []*policy.Document[policy.RouteSpec]{was, is} {
			if d != nil {
				stale[policy.ParseRef(d.Spec.Service, "")] = true
			}
		}
	})
	sorted.Changes(r.set.RateLimits, set.RateLimits, compareDocuments, func(was, is *policy.Document[policy.RateLimitSpec]) {
		for _, d := range []*policy.Document[policy.RateLimitSpec]{was, is} {
			if d == nil {
				continue
			}
			edit := sorted.Edit[policy.Ref, *policy.Document[policy.RateLimitSpec]]{Key: d.Ref(), Value: d, Gone: d == was}
			all := sorted.Edited(r.limits[d.Spec.Service], []sorted.Edit[policy.Ref, *policy.Document[policy.RateLimitSpec]]{edit},
				func(d *policy.Document[policy.RateLimitSpec], ref policy.Ref) int { return d.Ref().Compare(ref) })
			if r.limits[d.Spec.Service] = all; all == nil {
				delete(r.limits, d.Spec.Service)
			}
			stale[policy.ParseRef(d.Spec.Service, "")] = true
		}
	})
	sorted.Changes(r.set.Services, set.Services, compareDocuments, func(was, is *policy.Document[policy.ServiceSpec]) {
		ref := cmp.Or(was, is).Ref()
		stale[ref] = true
		maps.Copy(stale, r.users[ref])
	})
	return stale
}

// remake makes services anew, and gives what becomes of them and the limits that are others then; nil: there is none any more.
func (r *Resolver) remake(stale map[policy.Ref]bool, b *builder) (services []sorted.Edit[policy.Ref, *Service], limits map[string]*Limit) {
	limits = make(map[string]*Limit)
	before := make(map[string]*Limit)
	refs := slices.SortedFunc(maps.Keys(stale), policy.Ref.Compare)
	services, all := make([]sorted.Edit[policy.Ref, *Service], 0, len(refs)), make([]*made, len(refs))
	for _, ref := range refs {
		if m := r.made[ref]; m != nil {
			for _, l := range m.limits {
				before[l.ID], limits[l.ID] = l, nil
			}
			r.forget(ref, m)
		}
	}
	parallel.Runs(len(refs), 64, func(from, to int) {
		own := *b
		for i := from; i < to; i++ {
			if d := own.set.Service(refs[i]); d != nil {
				all[i] = own.make(d)
			}
		}
	})
	for i, m := range all {
		if m == nil {
			services = append(services, sorted.Edit[policy.Ref, *Service]{Key: refs[i], Gone: true})
			continue
		}
		r.keep(refs[i], m)
		services = append(services, sorted.Edit[policy.Ref, *Service]{Key: refs[i], Value: m.service})
		for _, l := range m.limits {
			if limits[l.ID] = l; reflect.DeepEqual(l, before[l.ID]) {
				delete(limits, l.ID)
			}
		}
	}
	return services, limits
}

func (r *Resolver) forget(ref policy.Ref, m *made) {
	delete(r.made, ref)
	delete(r.timed, ref)
	for other := range m.others {
		if delete(r.users[other], ref); len(r.users[other]) == 0 {
			delete(r.users, other)
		}
	}
}

func (r *Resolver) keep(ref policy.Ref, m *made) {
	r.made[ref] = m
	for other := range m.others {
		if r.users[other] == nil {
			r.users[other] = make(map[policy.Ref]bool)
		}
		r.users[other][ref] = true
	}
	if m.route != nil && slices.ContainsFunc(m.route.Spec.Rules, func(r policy.Rule) bool {
		return r.LoadTest != nil && (!r.LoadTest.Ends().IsZero() || r.LoadTest.StopWhen != nil)
	}) {
		r.timed[ref] = true
	}
}

// make makes a service, and notes of what.
func (b *builder) make(d *policy.Document[policy.ServiceSpec]) *made {
	name := d.Ref().String()
	m := &made{route: b.routes[name]}
	if m.route != nil {
		for i := range m.route.Spec.Rules {
			for _, to := range m.route.Spec.Rules[i].To {
				if to.Service == name {
					continue
				}
				other := policy.ParseRef(to.Service, "")
				if m.others == nil {
					m.others = make(map[policy.Ref]bool)
				}
				m.others[other] = true
			}
		}
	}
	b.limitsOf = nil
	m.service = b.service(d)
	m.limits = b.limitsOf
	return m
}

// gatewaysOf gives the gateways, of services of which some have changed.
func (r *Resolver) gatewaysOf(set *policy.Set, edits []sorted.Edit[policy.Ref, *Service]) (all []*Gateway) {
	next := make(map[*policy.Document[policy.GatewaySpec]]*Gateway, len(set.Gateways))
	for _, d := range set.Gateways {
		g := r.gateways[d]
		if g == nil {
			g = newGateway(d)
			g.Services = r.servedBy(d, nil, nil)
		} else if services := r.servedBy(d, g, edits); len(services) != len(g.Services) || len(services) > 0 && &services[0] != &g.Services[0] {
			g = &Gateway{Ref: g.Ref, Source: g.Source, Address: g.Address, Listeners: g.Listeners, Services: services}
		}
		next[d] = g
		all = append(all, g)
	}
	r.gateways = next
	return all
}

func newGateway(d *policy.Document[policy.GatewaySpec]) *Gateway {
	g := &Gateway{Ref: d.Ref(), Source: key("Gateway", d.Metadata), Address: d.Spec.Address, Listeners: slices.Clone(d.Spec.Listeners)}
	slices.SortFunc(g.Listeners, func(a, c policy.Listener) int { return cmp.Compare(a.Name, c.Name) })
	return g
}

// servedBy gives the services of a gateway, of those that it had before some changed; before may be nil. Where it has all,
// they are the model's own slice.
func (r *Resolver) servedBy(d *policy.Document[policy.GatewaySpec], before *Gateway, edits []sorted.Edit[policy.Ref, *Service]) (services []*Service) {
	if slices.Contains(d.Spec.Services, "*") {
		return r.model.Services
	}
	serves := func(ref policy.Ref) bool {
		return slices.ContainsFunc(d.Spec.Services, func(pattern string) bool { return Serves(pattern, ref.String()) })
	}
	if before == nil {
		for _, s := range r.model.Services {
			if serves(s.Ref) {
				services = append(services, s)
			}
		}
		return services
	}
	edits = slices.DeleteFunc(slices.Clone(edits), func(e sorted.Edit[policy.Ref, *Service]) bool { return !serves(e.Key) })
	return sorted.Edited(before.Services, edits, func(s *Service, ref policy.Ref) int { return s.Ref.Compare(ref) })
}

// NextEnd gives when the first of the load tests of the last set that run at now is over, as the function of that name
// does.
func (r *Resolver) NextEnd(now time.Time) time.Time { return nextEnd(r.timedRoutes(), now) }

// AnyEnded says whether the last set has load tests that are over at now, as the function of that name does.
func (r *Resolver) AnyEnded(now time.Time) bool { return anyEnded(r.timedRoutes(), now) }

func (r *Resolver) timedRoutes() iter.Seq[*policy.Document[policy.RouteSpec]] {
	return func(yield func(*policy.Document[policy.RouteSpec]) bool) {
		for ref := range r.timed {
			if !yield(r.made[ref].route) {
				return
			}
		}
	}
}
