package mesh

import "github.com/machinenativeops/weir/policy"

// Changes are what one place in the documents changes of headers.
type Changes struct {
	Request, Response policy.HeaderChanges
}

// headers finds what is changed of a rule's requests and responses.
func (b *builder) headers(s *Service, r *Rule) {
	r.Changes = []Changes{{s.Spec.RequestHeaders, s.Spec.ResponseHeaders}, {r.RequestHeaders, r.ResponseHeaders}}
	if r.Answers() != "" { // requests end here
		for i := range r.Changes {
			r.Changes[i].Request = policy.HeaderChanges{}
		}
	}
	for _, to := range r.Rule.To {
		owner := b.specOf(s, to.Service)
		if owner == nil {
			continue
		}
		for i := range owner.Versions {
			v := &owner.Versions[i]
			if v.Name == to.Version && (v.RequestHeaders.Any() || v.ResponseHeaders.Any()) {
				if r.VersionChanges == nil {
					r.VersionChanges = make(map[string]Changes)
				}
				r.VersionChanges[SubsetName(to.Service, v.Name)] = Changes{v.RequestHeaders, v.ResponseHeaders}
			}
		}
	}
}
