package xds

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/mesh"
)

// ruleRoutes gives the routes of a rule, in the order in which Envoy tries them. All have the rule's name, and most
// rules have one.
func (t *translator) ruleRoutes(r *mesh.Rule) []*routev3.Route {
	return t.act(t.route(r), r)
}

// act has a route do what its rule does with requests.
func (t *translator) act(route *routev3.Route, r *mesh.Rule) []*routev3.Route {
	switch {
	case r.Redirect != nil:
		return redirects(route, r.Redirect, &r.Match)
	case r.DirectResponse != nil:
		respond(route, r.DirectResponse.Status, r.DirectResponse.ContentType, r.DirectResponse.Body)
	default:
		route.Action = &routev3.Route_Route{Route: t.routeAction(r)}
	}
	return []*routev3.Route{route}
}
