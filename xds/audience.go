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
	wants    map[wanted]int             // how many other services want each cluster; see eachWanted
	limited  int                        // how many ask about limits
	counting []*mesh.Service            // those with limits that proxies count by themselves
	parts    map[policy.Ref][]*Resource // what is there because of a service
	frame    []*Resource                // all else
	view     View
	sum      uint64 // of the hashes of its resources
}

func newAudience(name string) *audience {
	return &audience{name: name, wants: make(map[wanted]int), parts: make(map[policy.Ref][]*Resource)}
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

// part is a part of a view, and how it differs from what it was before.
type part struct {
	of         *revision
	all        []*Resource
	come, gone []*Resource
	more       uint64 // what the sum of their hashes is more, or less, around 0
}

func (p *part) differ(was []*Resource) {
	for _, n := range p.all {
		if !slices.Contains(was, n) {
			p.come = append(p.come, n)
			p.more += n.hash()
		}
	}
	for _, o := range was {
		if slices.Contains(p.all, o) {
			continue
		}
		p.more -= o.hash()
		if find(p.all, o.Type, o.Name) == nil {
			p.gone = append(p.gone, o)
		}
	}
}

// replace replaces the part of the view that is there because of a service.
func (r *revision) replace(ref policy.Ref, p *part) {
	r.change(p)
	if r.parts[ref] = p.all; p.all == nil {
		delete(r.parts, ref)
	}
}

// change notes that a part of the view is another one.
func (r *revision) change(p *part) {
	for _, n := range p.come {
		r.edits[n.Type] = append(r.edits[n.Type], sorted.Edit[string, *Resource]{Key: n.Name, Value: n})
	}
	for _, o := range p.gone {
		r.edits[o.Type] = append(r.edits[o.Type], sorted.Edit[string, *Resource]{Key: o.Name, Gone: true})
	}
	r.gone = append(r.gone, p.gone...)
	r.sum += p.more
}

// changeFrame makes what is in the view whatever services there are, if that is another one now.
func (t *translator) changeFrame(r *revision) {
	if r.reframe {
		t.whole[r.name] = true
		p := part{all: t.frame(r.audience)}
		p.differ(r.frame)
		r.change(&p)
		r.frame = p.all
	}
}

// finish makes the view, once all parts are there.
func (r *revision) finish() {
	if len(r.edits) == 0 && (r.view != nil || !r.reframe && len(r.touched) == 0) {
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
}

// forget drops what is in no view any more.
func (t *translator) forget(r *revision) {
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
	touched = make(map[policy.Ref]bool, max(0, len(services)-len(a.services)))
	before := make(map[wanted]bool) // which were
	add := func(s *mesh.Service, n int) {
		eachWanted(s, func(w wanted) {
			if owns(s, w.subset) {
				return
			}
			if _, ok := before[w]; !ok {
				before[w] = a.wants[w] > 0
			}
			if a.wants[w] += n; a.wants[w] == 0 {
				delete(a.wants, w)
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
	for w, was := range before {
		if was != (a.wants[w] > 0) {
			for _, ref := range mayOwn(w.subset) {
				touched[ref] = true
			}
		}
	}
	a.services = services
	a.counting = sorted.Edited(a.counting, sorted.Edits(counting, policy.Ref.Compare), func(s *mesh.Service, ref policy.Ref) int { return s.Ref.Compare(ref) })
	return touched, recount
}

// wanted is a cluster that rules send requests to.
type wanted struct {
	subset  string
	variant variant
}

// eachWanted gives what rules of a service send requests to.
func eachWanted(s *mesh.Service, f func(wanted)) {
	for _, r := range s.Rules {
		for _, to := range r.To {
			f(wanted{to.Subset, ""})
			if r.LoadTest != nil {
				f(wanted{to.Subset, loadTest})
			}
		}
		for _, m := range r.Mirror {
			f(wanted{m.Subset, ""})
			f(wanted{m.Subset, shadow})
		}
	}
}

// wants says whether rules of a service send requests to a cluster.
func wants(s *mesh.Service, cluster wanted) (is bool) {
	eachWanted(s, func(w wanted) { is = is || w == cluster })
	return is
}

// owns says whether a subset is a service's.
func owns(s *mesh.Service, subset string) bool {
	return slices.ContainsFunc(s.Subsets, func(sub *mesh.Subset) bool { return sub.Name == subset })
}

// mayOwn gives the services that a subset may be of, by its name.
func mayOwn(name string) []policy.Ref {
	first, rest, more := strings.Cut(name, "/")
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
	served := serviceOf(a.services, s.Ref) != nil
	isWanted := func(sub *mesh.Subset, v variant) bool {
		w := wanted{sub.Name, v}
		return a.wants[w] > 0 || served && wants(s, w)
	}
	if served || slices.ContainsFunc(s.Subsets, func(sub *mesh.Subset) bool { return isWanted(sub, "") }) {
		all = make([]*Resource, 0, 2*len(s.Subsets)+len(a.doors))
		for _, sub := range s.Subsets {
			if sub.Version == "" && !isWanted(sub, "") {
				continue
			}
			all = append(all, t.cluster(s, sub, ""))
			if s.Spec.Endpoints.DNS == nil {
				all = append(all, t.endpoints(s, sub))
			}
			for _, one := range []variant{shadow, loadTest} {
				if isWanted(sub, one) {
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
