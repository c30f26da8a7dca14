package lint

import (
	"cmp"
	"maps"
	"slices"

	"github.com/machinenativeops/weir/internal/sorted"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Checker checks one set after another as [Check] does, and looks at those documents again of which what they say, or what
// that is judged by, has changed: as a [mesh.Resolver] tells by what it leaves the same. It is for one goroutine.
type Checker struct {
	set      *policy.Set // the last; nil: there was none
	services []*mesh.Service
	routes   map[string]*policy.Document[policy.RouteSpec] // by service
	used     map[string]int                                // how many destinations name a subset
	users    map[string]map[string]bool                    // by service, those whose rules send requests or copies to it
	found    map[policy.Key]findings                       // some, by document; those of a Route are with its service
	whole    bool
	last     []Warning
}

// findings are the warnings about a document: those that hold by themselves, and those that any other document could make
// good.
type findings struct{ own, across []Warning }

// Check does as the function of that name does.
func (c *Checker) Check(set *policy.Set, model *mesh.Model, whole bool) []Warning {
	if c.set == nil {
		*c = Checker{
			set: new(policy.Set), routes: make(map[string]*policy.Document[policy.RouteSpec]), used: make(map[string]int),
			users: make(map[string]map[string]bool), found: make(map[policy.Key]findings),
		}
	}
	stale, names := c.note(set, model)
	l := &linter{services: model.Services, routes: c.routes, used: c.used, regex: make(expressions)}
	looked := c.lookAtServices(l, stale, set)
	looked = c.lookAtRateLimits(l, set) || looked
	looked = c.lookAtGateways(l, set, names) || looked
	c.set, c.services = set, model.Services
	if looked || whole != c.whole {
		c.whole, c.last = whole, c.all(whole)
	}
	return c.last
}

func (c *Checker) all(whole bool) (all []Warning) {
	for _, f := range c.found {
		if all = append(all, f.own...); whole {
			all = append(all, f.across...)
		}
	}
	slices.SortFunc(all, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Message, b.Message))
	})
	return all
}

func compareDocuments[S any](a, b *policy.Document[S]) int { return a.Ref().Compare(b.Ref()) }

// note notes what there is now. stale are the services that have to be judged anew, and names says that some have come or
// gone.
func (c *Checker) note(set *policy.Set, model *mesh.Model) (stale map[string]bool, names bool) {
	stale = make(map[string]bool)
	sorted.Changes(c.set.Services, set.Services, compareDocuments, func(was, is *policy.Document[policy.ServiceSpec]) {
		stale[cmp.Or(was, is).Ref().String()] = true
	})
	sorted.Changes(c.set.Routes, set.Routes, compareDocuments, func(was, is *policy.Document[policy.RouteSpec]) {
		if was != nil {
			if stale[was.Spec.Service] = true; c.routes[was.Spec.Service] == was {
				delete(c.routes, was.Spec.Service)
			}
		}
		if is != nil {
			stale[is.Spec.Service], c.routes[is.Spec.Service] = true, is
		}
	})
	before := make(map[string]bool) // which subsets were used
	owners := make(map[string]string)
	count := func(s *mesh.Service, n int) {
		eachUse(s, func(service, subset string, used bool) {
			c.uses(s.Ref.String(), service, n > 0)
			if !used {
				return
			}
			if _, ok := before[subset]; !ok {
				before[subset], owners[subset] = c.used[subset] > 0, service
			}
			if c.used[subset] += n; c.used[subset] == 0 {
				delete(c.used, subset)
			}
		})
	}
	sorted.Changes(c.services, model.Services, func(a, b *mesh.Service) int { return a.Ref.Compare(b.Ref) }, func(was, is *mesh.Service) {
		name := cmp.Or(was, is).Ref.String()
		stale[name] = true
		names = names || was == nil || is == nil
		maps.Copy(stale, c.users[name])
		if was != nil {
			count(was, -1)
		}
		if is != nil {
			count(is, 1)
		}
		maps.Copy(stale, c.users[name])
	})
	for subset, was := range before {
		if was != (c.used[subset] > 0) {
			stale[owners[subset]] = true
		}
	}
	return stale, names
}

// eachUse gives what rules of a service send requests or copies to. A version is used by being named, and all of a service
// by having a share.
func eachUse(s *mesh.Service, f func(service, subset string, used bool)) {
	for _, r := range s.Rules {
		for _, to := range r.Rule.To {
			f(to.Service, mesh.SubsetName(to.Service, to.Version), to.Version != "" || *to.Weight > 0)
		}
		for _, m := range r.Rule.Mirror {
			f(m.Service, mesh.SubsetName(m.Service, m.Version), true)
		}
	}
}

func (c *Checker) uses(user, service string, does bool) {
	switch {
	case user == service:
	case does && c.users[service] == nil:
		c.users[service] = map[string]bool{user: true}
	case does:
		c.users[service][user] = true
	default:
		if delete(c.users[service], user); len(c.users[service]) == 0 {
			delete(c.users, service)
		}
	}
}

func (c *Checker) lookAtServices(l *linter, stale map[string]bool, set *policy.Set) (looked bool) {
	for name := range stale {
		ref := policy.ParseRef(name, "")
		d := set.Service(ref)
		c.take(policy.Key{Kind: "Service", Namespace: ref.Namespace, Name: ref.Name}, d != nil, func() (f findings) {
			l.checkService(d)
			if route := l.routes[name]; route != nil {
				l.checkRoute(route)
			}
			f.own = l.take()
			l.unusedVersions(d)
			l.handling(d)
			f.across = l.take()
			return f
		})
		looked = true
	}
	return looked
}

func (c *Checker) lookAtRateLimits(l *linter, set *policy.Set) (looked bool) {
	sorted.Changes(c.set.RateLimits, set.RateLimits, compareDocuments, func(was, is *policy.Document[policy.RateLimitSpec]) {
		ref := cmp.Or(was, is).Ref()
		c.take(policy.Key{Kind: "RateLimit", Namespace: ref.Namespace, Name: ref.Name}, is != nil, func() findings {
			l.checkRateLimit(is)
			return findings{own: l.take()}
		})
		looked = true
	})
	return looked
}

// lookAtGateways looks at those that have changed, or at all where services have come or gone.
func (c *Checker) lookAtGateways(l *linter, set *policy.Set, all bool) (looked bool) {
	before := c.set.Gateways
	look := func(was, is *policy.Document[policy.GatewaySpec]) {
		ref := cmp.Or(was, is).Ref()
		c.take(policy.Key{Kind: "Gateway", Namespace: ref.Namespace, Name: ref.Name}, is != nil, func() findings {
			l.checkGateway(is)
			return findings{across: l.take()}
		})
		looked = true
	}
	sorted.Changes(before, set.Gateways, compareDocuments, look)
	if all {
		sorted.Changes(nil, set.Gateways, compareDocuments, look)
	}
	return looked
}

// take takes what is found about a document, if that is there.
func (c *Checker) take(key policy.Key, there bool, find func() findings) {
	delete(c.found, key)
	if !there {
		return
	}
	if f := find(); len(f.own)+len(f.across) > 0 {
		c.found[key] = f
	}
}

// take gives what has been found since it was last taken.
func (l *linter) take() []Warning {
	all := l.warnings
	l.warnings = nil
	return all
}
