package xds

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// cors configures a rule's routes. The filter knows those that forward: the others get what it would do in the form of
// more routes.
func (t *translator) cors(routes []*routev3.Route, r *mesh.Rule) []*routev3.Route {
	if !r.CORS.On() {
		return routes
	}
	var all []*routev3.Route
	if m := &r.Match; len(m.Methods)+len(m.Headers)+len(m.Cookies) > 0 || m.GRPC != nil || slices.ContainsFunc(routes, answers) {
		all = append(all, preflight(routes[0].Name, m))
	}
	for _, route := range routes {
		if answers(route) {
			all = append(all, readable(route, r.CORS))
		}
		all = append(all, route)
	}
	policy := t.any(corsPolicy(r.CORS))
	for _, route := range all {
		// What is answered is for the origin that asked, and not for another's cache.
		route.ResponseHeadersToAdd = append(route.ResponseHeadersToAdd, header("vary", "Origin", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD))
		if !answers(route) {
			if route.TypedPerFilterConfig == nil {
				route.TypedPerFilterConfig = make(map[string]*anypb.Any)
			}
			route.TypedPerFilterConfig[corsFilter] = policy
		}
	}
	return all
}

func answers(route *routev3.Route) bool {
	return route.GetRedirect() != nil || route.GetDirectResponse() != nil
}

// preflight takes the requests by which browsers ask for one that the match takes: those have another method, and none
// of the headers that the request itself will have. The filter answers all of them.
func preflight(name string, m *policy.Match) *routev3.Route {
	asked := hasHeader("", true)
	if len(m.Methods) > 0 {
		asked = methodMatch(m.Methods)
	}
	asked.Name = "access-control-request-method"
	match := routeMatch(&policy.Match{Path: m.PathMatch(), Query: m.Query, Methods: []string{"OPTIONS"}})
	match.Headers = append(match.Headers, asked, hasHeader("origin", true))
	return &routev3.Route{
		Name: name, Match: match, Action: &routev3.Route_NonForwardingAction{NonForwardingAction: &routev3.NonForwardingAction{}},
	}
}

// readable is a route's answer as pages of the allowed origins may read it.
func readable(route *routev3.Route, c *policy.CORS) *routev3.Route {
	r := proto.CloneOf(route)
	r.Match.Headers = append(r.Match.Headers, headerIs("origin", regexString(c.Origins())))
	r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd,
		header("access-control-allow-origin", "%REQ(origin)%", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	if c.AllowCredentials {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, literal("access-control-allow-credentials", "true"))
	}
	if len(c.ExposeHeaders) > 0 {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, literal("access-control-expose-headers", strings.Join(c.ExposeHeaders, ",")))
	}
	return r
}

func corsPolicy(c *policy.CORS) *corsfilterv3.CorsPolicy {
	p := &corsfilterv3.CorsPolicy{
		AllowOriginStringMatch: []*matcherv3.StringMatcher{regexString(c.Origins())},
		AllowMethods:           strings.Join(c.AllowMethods, ","),
		AllowHeaders:           strings.Join(c.AllowHeaders, ","),
		ExposeHeaders:          strings.Join(c.ExposeHeaders, ","),
		MaxAge:                 strconv.Itoa(int(time.Duration(*c.MaxAge).Seconds())),
		// No service that knows nothing of CORS is asked what it thinks of a stranger.
		ForwardNotMatchingPreflights: wrapperspb.Bool(false),
	}
	if c.AllowCredentials {
		p.AllowCredentials = wrapperspb.Bool(true)
	}
	return p
}
