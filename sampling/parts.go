package sampling

import (
	"time"

	"github.com/machinenativeops/weir/policy"
)

// Parts is something of each budget of the documents: what a collector needs of it, or which share of it the collector has.
type Parts struct {
	Mesh     float64            `json:"mesh"`
	Classes  map[string]float64 `json:"classes,omitempty"`
	Services map[string]float64 `json:"services,omitempty"` // NAMESPACE/NAME
}

// part is that of one of the budgets that nest in the mesh's, or else the mesh's.
func (p *Parts) part(of map[string]float64, name string) float64 {
	if part, ok := of[name]; ok {
		return part
	}
	return p.Mesh
}

// Add adds others.
func (p *Parts) Add(others Parts) {
	p.Mesh += others.Mesh
	p.Classes, p.Services = added(p.Classes, others.Classes), added(p.Services, others.Services)
}

func added(a, b map[string]float64) map[string]float64 {
	all := make(map[string]float64, len(a)+len(b))
	for _, of := range []map[string]float64{a, b} {
		for name, part := range of {
			all[name] += part
		}
	}
	return all
}

// newNeeds are none, of the budgets that there are.
func newNeeds(spec *policy.Adaptive) Parts {
	none := func(budgets map[string]float64) map[string]float64 {
		names := make(map[string]float64, len(budgets))
		for name := range budgets {
			names[name] = 0
		}
		return names
	}
	return Parts{Classes: none(spec.Classes), Services: none(spec.Services)}
}

// add adds what an operation would keep if there were no budgets, on average: without peaks, as [Source] has it. What was
// sampled before counts as often as it says, so that the share which a collector has does not change what it needs.
func (p *Parts) add(o *Operation, spec *policy.Adaptive) {
	need := o.steady * *spec.Max / 100
	if o.fixed {
		need = o.steady * o.Threshold().Probability()
	}
	p.Mesh += need
	if class := o.service.Class; spec.Classes[class] > 0 {
		p.Classes[class] += need
	}
	if len(spec.Services) > 0 {
		if service := o.service.ref.String(); spec.Services[service] > 0 {
			p.Services[service] += need
		}
	}
}

// Share has a collector keep so much of each budget from now on, 0 to 1. Those that nest and are not named have the mesh's
// share.
func (r *Rates) Share(shares Parts) {
	if r.adaptive != nil {
		r.adaptive.shares.Store(&shares)
	}
}

// Budget is how many spans a second this collector may keep, where rates are adaptive.
func (r *Rates) Budget() (spansPerSecond float64, adaptive bool) {
	if r.adaptive == nil {
		return 0, false
	}
	return r.adaptive.budget(), true
}

// Needs is what this collector would keep if there were no budgets, in spans a second, where rates are adaptive. It is not
// known well before it is settled, which takes a window. Now is nanoseconds since 1970.
func (r *Rates) Needs(now int64) (needs Parts, settled, adaptive bool) {
	a := r.adaptive
	if a == nil {
		return Parts{}, false, false
	}
	r.Kept(0, now) // where nothing comes, nobody else makes steps
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.needs, now-a.first >= int64(time.Duration(a.spec.Window)), true
}
