package mesh

import "slices"

// RouteName is what a rule's routes are called everywhere: by proxies on spans and by collectors.
func (r *Rule) RouteName() string { return r.Source.Ref().String() + "/" + r.Name }

// Overlay puts what collectors have learnt over models. It leaves services as they are of which nothing is known, and
// gives the same [Service] again as long as nothing about it changes. It is for one goroutine.
type Overlay struct {
	made map[*Service]*Service // of the last model, by what it was made of
}

// Over gives the model with per cent of traces by route name.
func (o *Overlay) Over(m *Model, percents map[string]float64) *Model {
	made := make(map[*Service]*Service)
	if len(percents) > 0 {
		for _, s := range m.Services {
			if slices.ContainsFunc(s.Rules, func(r *Rule) bool { return percents[r.RouteName()] > 0 }) {
				made[s] = o.over(s, percents)
			}
		}
	}
	o.made = made
	if len(made) == 0 {
		return m
	}
	out := *m
	out.Services = replaced(m.Services, made)
	out.Gateways = nil
	for _, g := range m.Gateways {
		over := *g
		if len(g.Services) == len(m.Services) {
			over.Services = out.Services
		} else {
			over.Services = replaced(g.Services, made)
		}
		out.Gateways = append(out.Gateways, &over)
	}
	return &out
}

func replaced(services []*Service, by map[*Service]*Service) []*Service {
	out := slices.Clone(services)
	for i, s := range out {
		if other := by[s]; other != nil {
			out[i] = other
		}
	}
	return out
}

func (o *Overlay) over(s *Service, percents map[string]float64) *Service {
	if before := o.made[s]; before != nil &&
		!slices.ContainsFunc(before.Rules, func(r *Rule) bool { return r.TracePercent != percents[r.RouteName()] }) {
		return before
	}
	out := *s
	out.Rules = slices.Clone(s.Rules)
	for i, r := range out.Rules {
		if percent := percents[r.RouteName()]; percent > 0 {
			rule := *r
			rule.TracePercent = percent
			out.Rules[i] = &rule
		}
	}
	return &out
}
