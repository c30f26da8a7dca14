package xds

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// grpcTranslator makes what gRPC's own xDS clients are served, which dial xds:///HOST without a proxy between: a
// listener for each host, the routes of its service, and the clusters that those name. All clients share one view.
//
// A gRPC library knows a part of Envoy's features. What it would silently leave out in a way that takes more requests
// than the documents say is put in other words here, or left out; docs/grpc-clients.md tells of each.
type grpcTranslator struct {
	*translator
	wanted map[string]bool // subsets that routes name
}

func grpcView(m *mesh.Model, o Options) (View, error) {
	g := grpcTranslator{newTranslator(m, o), make(map[string]bool)}
	v := View{}
	for _, s := range m.Services {
		if s.Spec.Protocol == "http" { // 1.1, which gRPC does not speak
			continue
		}
		names := grpcNames(s)
		for _, name := range names {
			v.add(g.listener(s, name))
		}
		if len(names) > 0 {
			v.add(g.routes(s))
		}
	}
	for _, s := range m.Services {
		for _, sub := range s.Subsets {
			if !g.wanted[sub.Name] {
				continue
			}
			v.add(g.cluster(s, sub))
			if s.Spec.Endpoints.DNS == nil {
				v.add(g.endpoints(s, sub))
			}
		}
	}
	for _, kind := range v {
		slices.SortFunc(kind, func(a, b *Resource) int { return cmp.Compare(a.Name, b.Name) })
	}
	return v, g.err
}

// grpcNames are what a client may dial, with the service's port or without. It asks for exactly what it dials, so that
// there is nothing to serve for a wildcard.
func grpcNames(s *mesh.Service) (names []string) {
	for _, host := range s.Spec.Hosts {
		if strings.HasPrefix(host, "*") {
			continue
		}
		names = append(names, host)
		if s.Spec.Port != 0 {
			names = append(names, host+":"+strconv.Itoa(s.Spec.Port))
		}
	}
	return names
}

func grpcRoutesOf(s *mesh.Service) string { return "grpc/" + s.Name }

func (g grpcTranslator) listener(s *mesh.Service, name string) *Resource {
	return g.resource(ListenerType, name, s.Name, []policy.Key{s.Source}, func() proto.Message {
		filter := func(name string, config proto.Message) *hcmv3.HttpFilter {
			return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: g.any(config)}}
		}
		return &listenerv3.Listener{Name: name, ApiListener: &listenerv3.ApiListener{
			ApiListener: g.any(&hcmv3.HttpConnectionManager{
				RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
					ConfigSource: adsSource(), RouteConfigName: grpcRoutesOf(s),
				}},
				// As in filters: what does nothing until a route configures it.
				HttpFilters: []*hcmv3.HttpFilter{filter(faultFilter, &faultfilterv3.HTTPFault{}), filter(router, &routerfilterv3.Router{})},
			}),
		}}
	})
}

// routes are of one service, whatever name of it was dialled.
func (g grpcTranslator) routes(s *mesh.Service) *Resource {
	return g.resource(RouteType, grpcRoutesOf(s), s.Name, sourcesOf(s), func() proto.Message {
		host := &routev3.VirtualHost{Name: s.Name, Domains: []string{"*"}}
		for _, r := range s.Rules {
			if r.LoadTest != nil { // its calls could be neither marked nor counted
				continue
			}
			for _, match := range grpcMatches(&r.Match) {
				host.Routes = append(host.Routes, g.rule(s, r, match)...)
			}
		}
		return &routev3.RouteConfiguration{Name: grpcRoutesOf(s), VirtualHosts: []*routev3.VirtualHost{host}}
	})
}

// grpcMatches gives the matches that together take the calls that m takes: none where no call can be one. Every call
// is a POST without a query and without cookies.
func grpcMatches(m *policy.Match) []*routev3.RouteMatch {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, "POST") {
		return nil
	}
	for _, n := range slices.Concat(m.Query, m.Cookies) {
		if n.Present == nil || *n.Present {
			return nil
		}
	}
	var all []*routev3.RouteMatch
	switch p := m.PathMatch(); {
	case p == nil:
		all = []*routev3.RouteMatch{{PathSpecifier: &routev3.RouteMatch_Prefix{}}}
	case p.Prefix == nil:
		all = []*routev3.RouteMatch{pathMatch(p)}
	default:
		prefix := strings.TrimRight(*p.Prefix, "/")
		all = []*routev3.RouteMatch{{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix + "/"}}}
		if prefix != "" {
			all = append(all, &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: prefix}})
		}
	}
	for _, match := range all {
		for _, h := range m.Headers {
			match.Headers = append(match.Headers, headerMatch(h))
		}
	}
	return all
}

