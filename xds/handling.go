package xds

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
)

// ruleRoutes gives the routes of a rule, in the order in which Envoy tries them. All have the rule's name, and most
// rules have one.
func (t *translator) ruleRoutes(r *mesh.Rule) []*routev3.Route {
	return t.cors(t.loadTest(r), r)
}

// maintained puts maintenance in the place of what a rule does.
func (t *translator) maintained(route *routev3.Route, r *mesh.Rule) []*routev3.Route {
	m := r.Maintenance
	if m == nil {
		return t.act(route, r)
	}
	var all []*routev3.Route
	if m.Unless != nil {
		through := proto.CloneOf(route)
		narrow(through.Match, m.Unless)
		all = t.act(through, r)
	}
	return append(all, maintenance(route, r)...)
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
