package xds

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/internal/sorted"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// audience is those who are served one view, and what that is put together of: so an edit changes its own part of it. Use
// newAudience.
type audience struct {
	name     string
	doors    []door
	services []*mesh.Service            // that its listeners route to
	wants    map[string]int             // how many services want each cluster, by its name; see eachWanted
	limited  int                        // how many ask about limits
	counting []*mesh.Service            // those with limits that proxies count by themselves
	parts    map[policy.Ref][]*Resource // what is there because of a service
	frame    []*Resource                // all else
	view     View
	sum      uint64 // of the hashes of its resources
}

func newAudience(name string) *audience {
	return &audience{name: name, wants: make(map[string]int), parts: make(map[policy.Ref][]*Resource)}
}

// update makes the audience's view that of these doors and services, by what has changed.
func (t *translator) update(a *audience, doors []door, services []*mesh.Service) {
	limited, serving := a.limited > 0, len(a.services) > 0
	touched, recount := a.note(services)
	if !slices.EqualFunc(a.doors, doors, sameRoutes) {
		for _, s := range services {
			touched[s.Ref] = true
		}
	}
	maps.Copy(touched, t.changed)
	reframe := t.anew || recount || limited != (a.limited > 0) || serving != (len(services) > 0) || !reflect.DeepEqual(a.doors, doors)
	a.doors = doors
	if len(touched) == 0 && !reframe {
		return
	}
	was, is := make(map[resourceKey]*Resource, 8*len(touched)), make(map[resourceKey]*Resource, 8*len(touched))
	for ref := range touched {
		part := t.part(a, ref)
		note(was, a.parts[ref])
		note(is, part)
		if a.parts[ref] = part; part == nil {
			delete(a.parts, ref)
		}
	}
	if reframe {
		t.whole[a.name] = true
		note(was, a.frame)
		a.frame = t.frame(a)
		note(is, a.frame)
	}
	a.edit(was, is)
	t.letGo(was, is)
}

func note(of map[resourceKey]*Resource, all []*Resource) {
	for _, r := range all {
		of[resourceKey{r.Type, r.Name}] = r
	}
}

// sameRoutes says whether two doors have the same virtual hosts.
func sameRoutes(a, b door) bool {
	return a.routes == b.routes && a.serves == b.serves && (a.tls != nil) == (b.tls != nil)
}

// edit changes the view by what there was and what there is instead.
func (a *audience) edit(was, is map[resourceKey]*Resource) {
	edits := make(map[string]map[string]*Resource)
	change := func(key resourceKey) {
		if was[key] == is[key] {
			return
		}
		if edits[key.kind] == nil {
			edits[key.kind] = make(map[string]*Resource)
		}
		edits[key.kind][key.name] = is[key]
		a.sum += is[key].hash() - was[key].hash()
	}
	for key := range was {
		change(key)
	}
	for key := range is {
		if was[key] == nil {
			change(key)
		}
	}
	if len(edits) == 0 && a.view != nil {
		return
	}
	next := maps.Clone(a.view)
	if next == nil {
		next = make(View)
	}
	for kind, of := range edits {
		if next[kind] = sorted.Edited(next[kind], sorted.Edits(of, cmp.Compare[string]), compareName); next[kind] == nil {
			delete(next, kind)
		}
	}
	a.view = next
}

// letGo forgets virtual hosts that are in the view no more, and so in none: they would be kept with their services.
func (t *translator) letGo(was, is map[resourceKey]*Resource) {
	for key, r := range was {
		if key.kind != VirtualHostType || is[key] != nil {
			continue
		}
		whose := serviceBehind(key.name)
		t.before[whose] = slices.DeleteFunc(t.before[whose], func(o *Resource) bool { return o == r })
	}
}

// note notes which services there are now. touched are those of which a part of the view may be another one; recount says
// that some have other limits that proxies count.
func (a *audience) note(services []*mesh.Service) (touched map[policy.Ref]bool, recount bool) {
	touched = make(map[policy.Ref]bool)
	before := make(map[string]bool) // which were wanted
	add := func(s *mesh.Service, n int) {
		eachWanted(s, func(name string) {
			if _, ok := before[name]; !ok {
				before[name] = a.wants[name] > 0
			}
			if a.wants[name] += n; a.wants[name] == 0 {
				delete(a.wants, name)
			}
		})
		if limited(s) {
			a.limited += n
		}
	}
	counting := make(map[policy.Ref]*mesh.Service)
	sorted.Changes(a.services, services, compareServices, func(was, is *mesh.Service) {
		ref := cmp.Or(was, is).Ref
		touched[ref] = true
		if was != nil {
			add(was, -1)
		}
		if is != nil {
			add(is, 1)
		}
		if counts(was) || counts(is) {
			if counting[ref] = is; !counts(is) {
				counting[ref] = nil
			}
			recount = recount || !sameCounts(was, is)
		}
	})
	for name, was := range before {
		if was != (a.wants[name] > 0) {
			for _, ref := range mayOwn(name) {
				touched[ref] = true
			}
		}
	}
	a.services = services
	a.counting = sorted.Edited(a.counting, sorted.Edits(counting, compareRefs), func(s *mesh.Service, ref policy.Ref) int { return compareRefs(s.Ref, ref) })
	return touched, recount
}