// both gives the match of what a and b take, or nil where that is nothing.
func both(a, b *routev3.RouteMatch) *routev3.RouteMatch {
	out := proto.CloneOf(a)
	out.Headers = append(out.Headers, b.GetHeaders()...)
	switch {
	case covers(b, a):
	case covers(a, b):
		out.PathSpecifier = b.GetPathSpecifier()
	default:
		return nil
	}
	return out
}

// covers says whether every path that b takes is one that a takes.
func covers(a, b *routev3.RouteMatch) bool {
	switch p := b.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		switch q := a.GetPathSpecifier().(type) {
		case *routev3.RouteMatch_Path:
			return p.Path == q.Path
		case *routev3.RouteMatch_SafeRegex:
			re, err := regexp.Compile("^(?:" + q.SafeRegex.GetRegex() + ")$")
			return err == nil && re.MatchString(p.Path)
		default:
			return strings.HasPrefix(p.Path, a.GetPrefix())
		}
	case *routev3.RouteMatch_Prefix:
		q, ok := a.GetPathSpecifier().(*routev3.RouteMatch_Prefix)
		return ok && strings.HasPrefix(p.Prefix, q.Prefix)
	default: // all paths cover a regular expression
		q, ok := a.GetPathSpecifier().(*routev3.RouteMatch_Prefix)
		return ok && strings.Trim(q.Prefix, "/") == ""
	}
}

// rule gives the routes of one of a rule's matches, in the order in which they are tried.
func (g grpcTranslator) rule(s *mesh.Service, r *mesh.Rule, match *routev3.RouteMatch) []*routev3.Route {
	m := r.Maintenance
	if m == nil {
		return g.act(s, r, match)
	}
	var all []*routev3.Route
	if m.Unless != nil {
		for _, through := range grpcMatches(m.Unless) {
			if narrowed := both(match, through); narrowed != nil {
				all = append(all, g.act(s, r, narrowed)...)
			}
		}
	}
	return append(all, g.answer(s, r, match, m.Status))
}

func (g grpcTranslator) act(s *mesh.Service, r *mesh.Rule, match *routev3.RouteMatch) []*routev3.Route {
	switch {
	case r.Redirect != nil:
		return []*routev3.Route{g.answer(s, r, match, r.Redirect.StatusCode)}
	case r.DirectResponse != nil:
		return []*routev3.Route{g.answer(s, r, match, r.DirectResponse.Status)}
	}
	plain := g.route(r, match, g.action(r))
	if r.Fault == nil {
		return []*routev3.Route{plain}
	}
	// A client would let the headers that a fault is for out of account.
	faulty, fault := proto.CloneOf(plain), *r.Fault
	for _, h := range fault.Headers {
		faulty.Match.Headers = append(faulty.Match.Headers, headerMatch(h))
	}
	fault.Headers = nil
	faulty.TypedPerFilterConfig = make(map[string]*anypb.Any)
	g.fault(&fault, faulty.TypedPerFilterConfig)
	if len(r.Fault.Headers) == 0 {
		return []*routev3.Route{faulty}
	}
	return []*routev3.Route{faulty, plain}
}

func (g grpcTranslator) route(r *mesh.Rule, match *routev3.RouteMatch, a *routev3.RouteAction) *routev3.Route {
	return &routev3.Route{
		Name: r.Source.Ref().String() + "/" + r.Name, Match: match, Action: &routev3.Route_Route{Route: a},
	}
}

// answer fails calls with the code that stands for a status of HTTP: a client has no answers of its own.
func (g grpcTranslator) answer(s *mesh.Service, r *mesh.Rule, match *routev3.RouteMatch, status int) *routev3.Route {
	cluster := mesh.SubsetName(s.Name, "")
	g.wanted[cluster] = true
	out := g.route(r, match, &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}})
	out.TypedPerFilterConfig = map[string]*anypb.Any{faultFilter: g.any(&faultfilterv3.HTTPFault{Abort: &faultfilterv3.FaultAbort{
		ErrorType: &faultfilterv3.FaultAbort_HttpStatus{HttpStatus: uint32(status)}, Percentage: fraction(100),
	}})}
	return out
}

func (g grpcTranslator) action(r *mesh.Rule) *routev3.RouteAction {
	a := &routev3.RouteAction{
		MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(r.Timeout)}, // 0: none
		RetryPolicy:       grpcRetries(r.Retries),
		HashPolicy:        grpcHash(r.Key),
	}
	for _, to := range r.To {
		g.wanted[to.Subset] = true
	}
	if len(r.To) == 1 {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: r.To[0].Subset}
		return a
	}
	weighted := &routev3.WeightedCluster{}
	for _, to := range r.To {
		weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: to.Subset, Weight: number(to.Weight)})
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	return a
}

