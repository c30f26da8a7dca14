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

// revision is what becomes of an audience that has other doors and services.
type revision struct {
	*audience
	doors    []door
	services []*mesh.Service
	touched  map[policy.Ref]bool // services of which its view may have another part
	reframe  bool
	edits    map[string][]sorted.Edit[string, *Resource] // of the view, by type
	gone     []*Resource
}

// revise notes what is to be made for an audience. That of others may be noted at the same time.
func (t *translator) revise(r *revision) {
	a := r.audience
	limited, serving, recount := a.limited > 0, len(a.services) > 0, false
	r.touched, recount = a.note(r.services)
	if !slices.EqualFunc(a.doors, r.doors, sameRoutes) {
		for _, s := range r.services {
			r.touched[s.Ref] = true
		}
	}
	maps.Copy(r.touched, t.changed)
	r.reframe = t.anew || recount || limited != (a.limited > 0) || serving != (len(r.services) > 0) || !reflect.DeepEqual(a.doors, r.doors)
	a.doors, r.edits = r.doors, make(map[string][]sorted.Edit[string, *Resource])
}

// replace replaces the part of the view that is there because of a service.
func (r *revision) replace(ref policy.Ref, part []*Resource) {
	r.change(r.parts[ref], part)
	if r.parts[ref] = part; part == nil {
		delete(r.parts, ref)
	}
}

// change notes that a part of the view is another one.
func (r *revision) change(was, is []*Resource) {
	for _, n := range is {
		if !slices.Contains(was, n) {
			r.edits[n.Type] = append(r.edits[n.Type], sorted.Edit[string, *Resource]{Key: n.Name, Value: n})
			r.sum += n.hash()
		}
	}
	for _, o := range was {
		if slices.Contains(is, o) {
			continue
		}
		r.sum -= o.hash()
		if find(is, o.Type, o.Name) == nil {
			r.edits[o.Type] = append(r.edits[o.Type], sorted.Edit[string, *Resource]{Key: o.Name, Gone: true})
			r.gone = append(r.gone, o)
		}
	}
}

// finish makes the view, once all parts are there.
func (t *translator) finish(r *revision) {
	if r.reframe {
		t.whole[r.name] = true
		frame := t.frame(r.audience)
		r.change(r.frame, frame)
		r.frame = frame
	} else if len(r.touched) == 0 {
		return
	}
	if len(r.edits) == 0 && r.view != nil {
		return
	}
	next := maps.Clone(r.view)
	if next == nil {
		next = make(View)
	}
	for kind, edits := range r.edits {
		if next[kind] = sorted.Edited(next[kind], sorted.Merged(edits, cmp.Compare[string]), compareName); next[kind] == nil {
			delete(next, kind)
		}
	}
	r.view = next
	// Virtual hosts that are in the view no more are in none: they would be kept with their services.
	for _, o := range r.gone {
		if o.Type == VirtualHostType {
			whose := serviceBehind(o.Name)
			t.before[whose] = slices.DeleteFunc(t.before[whose], func(b *Resource) bool { return b == o })
		}
	}
}

// sameRoutes says whether two doors have the same virtual hosts.
func sameRoutes(a, b door) bool {
	return a.routes == b.routes && a.serves == b.serves && (a.tls != nil) == (b.tls != nil)
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
	a.counting = sorted.Edited(a.counting, sorted.Edits(counting, policy.Ref.Compare), func(s *mesh.Service, ref policy.Ref) int { return s.Ref.Compare(ref) })
	return touched, recount
}

// eachWanted gives the names of what rules of a service send requests to, subsets and variants of them.
func eachWanted(s *mesh.Service, f func(name string)) {
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
	first, rest, more := strings.Cut(EndpointsOf(name), "/")
	second, _, third := strings.Cut(rest, "/")
	switch {
	case !more:
		return []policy.Ref{{Name: first}}
	case !third: // SERVICE/VERSION, or NAMESPACE/SERVICE
		return []policy.Ref{{Name: first}, {Namespace: first, Name: second}}
	default:
		return []policy.Ref{{Namespace: first, Name: second}}
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

// part gives what is in an audience's view because of a service: its clusters and endpoints where listeners route to it, so
// that all its versions are warm before a rule turns to them, or rules of others send requests to it, and its virtual host
// behind each door. All of a service's endpoints as one are there only where a rule says so.
func (t *translator) part(a *audience, s *mesh.Service) (all []*Resource) {
	isWanted := func(sub *mesh.Subset) bool { return a.wants[sub.Name] > 0 }
	served := serviceOf(a.services, s.Ref) != nil
	if served || slices.ContainsFunc(s.Subsets, isWanted) {
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
	if !served {
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
