package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// loadTest gives the routes of a load test's rule: for requests that have the mark already, for those with baggage, to
// which the mark is added, and for those without any.
func (t *translator) loadTest(r *mesh.Rule) []*routev3.Route {
	marked, more := *r, *r
	marked.Match = r.Marked()
	something := ".+"
	more.Match.Headers = append([]policy.NamedMatch{{Name: mesh.BaggageHeader, Regex: &something}}, r.Match.Headers...)
	// Baggage may come in several headers. CEL gives them as one, which %REQ()% does not.
	return append(t.plainRoutes(&marked), append(
		withBaggage(t.plainRoutes(&more), "%CEL(request.headers['baggage'])%,"+mesh.LoadTestMember),
		withBaggage(t.plainRoutes(r), mesh.LoadTestMember)...,
	)...)
}

func withBaggage(routes []*routev3.Route, value string) []*routev3.Route {
	for _, route := range routes {
		route.RequestHeadersToAdd = append(route.RequestHeadersToAdd,
			header(mesh.BaggageHeader, value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	}
	return routes
}

// clusterOf names the cluster of a rule's share.
func clusterOf(r *mesh.Rule, to mesh.Share) string {
	if r.LoadTest != nil {
		return to.Subset + string(loadTest)
	}
	return to.Subset
}
