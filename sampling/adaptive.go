package sampling

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// Operation is what is known of one operation of a service. Its methods may be called from many goroutines.
type Operation struct {
	threshold atomic.Uint64
	arrived   atomic.Uint64 // spans since the last step
	stand     atomic.Uint64 // for how many: their adjusted counts

	service *Service
	name    string
	fixed   bool // a document gives its rate

	later atomic.Pointer[Operation] // the same under later documents

	unplaced atomic.Bool // it is to be said by which route of a proxy the next span came
	routes   struct {
		sync.Mutex
		names []string
	}

	// Of the steps.
	demand   float64 // spans a second, adjusted, smoothed over the window; what came last where that is more
	steady   float64 // the same without peaks
	arrivals float64 // as demand, but as they come
	idle     time.Duration
	spans    float64 // what it may keep, while a step is made
	least    float64
}

// Threshold is the one in force.
func (o *Operation) Threshold() Threshold { return Threshold(o.threshold.Load()) }

// Came counts spans that came, and for how many they stood when they did: their adjusted counts, of which none is below 1.
func (o *Operation) Came(spans int, stand float64) {
	o.arrived.Add(uint64(spans))
	o.stand.Add(uint64(min(max(stand, float64(spans)), 1<<40) + 0.5))
}

// Latest is the operation under the documents in force, for those who have held it meanwhile.
func (o *Operation) Latest() *Operation {
	for later := o.later.Load(); later != nil; later = o.later.Load() {
		o = later
	}
	return o
}

// Operation gives an operation of the service, where rates are adaptive. Beyond how many are remembered, those that come
// new share one. The name is kept no longer than the call, as that of Threshold.
func (s *Service) Operation(name string) *Operation {
	s.mu.RLock()
	o := s.learnt[name]
	s.mu.RUnlock()
	if o != nil {
		return o
	}
	return s.learn(name)
}

func (s *Service) learn(name string) *Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.learnt[name]; o != nil {
		return o
	}
	if len(s.learnt) >= maxOperations || s.rates.adaptive.operations.Load() >= maxLearnt {
		name = "" // one for all of them
		if o := s.learnt[name]; o != nil {
			return o
		}
	}
	name = strings.Clone(name)
	o := &Operation{service: s, name: name}
	threshold, fixed := s.matched(name)
	o.threshold.Store(uint64(threshold))
	o.unplaced.Store(true)
	o.fixed = fixed
	if s.learnt == nil {
		s.learnt = map[string]*Operation{}
	}
	s.learnt[name] = o
	s.rates.adaptive.operations.Add(1)
	return o
}

const (
	maxLearnt  = 100_000          // operations of all services
	forgotten  = 10 * time.Minute // an operation of which nothing comes for so long
	stepsEach  = 10               // steps in a window
	saved      = 0.5              // windows of the budget that what was not used leaves for later
	overrun    = 2                // times the budget of a step, at which the next is made at once
	shortest   = 5 * time.Millisecond
	bisections = 60
)

// adaptive is a budget, and how well it was kept.
type adaptive struct {
	spec   policy.Adaptive
	shares atomic.Pointer[Parts] // of the budgets, that are this collector's

	operations atomic.Int64
	next       atomic.Int64 // when the next step is due: nanoseconds since 1970
	kept       atomic.Int64 // spans since the last step

	mu    sync.Mutex // of one step with another; guards what follows
	first int64      // step
	last  int64      // step; 0: none was made
	carry float64    // spans that were kept too few (or, below 0, too many) until now
	needs Parts      // as the last step found them; they don't change
}

// Kept tells how many spans of a batch were kept, and makes a step where one is due: now is nanoseconds since 1970.
func (r *Rates) Kept(spans, now int64) {
	a := r.adaptive
	if a == nil {
		return
	}
	kept := a.kept.Add(spans)
	if next := a.next.Load(); now >= next || a.exceeded(kept) {
		r.Step(now)
	}
}

func (a *adaptive) exceeded(kept int64) bool {
	return float64(kept) > overrun*a.budget()*a.step().Seconds()
}