// grpcRetryOn are the words that clients know, and those of HTTP that mean one of them: what breaks a call in the middle
// is unavailable. Calls that never reached a server they try again by themselves.
var grpcRetryOn = map[string]string{
	"cancelled": "cancelled", "deadline-exceeded": "deadline-exceeded", "internal": "internal",
	"resource-exhausted": "resource-exhausted", "unavailable": "unavailable",
	"5xx": "unavailable", "gateway-error": "unavailable", "reset": "unavailable",
}

func grpcRetries(r *policy.Retries) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	on := make(map[string]bool)
	for _, word := range r.On {
		if known := grpcRetryOn[word]; known != "" {
			on[known] = true
		}
	}
	if len(on) == 0 {
		return nil
	}
	return &routev3.RetryPolicy{
		RetryOn:    strings.Join(slices.Sorted(maps.Keys(on)), ","),
		NumRetries: number(*r.Attempts),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(time.Duration(*r.Backoff)), MaxInterval: durationpb.New(10 * time.Duration(*r.Backoff)),
		},
	}
}

// grpcHash: where the caller's address tells callers apart, its channel does. There are no cookies.
func grpcHash(key *policy.HashKey) []*routev3.RouteAction_HashPolicy {
	switch {
	case key == nil || key.Cookie != nil:
		return nil
	case key.Header != "":
		return hashPolicy(key)
	default:
		return []*routev3.RouteAction_HashPolicy{{PolicySpecifier: &routev3.RouteAction_HashPolicy_FilterState_{
			FilterState: &routev3.RouteAction_HashPolicy_FilterState{Key: "io.grpc.channel_id"},
		}}}
	}
}

// grpcPolicies are the nearest that clients have.
var grpcPolicies = map[string]clusterv3.Cluster_LbPolicy{
	"least_request": clusterv3.Cluster_LEAST_REQUEST,
	"round_robin":   clusterv3.Cluster_ROUND_ROBIN,
	"random":        clusterv3.Cluster_ROUND_ROBIN,
	"ring_hash":     clusterv3.Cluster_RING_HASH,
	"maglev":        clusterv3.Cluster_RING_HASH,
}

func (g grpcTranslator) cluster(s *mesh.Service, sub *mesh.Subset) *Resource {
	return g.resource(ClusterType, sub.Name, s.Name, []policy.Key{s.Source}, func() proto.Message {
		c := &clusterv3.Cluster{
			Name:     sub.Name,
			LbPolicy: grpcPolicies[s.Spec.LoadBalancing.Policy],
			CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
				MaxRequests: number(*s.Spec.CircuitBreaker.MaxRequests),
			}}},
			OutlierDetection: grpcOutliers(s.Spec.OutlierDetection),
		}
		if dns := s.Spec.Endpoints.DNS; dns != nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
			c.LoadAssignment = assignment(sub.Name, dns.Name, dns.Port)
		} else {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
			c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()}
		}
		hashed(c, policy.LoadBalancing{}, len(sub.Endpoints))
		return c
	})
}

// grpcOutliers: clients don't count failures in a row. They eject an endpoint all of whose calls failed in an interval,
// if there were as many.
func grpcOutliers(o *policy.OutlierDetection) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	out := outlierDetection(o)
	out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx, out.ConsecutiveGatewayFailure = nil, nil, nil
	out.FailurePercentageThreshold = number(99) // more than it
	out.FailurePercentageRequestVolume = number(o.Consecutive5xx)
	out.FailurePercentageMinimumHosts = number(1)
	out.EnforcingFailurePercentage = number(100)
	return out
}

// endpoints has each address once, which clients insist on, and a weight for each zone, without which they take none of
// it. A ring has one weight for all, which is that of a zone times that of an endpoint.
func (g grpcTranslator) endpoints(s *mesh.Service, sub *mesh.Subset) *Resource {
	return g.resource(EndpointType, sub.Name, s.Name, []policy.Key{s.Source}, func() proto.Message {
		oneZone := grpcPolicies[s.Spec.LoadBalancing.Policy] == clusterv3.Cluster_RING_HASH
		a := &endpointv3.ClusterLoadAssignment{ClusterName: sub.Name}
		type address struct {
			host string
			port int
		}
		seen := make(map[address]bool)
		for _, e := range sub.Endpoints {
			at, zone := address{e.Address, e.Port}, e.Zone
			if seen[at] {
				continue
			}
			seen[at] = true
			if oneZone {
				zone = ""
			}
			if n := len(a.Endpoints); n == 0 || zone != a.Endpoints[n-1].GetLocality().GetZone() {
				a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Zone: zone}})
			}
			last := a.Endpoints[len(a.Endpoints)-1]
			last.LbEndpoints = append(last.LbEndpoints, lbEndpoint(e.Address, e.Port))
			last.LoadBalancingWeight = wrapperspb.UInt32(uint32(len(last.LbEndpoints)))
		}
		return a
	})
}
