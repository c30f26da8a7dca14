package xds

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnsfamilyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// The clusters that are Weir's own.
const (
	rateLimitCluster = "weir/ratelimit"
	collectorCluster = "weir/collector"
)

const (
	connectTimeout = time.Second
)

var lbPolicies = map[string]clusterv3.Cluster_LbPolicy{
	"least_request": clusterv3.Cluster_LEAST_REQUEST,
	"round_robin":   clusterv3.Cluster_ROUND_ROBIN,
	"random":        clusterv3.Cluster_RANDOM,
	"ring_hash":     clusterv3.Cluster_RING_HASH,
	"maglev":        clusterv3.Cluster_MAGLEV,
}

// adsSource says that a resource comes over the same stream.
func adsSource() *corev3.ConfigSource { return ads }

var ads = &corev3.ConfigSource{
	ResourceApiVersion:    corev3.ApiVersion_V3,
	ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
}

func (t *translator) cluster(s *mesh.Service, sub *mesh.Subset, v variant) *Resource {
	name := sub.Name + string(v)
	return t.named(ClusterType, name, s.Name, []policy.Key{s.Source}, func() []byte {
		build := func() []byte { return t.marshal(t.unnamedCluster(s, sub, v)) }
		if v != "" || s.Spec.Endpoints.DNS != nil {
			return build()
		}
		return t.lastCluster.get(s, ringSize(lbPolicies[s.Spec.LoadBalancing.Policy], len(sub.Endpoints)), build)
	})
}

// unnamedCluster is a cluster but for its name. Those of subsets with rings of a size are the same.
func (t *translator) unnamedCluster(s *mesh.Service, sub *mesh.Subset, v variant) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		ConnectTimeout:                durationpb.New(connectTimeout),
		LbPolicy:                      lbPolicies[s.Spec.LoadBalancing.Policy],
		CircuitBreakers:               circuitBreakers(&s.Spec),
		OutlierDetection:              outlierDetection(s.Spec.OutlierDetection),
		HealthChecks:                  healthChecks(&s.Spec),
		IgnoreHealthOnHostRemoval:     true,
		TypedExtensionProtocolOptions: t.protocol(s.Spec.Protocol != "http"),
	}
	if dns := s.Spec.Endpoints.DNS; dns != nil {
		c.ClusterDiscoveryType = t.byName(durationpb.New(time.Duration(*dns.Refresh)))
		c.LoadAssignment = assignment(sub.Name+string(v), dns.Name, dns.Port)
	} else {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()}
	}
	hashed(c, s.Spec.LoadBalancing, len(sub.Endpoints))
	v.vary(c, sub)
	return c
}

// infrastructure is a gRPC cluster of Weir's own.
func (t *translator) infrastructure(name, address string) *Resource {
	return t.resource(ClusterType, name, "", []policy.Key{t.model.Source}, func() proto.Message {
		host, port, err := net.SplitHostPort(address)
		n, e := strconv.ParseUint(port, 10, 16)
		if err = cmp.Or(err, e); err != nil && t.err == nil {
			t.err = fmt.Errorf("%s: address %q: %w", name, address, err)
		}
		c := &clusterv3.Cluster{
			Name:                          name,
			ConnectTimeout:                durationpb.New(connectTimeout),
			LoadAssignment:                assignment(name, host, int(n)),
			TypedExtensionProtocolOptions: t.protocol(true),
		}
		if _, err := netip.ParseAddr(host); err == nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		} else {
			c.ClusterDiscoveryType = t.byName(nil)
		}
		return c
	})
}

// byName takes all addresses behind a name, asked for every refresh (nil: as often as Envoy does). Those of IPv4 if
// there are any: Envoy itself would take IPv6 only where a name has both, and many a server, on localhost above all, is
// not there.
func (t *translator) byName(refresh *durationpb.Duration) *clusterv3.Cluster_ClusterType {
	return &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dns",
		TypedConfig: t.any(&dnsv3.DnsCluster{
			DnsRefreshRate: refresh, DnsLookupFamily: dnsfamilyv3.DnsLookupFamily_V4_PREFERRED,
		}),
	}}
}

// protocol speaks HTTP/2 upstream, or else HTTP/1.1, which is what a cluster without it does.
func (t *translator) protocol(http2 bool) map[string]*anypb.Any {
	if !http2 {
		return nil
	}
	return map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": t.any(&upstreamsv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
						Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
					},
				},
			},
		}),
	}
}

// any marshals deterministically, unlike anypb.New.
func (t *translator) any(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName()), Value: t.marshal(m)}
}

const typePrefix = "type.googleapis.com/"

func circuitBreakers(s *policy.ServiceSpec) *clusterv3.CircuitBreakers {
	b := s.CircuitBreaker
	thresholds := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     number(*b.MaxConnections),
		MaxPendingRequests: number(*b.MaxPending),
		MaxRequests:        number(*b.MaxRequests),
		MaxRetries:         number(*b.MaxRetries),
		TrackRemaining:     true,
	}
	if s.Retries != nil && s.Retries.Budget > 0 {
		// The two exclude each other in Envoy: a budget, once given, is the bound.
		thresholds.MaxRetries = nil
		thresholds.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent:       &typev3.Percent{Value: s.Retries.Budget},
			MinRetryConcurrency: number(*b.MaxRetries),
		}
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{thresholds}}
}

func outlierDetection(o *policy.OutlierDetection) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx:           number(o.Consecutive5xx),
		Interval:                  durationpb.New(time.Duration(o.Interval)),
		BaseEjectionTime:          durationpb.New(time.Duration(o.EjectFor)),
		MaxEjectionPercent:        number(int(math.Ceil(o.MaxEjected))),
		EnforcingSuccessRate:      number(0), // ejects by comparing endpoints, which nobody asked for
		EnforcingConsecutive_5Xx:  number(100),
		ConsecutiveGatewayFailure: number(o.Consecutive5xx),
	}
}

func healthChecks(s *policy.ServiceSpec) []*corev3.HealthCheck {
	h := s.HealthCheck
	if h == nil {
		return nil
	}
	codec := typev3.CodecClientType_HTTP1
	if s.Protocol != "http" {
		codec = typev3.CodecClientType_HTTP2
	}
	return []*corev3.HealthCheck{{
		Timeout:  durationpb.New(time.Duration(h.Timeout)),
		Interval: durationpb.New(time.Duration(h.Interval)),
		// Envoy's default is a minute without traffic: too late for the first request.
		NoTrafficInterval:  durationpb.New(time.Duration(h.Interval)),
		IntervalJitter:     durationpb.New(time.Duration(h.Interval) / 10),
		UnhealthyThreshold: number(h.Unhealthy),
		HealthyThreshold:   number(h.Healthy),
		HealthChecker: &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corev3.HealthCheck_HttpHealthCheck{
			Path: h.Path, Host: healthHost(s.Hosts), CodecClientType: codec,
		}},
	}}
}

// healthHost is the first host that is one; "" lets Envoy name the cluster.
func healthHost(hosts []string) string {
	for _, host := range hosts {
		if !strings.HasPrefix(host, "*") {
			return host
		}
	}
	return ""
}

func number(n int) *wrapperspb.UInt32Value { return wrapperspb.UInt32(uint32(n)) }

func assignment(cluster, host string, port int) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{lbEndpoint(host, port)}}},
	}
}

func lbEndpoint(host string, port int) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, port)},
	}}
}

func socketAddress(host string, port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
