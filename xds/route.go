package xds

import (
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// serviceBehind gives the service of a virtual host.
func serviceBehind(virtualHost string) string {
	return strings.Replace(strings.TrimPrefix(virtualHost, Namespace(virtualHost)+"/"), ".", "/", 1)
}

// routes is the route configuration of a listener. Its virtual hosts are resources of their own.
func (t *translator) routes(d door, whose string) *Resource {
	return t.resource(RouteType, d.routes, whose, d.sources, func() proto.Message {
		c := &routev3.RouteConfiguration{
			Name: d.routes, ValidateClusters: wrapperspb.Bool(false),
			// A client names the port it has dialled, which says nothing of the service; wildcards match no port.
			IgnorePortInHostMatching:       true,
			MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(policy.MaxBody),
		}
		if d.edge {
			c.InternalOnlyHeaders = []string{shadowHeader} // strangers can't make their requests pass for copies
		}
		if d.serves { // else the listener would wait for the first
			c.Vhds = &routev3.Vhds{ConfigSource: adsSource()}
		}
		if d.http3 {
			c.ResponseHeadersToAdd = advertise(d.port)
		}
		if d.secure != nil {
			c.VirtualHosts = secured(d.routes, *d.secure)
		}
		return c
	})
}

// virtualHost is a service's part of a route configuration. Its name is that one's and, after the last slash,
// the service's, which has no dot in its parts.
func (t *translator) virtualHost(d door, s *mesh.Service) *Resource {
	name := d.routes + "/" + strings.Replace(s.Name, "/", ".", 1)
	return t.named(VirtualHostType, name, s.Name, sourcesOf(s), func() []byte {
		build := func() []byte { return t.marshal(t.unnamedHost(d, s)) }
		if counts(s) {
			return build()
		}
		var secure uint64
		if d.tls != nil {
			secure = 1
		}
		return t.lastHost.get(s, secure, build)
	})
}

// unnamedHost is a virtual host but for its name. Those of a service that proxies don't count by themselves are the same behind
// all doors that are secure, and behind all others.
func (t *translator) unnamedHost(d door, s *mesh.Service) *routev3.VirtualHost {
	v := &routev3.VirtualHost{Domains: s.Spec.Hosts, TypedPerFilterConfig: make(map[string]*anypb.Any)}
	t.door = d.routes
	own, shares := fairShares(s.Local)
	t.localLimits(localService, s.Name, own, v.TypedPerFilterConfig)
	t.localLimits(localShare, s.Name, shares, v.TypedPerFilterConfig)
	if len(s.Quota) > 0 {
		t.through(quotaService, s.Name, v.TypedPerFilterConfig)
	}
	for _, r := range s.Rules {
		v.Routes = append(v.Routes, t.sampled(keyed(t.ruleRoutes(r), r.Key, d.tls != nil), r)...)
	}
	return v
}

func sourcesOf(s *mesh.Service) []policy.Key {
	sources := []policy.Key{s.Source}
	for _, r := range s.Rules {
		sources = append(sources, r.Source)
		for _, l := range r.Global {
			sources = append(sources, l.Source)
		}
	}
	for _, l := range s.Local {
		sources = append(sources, l.Source)
	}
	for _, l := range s.Quota {
		sources = append(sources, l.Source)
	}
	return sources
}

// route is a rule's route but for what it does.
func (t *translator) route(r *mesh.Rule) *routev3.Route {
	return &routev3.Route{
		Name:                 r.RouteName(),
		Match:                routeMatch(&r.Match),
		TypedPerFilterConfig: t.perRoute(r),
	}
}

func routeMatch(m *policy.Match) *routev3.RouteMatch {
	out := pathMatch(m.PathMatch())
	if m.GRPC != nil {
		out.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	if len(m.Methods) > 0 {
		out.Headers = append(out.Headers, methodMatch(m.Methods))
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerMatch(h))
	}
	for _, q := range m.Query {
		out.QueryParameters = append(out.QueryParameters, queryMatch(q))
	}
	for _, k := range m.Cookies {
		out.Cookies = append(out.Cookies, cookieMatch(k))
	}
	return out
}

// pathMatch: a prefix is of whole segments, so that /cart is not the beginning of /cartoon.
func pathMatch(p *policy.StringMatch) *routev3.RouteMatch {
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	switch {
	case p == nil:
	case p.Exact != nil:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: *p.Exact}
	case p.Regex != nil:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(*p.Regex)}
	default:
		if prefix := strings.TrimRight(*p.Prefix, "/"); prefix != "" {
			out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: prefix}
		}
	}
	return out
}