func (a *adaptive) budget() float64     { return a.spec.SpansPerSecond * a.shares.Load().Mesh }
func (a *adaptive) step() time.Duration { return time.Duration(a.spec.Window) / stepsEach }

// Adaptive says whether rates move.
func (r *Rates) Adaptive() bool { return r.adaptive != nil }

// Step sets the rates so that the budget holds for what comes, as far as what came says. At most one step is made in
// 5 ms.
//
// The demand of an operation is an exponentially weighted average over the window, or what came since the last step
// where that is more, so that a flood is cut at once and let in slowly. The budget is shared by max-min fairness
// (Bertsekas and Gallager, Data Networks, 2nd edition, 6.5.2): every operation may keep as much as it has, up to a
// level that is the same for all, which is as high as the budget allows. Budgets of services bound what the classes
// share, and those of classes what the mesh shares. What was kept too much or too few is made up for within a window.
func (r *Rates) Step(now int64) {
	a := r.adaptive
	if !a.mu.TryLock() {
		return // somebody is at it
	}
	defer a.mu.Unlock()
	if a.last == 0 {
		a.first, a.last = now, now
		a.next.Store(now + int64(a.step()))
		a.kept.Store(0)
		return
	}
	passed := time.Duration(now - a.last)
	if passed < shortest {
		return
	}
	a.last = now
	a.next.Store(now + int64(a.step()))
	kept := float64(a.kept.Swap(0))
	budget, window := a.budget(), time.Duration(a.spec.Window).Seconds()
	a.carry = min(max(a.carry+budget*passed.Seconds()-kept, -budget*window), saved*budget*window)

	var moving []*Operation
	left, needs := budget+a.carry/window, newNeeds(&a.spec)
	r.each(func(o *Operation) bool {
		if o.observe(passed, time.Duration(a.spec.Window)) {
			return true
		}
		needs.add(o, &a.spec)
		if o.fixed {
			left -= min(o.demand*o.Threshold().Probability(), o.arrivals)
		} else if o.demand > 0 {
			o.spans = min(o.demand*(*a.spec.Max/100), o.arrivals)
			o.least = min(o.demand*(*a.spec.Min/100), o.spans)
			moving = append(moving, o)
		}
		return false
	})
	a.needs = needs
	a.share(moving, left)
	for _, o := range moving {
		o.threshold.Store(uint64(FromPercent(100 * min(o.spans/o.demand, 1))))
	}
}

// observe takes what came since the last step, and says whether the operation is to be forgotten.
func (o *Operation) observe(passed, window time.Duration) bool {
	arrived, stand := float64(o.arrived.Swap(0)), float64(o.stand.Swap(0))
	if o.idle += passed; arrived > 0 {
		o.idle = 0
	}
	weight := 1 - math.Exp(-passed.Seconds()/window.Seconds())
	smooth := func(before, now float64) float64 { return max(before+weight*(now-before), now) }
	o.demand, o.arrivals = smooth(o.demand, stand/passed.Seconds()), smooth(o.arrivals, arrived/passed.Seconds())
	o.steady += weight * (stand/passed.Seconds() - o.steady)
	return o.idle > forgotten
}

// share cuts what operations may keep to the budgets: what is left of that of the mesh last.
func (a *adaptive) share(moving []*Operation, left float64) {
	shares := a.shares.Load()
	within(moving, func(o *Operation) string { return o.service.ref.String() }, a.spec.Services, func(name string) float64 { return shares.part(shares.Services, name) })
	within(moving, func(o *Operation) string { return o.service.Class }, a.spec.Classes, func(name string) float64 { return shares.part(shares.Classes, name) })
	fill(moving, left)
}

// within lets operations that belong together keep no more than this collector's share of a budget of theirs.
func within(operations []*Operation, of func(*Operation) string, budgets map[string]float64, share func(name string) float64) {
	if len(budgets) == 0 {
		return
	}
	groups := make(map[string][]*Operation)
	for _, o := range operations {
		if name := of(o); budgets[name] > 0 {
			groups[name] = append(groups[name], o)
		}
	}
	for name, group := range groups {
		fill(group, budgets[name]*share(name))
	}
}

