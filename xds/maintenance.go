package xds

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// maintenance gives the routes that answer in a rule's place: one for each form of the answer. They ask no limit.
func maintenance(rule *routev3.Route, r *mesh.Rule) []*routev3.Route {
	m := r.Maintenance
	var all []*routev3.Route
	answer := func(accept *matcherv3.StringMatcher, contentType, body string) {
		route := &routev3.Route{
			Name: rule.Name, Match: proto.CloneOf(rule.Match),
		}
		if changes, ok := rule.TypedPerFilterConfig[headerFilter]; ok {
			route.TypedPerFilterConfig = map[string]*anypb.Any{headerFilter: changes}
		}
		if accept != nil {
			route.Match.Headers = append(route.Match.Headers, headerIs("accept", accept))
		}
		if m.HTML != "" || m.JSON != "" {
			route.ResponseHeadersToAdd = append(route.ResponseHeadersToAdd, literal("vary", "Accept"))
		}
		if m.RetryAfter != nil {
			seconds := math.Ceil(time.Duration(*m.RetryAfter).Seconds())
			route.ResponseHeadersToAdd = append(route.ResponseHeadersToAdd, literal("retry-after", strconv.FormatFloat(seconds, 'f', 0, 64)))
		}
		respond(route, m.Status, contentType, body)
		all = append(all, route)
	}
	if m.HTML != "" {
		if m.JSON != "" { // wins where it comes first
			answer(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/json"}, IgnoreCase: true}, "application/json", m.JSON)
		}
		answer(contains("text/html"), "text/html; charset=utf-8", m.HTML)
	}
	if m.JSON != "" {
		answer(contains("json"), "application/json", m.JSON) // application/problem+json too
	}
	answer(nil, "text/plain; charset=utf-8", m.Body)
	return all
}

func contains(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: s}, IgnoreCase: true}
}

// narrow adds what a match says to what a route's match says. A route has one condition on the path, so that the other
// is one on the header, which has the query in it too.
func narrow(match *routev3.RouteMatch, m *policy.Match) {
	more := routeMatch(m)
	more.PathSpecifier = nil
	proto.Merge(match, more)
	p := m.PathMatch()
	if p == nil {
		return
	}
	var path string
	if p.Exact != nil {
		path = regexp.QuoteMeta(*p.Exact) + `(\?.*)?`
	} else {
		path = regexp.QuoteMeta(strings.TrimRight(*p.Prefix, "/")) + "([/?].*)?"
	}
	match.Headers = append(match.Headers, headerIs(":path", regexString(path)))
}
