package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// versions warns of versions that have no endpoint.
func (p page) versions(d *policy.Document[policy.ServiceSpec]) {
	for i, v := range d.Spec.Versions {
		if p.empty(d.Ref().String(), v.Name) {
			p.warn(VersionWithoutEndpoints, fmt.Sprintf("spec.versions[%d]", i), "no endpoint has the labels {%s}, which are the selector of %s", labels(v.Selector), v.Name)
		}
	}
}

func labels(selector map[string]string) string {
	var all []string
	for _, name := range namesOf(selector) {
		all = append(all, name+": "+selector[name])
	}
	return strings.Join(all, ", ")
}

// empty says whether it is known that no endpoint is behind a service or a version of it.
func (l *linter) empty(service, version string) bool {
	s := l.service(service)
	return s != nil && s.Spec.Endpoints.DNS == nil &&
		slices.ContainsFunc(s.Subsets, func(sub *mesh.Subset) bool { return sub.Version == version && len(sub.Endpoints) == 0 })
}

// strayEndpoints warns of endpoints that are in no version though there are versions.
func (p page) strayEndpoints(d *policy.Document[policy.ServiceSpec]) {
	s := p.service(d.Ref().String())
	if len(d.Spec.Versions) == 0 {
		return
	}
	for i, e := range d.Spec.Endpoints.Static {
		if !slices.ContainsFunc(s.Subsets, func(sub *mesh.Subset) bool {
			return sub.Version != "" && slices.ContainsFunc(sub.Endpoints, func(of mesh.Endpoint) bool {
				return of.Address == e.Address && of.Port == e.Port && of.Zone == e.Zone
			})
		}) {
			p.warn(EndpointWithoutVersion, fmt.Sprintf("spec.endpoints.static[%d]", i),
				"no version selects {%s}: only rules that send to all endpoints reach it; label it as one of the versions, or leave it out", labels(e.Labels))
		}
	}
}

// destinations warns of what a rule sends to nobody, and of what it lists twice.
func (p page) destinations(r *mesh.Rule, service, path string) {
	seen := make(map[string]int)
	for i, to := range r.Rule.To {
		at := fmt.Sprintf("%s.to[%d]", path, i)
		name := mesh.SubsetName(to.Service, to.Version)
		if first, twice := seen[name]; twice {
			p.warn(DuplicateDestination, at, "%s is to[%d] already: add their weights up, or name another version", name, first)
		} else {
			seen[name] = i
		}
		// A service that runs nowhere is meant to answer 503.
		if *to.Weight > 0 && p.empty(to.Service, to.Version) && (to.Service != service || !p.service(service).Spec.Endpoints.None) {
			p.warn(DestinationWithoutEndpoints, at, "%s has no endpoints, so that its share of the requests is answered with 503: give it an endpoint, or weight: 0", name)
		}
	}
	for i, m := range r.Rule.Mirror {
		if p.empty(m.Service, m.Version) {
			p.warn(DestinationWithoutEndpoints, fmt.Sprintf("%s.mirror[%d]", path, i), "%s has no endpoints, so that its copies go nowhere", mesh.SubsetName(m.Service, m.Version))
		}
	}
}

// unusedVersions warns of versions that no rule names, where no rule sends to all of the service's endpoints either.
func (l *linter) unusedVersions(d *policy.Document[policy.ServiceSpec]) {
	if l.used[d.Ref().String()] > 0 {
		return
	}
	for i, v := range d.Spec.Versions {
		if l.used[mesh.SubsetName(d.Ref().String(), v.Name)] == 0 {
			pageOf(l, "Service", d).warn(UnusedVersion, fmt.Sprintf("spec.versions[%d]", i),
				"no rule sends anything to %s: send it a share (weight: 0 keeps it warm), or leave it out", v.Name)
		}
	}
}