// fill cuts what operations may keep to the level at which they keep the budget together, if they would keep more.
func fill(operations []*Operation, budget float64) {
	total, high := 0.0, 0.0
	for _, o := range operations {
		total += o.spans
		high = max(high, o.spans)
	}
	if total <= budget {
		return
	}
	low := 0.0
	for range bisections {
		level := (low + high) / 2
		if total = 0; total <= budget {
			for _, o := range operations {
				total += max(min(o.spans, level), o.least)
			}
		}
		if total > budget {
			high = level
		} else {
			low = level
		}
	}
	for _, o := range operations {
		o.spans = max(min(o.spans, low), o.least)
	}
}

// each visits all operations, and forgets those for which the function gives true.
func (r *Rates) each(visit func(*Operation) bool) {
	r.mu.RLock()
	services := make([]*Service, 0, len(r.services)+len(r.others))
	for _, s := range r.services {
		services = append(services, s)
	}
	for _, s := range r.others {
		services = append(services, s)
	}
	r.mu.RUnlock()
	// The order decides on nothing but the last bits of sums; it is the same every time.
	slices.SortFunc(services, func(a, b *Service) int {
		return cmp.Or(a.ref.Compare(b.ref), cmp.Compare(a.Class, b.Class))
	})
	for _, s := range services {
		s.mu.Lock()
		for name, o := range s.learnt {
			if visit(o) {
				delete(s.learnt, name)
				r.adaptive.operations.Add(-1)
			}
		}
		s.mu.Unlock()
	}
}

// adopt takes over what was learnt under other documents. Spans that are judged by those meanwhile are not counted.
func (r *Rates) adopt(before *Rates) {
	a, b := r.adaptive, before.adaptive
	b.mu.Lock()
	defer b.mu.Unlock()
	a.first, a.last, a.carry, a.needs = b.first, b.last, b.carry, b.needs
	a.shares.Store(b.shares.Load())
	a.next.Store(b.next.Load())
	before.each(func(o *Operation) bool {
		s := r.Service(o.service.ref, o.service.attribute)
		now := s.Operation(o.name)
		now.demand, now.steady, now.arrivals, now.idle = o.demand, o.steady, o.arrivals, o.idle
		o.later.Store(now)
		if !now.fixed && !o.fixed {
			now.threshold.Store(o.threshold.Load())
		}
		return false
	})
}

// Rate is what is in force for an operation.
type Rate struct {
	Service   string // NAMESPACE/NAME
	Operation string // "": of all others of the service
	Class     string
	Percent   float64
	Demand    float64 // spans a second, of which so many are kept; 0 where rates are not adaptive
}

// InForce gives the rates of the operations with the highest demand, so many at most. Where rates are not adaptive, demand is
// not known, and it gives each service's rate, as that of the operation "", and those of operations that differ.
func (r *Rates) InForce(most int) []Rate {
	if r.adaptive == nil {
		return r.written(most)
	}
	r.adaptive.mu.Lock()
	defer r.adaptive.mu.Unlock()
	var all []Rate
	r.each(func(o *Operation) bool {
		all = append(all, Rate{o.service.ref.String(), o.name, o.service.Class, 100 * o.Threshold().Probability(), o.demand})
		return false
	})
	slices.SortFunc(all, func(a, b Rate) int {
		return cmp.Or(cmp.Compare(b.Demand, a.Demand), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Operation, b.Operation))
	})
	return all[:min(len(all), most)]
}

// written is InForce of rates that stay as the documents have them.
func (r *Rates) written(most int) (all []Rate) {
	r.mu.RLock()
	services := slices.Collect(maps.Values(r.services))
	r.mu.RUnlock()
	for _, s := range services {
		all = append(all, Rate{s.ref.String(), "", s.Class, 100 * s.threshold.Probability(), 0})
		s.mu.RLock()
		for name, known := range s.seen {
			if t := known.threshold; t != s.threshold {
				all = append(all, Rate{s.ref.String(), name, s.Class, 100 * t.Probability(), 0})
			}
		}
		s.mu.RUnlock()
	}
	slices.SortFunc(all, func(a, b Rate) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Class, b.Class))
	})
	return all[:min(len(all), most)]
}