func regex(s string) *matcherv3.RegexMatcher {
	if s == "" {
		s = "()" // matches the same; Envoy refuses an empty one
	}
	return &matcherv3.RegexMatcher{Regex: s}
}

func methodMatch(methods []string) *routev3.HeaderMatcher {
	alternatives := make([]string, len(methods))
	for i, m := range methods {
		alternatives[i] = regexp.QuoteMeta(m)
	}
	return headerIs(":method", regexString(strings.Join(alternatives, "|")))
}

func headerMatch(m policy.NamedMatch) *routev3.HeaderMatcher {
	if m.Present != nil {
		return hasHeader(m.Name, *m.Present)
	}
	return headerIs(m.Name, stringMatch(m))
}

func hasHeader(name string, has bool) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: has}}
}

func headerIs(name string, m *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
}

func queryMatch(m policy.NamedMatch) *routev3.QueryParameterMatcher {
	if m.Present != nil {
		return &routev3.QueryParameterMatcher{
			Name: m.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: *m.Present},
		}
	}
	return &routev3.QueryParameterMatcher{
		Name: m.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatch(m)},
	}
}

func stringMatch(m policy.NamedMatch) *matcherv3.StringMatcher {
	switch {
	case m.Exact != nil:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: *m.Exact}}
	case m.Prefix != nil:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: *m.Prefix}}
	default:
		return regexString(*m.Regex)
	}
}

func regexString(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(s)}}
}

func (t *translator) routeAction(r *mesh.Rule) *routev3.RouteAction {
	a := &routev3.RouteAction{Timeout: durationpb.New(r.Timeout), IdleTimeout: idleTimeout(r.Timeout), RetryPolicy: t.retryPolicy(r.Retries)}
	hedge(a, r)
	rewriteURL(a, r)
	mirror(a, r)
	if len(r.To) == 1 && r.VersionChanges == nil {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: clusterOf(r, r.To[0])}
		return a
	}
	weighted := &routev3.WeightedCluster{}
	shares := r.To
	if r.Key != nil {
		shares = r.Placed()
		weighted.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
	}
	for _, to := range shares {
		share := &routev3.WeightedCluster_ClusterWeight{Name: clusterOf(r, to), Weight: number(to.Weight)}
		t.versionHeaders(r, to, share)
		weighted.Clusters = append(weighted.Clusters, share)
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	return a
}

// idleTimeout keeps the listener's from ending what a rule gives more time; nil leaves that one.
func idleTimeout(timeout time.Duration) *durationpb.Duration {
	switch {
	case timeout == 0:
		return durationpb.New(endlessIdle)
	case timeout > streamIdle:
		return durationpb.New(timeout)
	default:
		return nil
	}
}

func header(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action, KeepEmptyValue: true,
	}
}

// perRoute is what a rule configures of the filters.
func (t *translator) perRoute(r *mesh.Rule) map[string]*anypb.Any {
	filters := make(map[string]*anypb.Any)
	t.globalLimits(r, filters)
	t.localLimits(localRule, localChain(r), r.Local, filters)
	t.fault(r.Fault, filters)
	t.bodies(r, filters)
	t.changeHeaders(r.Changes, filters)
	return filters
}
