package mesh

import "github.com/machinenativeops/weir/policy"

// hashKey is what tells a rule's users apart: what it says itself, or else the affinity of the first destination that
// has one.
func (b *builder) hashKey(s *Service, r *policy.Rule) *policy.HashKey {
	if r.Sticky != nil {
		return r.Sticky
	}
	for _, to := range r.To {
		if spec := b.specOf(s, to.Service); spec != nil && spec.Affinity != nil {
			return spec.Affinity
		}
	}
	return nil
}
