package xds

import (
	"maps"
	"slices"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	header_mutationfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Header changes are made by a filter, one by one in the order of the documents. What routes themselves change is set
// before it is added, and changed by the least specific of them last.

func (t *translator) headerFilter() *anypb.Any {
	return t.any(&header_mutationfilterv3.HeaderMutation{MostSpecificHeaderMutationsWins: true})
}

// versionHeaders configures what a version changes, after what its service and rule do.
func (t *translator) versionHeaders(r *mesh.Rule, to mesh.Share, weight *routev3.WeightedCluster_ClusterWeight) {
	filters := make(map[string]*anypb.Any)
	t.changeHeaders([]mesh.Changes{r.VersionChanges[to.Subset]}, filters)
	if len(filters) > 0 {
		weight.TypedPerFilterConfig = filters
	}
}

// changeHeaders configures what places in the documents change, in their order.
func (t *translator) changeHeaders(all []mesh.Changes, filters map[string]*anypb.Any) {
	m := &header_mutationfilterv3.Mutations{}
	for _, c := range all {
		m.RequestMutations = append(m.RequestMutations, mutations(c.Request)...)
		m.ResponseMutations = append(m.ResponseMutations, mutations(c.Response)...)
	}
	if len(m.RequestMutations)+len(m.ResponseMutations) > 0 {
		filters[headerFilter] = t.any(&header_mutationfilterv3.HeaderMutationPerRoute{Mutations: m})
	}
}

// mutations are those of one place: add, then set, then remove, so that a header can be renamed.
func mutations(c policy.HeaderChanges) []*mutationrulesv3.HeaderMutation {
	var all []*mutationrulesv3.HeaderMutation
	if !c.Any() {
		return nil
	}
	put := func(values map[string]string, action corev3.HeaderValueOption_HeaderAppendAction) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			all = append(all, &mutationrulesv3.HeaderMutation{
				Action: &mutationrulesv3.HeaderMutation_Append{Append: header(name, values[name], action)},
			})
		}
	}
	put(c.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	put(c.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	for _, name := range c.Remove {
		all = append(all, &mutationrulesv3.HeaderMutation{Action: &mutationrulesv3.HeaderMutation_Remove{Remove: name}})
	}
	return all
}
