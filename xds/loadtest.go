package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// loadTest gives the routes of a rule. A load test's are three: for requests that have the mark already, for those with
// baggage, to which the mark is added, and for those without any.
func (t *translator) loadTest(r *mesh.Rule) []*routev3.Route {
	if r.LoadTest == nil {
		return t.maintained(t.route(r), r)
	}
	marked, more := *r, *r
	marked.Match = r.Marked()
	something := ".+"
	more.Match.Headers = append([]policy.NamedMatch{{Name: mesh.BaggageHeader, Regex: &something}}, r.Match.Headers...)
	routes := t.maintained(t.route(&marked), &marked)
	// Baggage may come in several headers. CEL gives them as one, which %REQ()% does not.
	routes = append(routes, withBaggage(t.maintained(t.route(&more), &more), "%CEL(request.headers['baggage'])%,"+mesh.LoadTestMember)...)
	return append(routes, withBaggage(t.maintained(t.route(r), r), mesh.LoadTestMember)...)
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
