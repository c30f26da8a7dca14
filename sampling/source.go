package sampling

import (
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// Headroom is how many times as much is made at the source as the rates will keep, where they move: so much more may
// come of an operation, or so much less of the others, before something is missing that would have been kept. What is
// too much is dropped by the collector.
const Headroom = 1.5

// Source tells those who make spans which share of them to make: what the rates would keep if everything were made. It
// is immutable.
type Source struct {
	rates    *Rates
	thinned  bool // else everything is made
	services map[serviceKey]strategy
	wanted   map[*Operation]float64 // shares, where rates are adaptive
}

// Strategy is which share of its traces a service begins: those of an operation that is named, or of any other.
type Strategy struct {
	Default    float64 // 0 to 1
	Operations []Share // by name
}

// Share is that of an operation's traces.
type Share struct {
	Operation string
	Share     float64 // 0 to 1
}

// strategy is a Strategy while it is made.
type strategy struct {
	rest   float64
	shares map[string]float64
}

func (s strategy) of(operation string) float64 {
	if share, ok := s.shares[operation]; ok {
		return share
	}
	return s.rest
}

// everything is made of what nothing is known about: the collector sees to the rest.
var everything = strategy{rest: 1}

// Source tells what the rates come to at the moment. What it costs grows with how many operations there are.
func (r *Rates) Source() *Source {
	s := &Source{rates: r, thinned: r.thinned, services: map[serviceKey]strategy{}}
	if !s.thinned {
		return s
	}
	if r.adaptive != nil {
		s.wanted = r.adaptive.wanted(r)
	}
	r.mu.RLock()
	services := maps.Clone(r.services)
	r.mu.RUnlock()
	for key, service := range services {
		s.services[key] = s.strategy(service)
	}
	return s
}

// wanted is what an operation may keep of what it has, if all of it came: by the same budget and shared in the same way
// as in a step, but for what was kept too much or too few before, and without peaks: spans come in batches, of which
// one of a quiet operation is no flood. Of a real one, the steps see to it until here it is seen.
func (a *adaptive) wanted(r *Rates) map[*Operation]float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var moving []*Operation
	left := a.budget()
	shares := map[*Operation]float64{}
	r.each(func(o *Operation) bool {
		switch {
		case o.fixed:
			shares[o] = o.Threshold().Probability()
			left -= o.steady * shares[o]
		case o.steady > 0:
			o.spans = o.steady * *a.spec.Max / 100
			o.least = o.steady * *a.spec.Min / 100
			moving = append(moving, o)
		default: // new
			shares[o] = 1
		}
		return false
	})
	a.share(moving, left)
	for _, o := range moving {
		shares[o] = min(Headroom*o.spans/o.steady, 1)
	}
	return shares
}

func (s *Source) strategy(service *Service) strategy {
	out := strategy{rest: 1, shares: map[string]float64{}}
	service.written(&out, s.wanted == nil)
	service.mu.RLock()
	defer service.mu.RUnlock()
	if s.wanted != nil {
		for name, o := range service.learnt {
			share, ok := s.wanted[o]
			if !ok {
				share = 1 // it came after the others were looked at
			}
			out.shares[name] = share
		}
		if beyond, ok := out.shares[""]; ok {
			out.rest = beyond // there are too many operations to tell them apart
			delete(out.shares, "")
		}
		return out
	}
	for name, known := range service.seen {
		out.shares[name] = known.threshold.Probability()
	}
	return out
}

// written adds what documents say of operations, also of those that nobody has seen yet. With rest, it says what holds
// for the others: one that a wildcard may match is made as if the highest of them did.
func (s *Service) written(out *strategy, rest bool) {
	if rest {
		out.rest = s.threshold.Probability()
	}
	for _, o := range s.operations {
		if name, exact := o.name.exact(); exact {
			t, _ := s.matched(name)
			out.shares[name] = t.Probability()
		} else if rest {
			out.rest = max(out.rest, o.threshold.Probability())
		}
	}
}

// Told is what a service is told by the name that SDKs give: service.name, or NAMESPACE/NAME. Where several services have
// the name, or there are several sources, each operation has the highest of the shares. A service of which nothing is
// known makes everything.
func Told(name string, sources ...*Source) Strategy {
	var all []strategy
	for _, s := range sources {
		all = append(all, s.of(name)...)
	}
	return highest(all)
}

func (s *Source) of(name string) []strategy {
	if !s.thinned {
		return []strategy{everything}
	}
	namespace, short, qualified := strings.Cut(name, "/")
	if !qualified {
		short = name
	}
	var all []strategy
	known := map[policy.Ref]bool{}
	for key, one := range s.services {
		if key.ref.Name == short && (!qualified || key.ref.Namespace == namespace) {
			all = append(all, one)
			known[key.ref] = true
		}
	}
	for ref := range s.rates.classes.byService {
		if ref.Name == short && (!qualified || ref.Namespace == namespace) && !known[ref] {
			all = append(all, s.strategy(s.rates.compile(ref, "")))
		}
	}
	return all
}

func highest(all []strategy) Strategy {
	if len(all) == 0 {
		all = []strategy{everything}
	}
	var out Strategy
	names := map[string]bool{}
	for _, one := range all {
		out.Default = max(out.Default, one.rest)
		for name := range one.shares {
			names[name] = true
		}
	}
	for name := range names {
		share := 0.0
		for _, one := range all {
			share = max(share, one.of(name))
		}
		out.Operations = append(out.Operations, Share{name, share})
	}
	slices.SortFunc(out.Operations, func(a, b Share) int { return strings.Compare(a.Operation, b.Operation) })
	return out
}

// Highest is the share of a service that can't tell operations apart.
func (s Strategy) Highest() float64 {
	share := s.Default
	for _, o := range s.Operations {
		share = max(share, o.Share)
	}
	return share
}

// maxRoutes is how many routes an operation is known to come by; beyond, it stays what it is.
const maxRoutes = 64

// Unplaced says whether it is of interest by which route of a proxy the next span of the operation comes. It is now and
// then.
func (o *Operation) Unplaced() bool { return o.unplaced.Load() }

// Placed says by which it came: the [RouteAttribute], or "" where there is none.
func (o *Operation) Placed(route string) {
	o.unplaced.Store(false)
	if route == "" {
		return
	}
	o.routes.Lock()
	defer o.routes.Unlock()
	if len(o.routes.names) < maxRoutes && !slices.Contains(o.routes.names, route) {
		o.routes.names = append(o.routes.names, strings.Clone(route))
	}
}

// Routes gives which share of the requests of proxies' routes is worth a trace, by the names that spans give: the highest
// of the operations that come by one. Routes are known where rates are adaptive.
func (s *Source) Routes() map[string]float64 {
	shares := map[string]float64{}
	for o, share := range s.wanted {
		o.unplaced.Store(true)
		o.routes.Lock()
		for _, name := range o.routes.names {
			shares[name] = max(shares[name], share)
		}
		o.routes.Unlock()
	}
	return shares
}