// eachWanted gives the names of what rules of a service send requests to, subsets and variants of them, and, with a slash
// at its end, the service's own: all its versions are there, so that they are warm before a rule turns to them.
func eachWanted(s *mesh.Service, f func(name string)) {
	f(s.Ref.String() + "/")
	for _, r := range s.Rules {
		for _, to := range r.To {
			f(to.Subset)
			if r.LoadTest != nil {
				f(to.Subset + string(loadTest))
			}
		}
		for _, m := range r.Mirror {
			f(m.Subset)
			f(m.Subset + string(shadow))
		}
	}
}

// mayOwn gives the services that what is wanted by a name may be of.
func mayOwn(name string) []policy.Ref {
	parts := strings.Split(EndpointsOf(name), "/")
	switch len(parts) {
	case 1:
		return []policy.Ref{{Name: parts[0]}}
	case 2: // SERVICE/VERSION, or NAMESPACE/SERVICE
		return []policy.Ref{{Name: parts[0]}, {Namespace: parts[0], Name: parts[1]}}
	default:
		return []policy.Ref{{Namespace: parts[0], Name: parts[1]}}
	}
}

// counts says whether a service, which may be nil, has limits that proxies count by themselves.
func counts(s *mesh.Service) bool {
	return s != nil && (len(s.Local) > 0 || len(s.Quota) > 0 || slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return len(r.Local) > 0 }))
}

// sameCounts says whether they are the same.
func sameCounts(a, b *mesh.Service) bool {
	return a != nil && b != nil && reflect.DeepEqual(a.Local, b.Local) && reflect.DeepEqual(a.Quota, b.Quota) &&
		slices.EqualFunc(a.Rules, b.Rules, func(x, y *mesh.Rule) bool {
			return x.Name == y.Name && x.Source == y.Source && reflect.DeepEqual(x.Local, y.Local)
		})
}

// part gives what is in an audience's view because of a service: its clusters and endpoints where rules send requests to
// it, and its virtual host behind each door. All of a service's endpoints as one are there only where a rule says so.
func (t *translator) part(a *audience, ref policy.Ref) (all []*Resource) {
	s := t.service(ref)
	if s == nil {
		return nil
	}
	isWanted := func(sub *mesh.Subset) bool { return a.wants[sub.Name] > 0 }
	if a.wants[s.Ref.String()+"/"] > 0 || slices.ContainsFunc(s.Subsets, isWanted) {
		for _, sub := range s.Subsets {
			if sub.Version == "" && !isWanted(sub) {
				continue
			}
			all = append(all, t.cluster(s, sub, ""))
			if s.Spec.Endpoints.DNS == nil {
				all = append(all, t.endpoints(s, sub))
			}
			for _, one := range []variant{shadow, loadTest} {
				if a.wants[sub.Name+string(one)] > 0 {
					all = append(all, t.cluster(s, sub, one))
				}
			}
		}
	}
	if serviceOf(a.services, ref) == nil {
		return all
	}
	for _, d := range a.doors {
		if d.serves {
			all = append(all, t.virtualHost(d, s))
		}
	}
	return all
}

// frame gives what is in an audience's view whatever services there are, or because of all of them.
func (t *translator) frame(a *audience) (all []*Resource) {
	if a.limited > 0 {
		all = append(all, t.infrastructure(rateLimitCluster, t.options.RateLimitAddress))
	}
	if t.model.Tracing != nil {
		all = append(all, t.infrastructure(collectorCluster, t.model.Tracing.Collector))
	}
	for _, d := range a.doors {
		if d.tls != nil {
			all = append(all, t.certificate(d, a.name))
		}
		if d.http3 {
			all = append(all, t.quicListener(d, a.name))
		}
		if !d.inside {
			all = append(all, t.listener(d, a.name))
		}
		counting := a.counting
		if d.secure != nil {
			counting = nil
		}
		for _, filter := range []string{localService, localRule, localShare} {
			all = append(all, t.localChains(filter, d, a.name, counting))
		}
		all = append(all, t.quotaChains(d, a.name, counting), t.routes(d, a.name))
	}
	return all
}
