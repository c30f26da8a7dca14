package explain_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/xds"
)

// What the tests' Envoy says of each request in headers of the response, whoever answers it.
var told = []*corev3.HeaderValueOption{
	tell("x-told-route", "%ROUTE_NAME%"), tell("x-told-cluster", "%UPSTREAM_CLUSTER_RAW%"), tell("x-told-flags", "%RESPONSE_FLAGS%"),
	tell("x-told-path", "%REQ(:PATH)%"), tell("x-told-details", "%RESPONSE_CODE_DETAILS%"),
}

func tell(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// load gives the mesh that documents are; they must be good.
func load(tb testing.TB, text string) *mesh.Model {
	tb.Helper()
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: []byte(text)}}, nil)
	for _, p := range problems {
		tb.Fatal(p, text)
	}
	return mesh.Build(set)
}

// startEnvoy starts a real Envoy that is the proxy, and gives the address of its listener.
func startEnvoy(tb testing.TB, m *mesh.Model, limits string, proxy mesh.Proxy) (to string) {
	tb.Helper()
	snapshot, err := xds.Translate(m, xds.Options{RateLimitAddress: limits})
	if err != nil {
		tb.Fatal(err)
	}
	view, _, err := snapshot.Whole(proxy)
	if err != nil {
		tb.Fatal(err)
	}
	routes, endpoints := make(map[string]*routev3.RouteConfiguration), make(map[string]*endpointv3.ClusterLoadAssignment)
	for _, r := range view[xds.RouteType] {
		c := read(tb, r, new(routev3.RouteConfiguration))
		c.ValidateClusters, c.ResponseHeadersToAdd = nil, told
		routes[r.Name] = c
	}
	for _, r := range view[xds.EndpointType] {
		endpoints[r.Name] = read(tb, r, new(endpointv3.ClusterLoadAssignment))
	}
	static := new(bootstrapv3.Bootstrap_StaticResources)
	for _, r := range view[xds.ClusterType] {
		c := read(tb, r, new(clusterv3.Cluster))
		if c.GetType() == clusterv3.Cluster_EDS {
			name, _, _ := strings.Cut(r.Name, "@")
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			c.EdsClusterConfig, c.LoadAssignment = nil, endpoints[name]
		}
		static.Clusters = append(static.Clusters, c)
	}
	for _, r := range view[xds.ListenerType] {
		l := read(tb, r, new(listenerv3.Listener))
		port, err := servers.FreePort(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		l.Address = address(port)
		to = fmt.Sprintf("127.0.0.1:%d", port)
		filter := l.FilterChains[0].Filters[0]
		hcm := new(hcmv3.HttpConnectionManager)
		if err := filter.GetTypedConfig().UnmarshalTo(hcm); err != nil {
			tb.Fatal(err)
		}
		hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes[hcm.GetRds().RouteConfigName]}
		for _, f := range hcm.HttpFilters {
			for _, e := range view[xds.ExtensionType] {
				if f.Name == e.Name {
					f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: read(tb, e, new(corev3.TypedExtensionConfig)).TypedConfig}
				}
			}
		}
		patient(tb, hcm.HttpFilters)
		hcm.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{HeadersToAdd: told, Filter: &accesslogv3.AccessLogFilter{
			FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
				Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{RuntimeKey: "none"}},
			}},
		}}}}
		filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: message(tb, hcm)}
		static.Listeners = append(static.Listeners, l)
	}
	port, err := servers.FreePort(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(static)
	if err != nil {
		tb.Fatal(err)
	}
	admin := "admin:\n  address:\n    socket_address:\n      address: 127.0.0.1\n      port_value: " + strconv.Itoa(port)
	envoytest.Start(tb, []byte(admin+"\nstatic_resources: "+string(text)+"\n"))
	return to
}

// patient lets nobody's load make an answer of the rate limit service late.
func patient(tb testing.TB, filters []*hcmv3.HttpFilter) {
	tb.Helper()
	for _, f := range filters {
		c := new(ratelimitfilterv3.RateLimit)
		if f.GetTypedConfig().MessageIs(c) {
			if err := f.GetTypedConfig().UnmarshalTo(c); err != nil {
				tb.Fatal(err)
			}
			c.Timeout = durationpb.New(time.Minute)
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: message(tb, c)}
		}
	}
}

func read[M proto.Message](tb testing.TB, r *xds.Resource, m M) M {
	tb.Helper()
	if err := proto.Unmarshal(r.Body, m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func message(tb testing.TB, m proto.Message) *anypb.Any {
	tb.Helper()
	a, err := anypb.New(m)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func address(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// answer is a response.
type answer struct {
	method string
	status int
	header http.Header
	body   string
}

// told is what Envoy itself says of the request.
func (a answer) told(what string) string {
	return strings.TrimPrefix(a.header.Get("x-told-"+what), "-")
}

// echo is what the version got, or nil.
func (a answer) echo() *echo {
	e := new(echo)
	if json.Unmarshal([]byte(a.header.Get("x-echo")), e) != nil {
		return nil
	}
	return e
}

// raw sends bytes and gives the response to them.
func raw(tb testing.TB, to, text string) answer {
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
	if err != nil {
		tb.Error(err)
		return answer{}
	}
	defer func() { _ = c.Close() }() // what matters has been read
	method, _, _ := strings.Cut(text, " ")
	_, err = io.WriteString(c, text)
	var r *http.Response
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	}
	if err == nil {
		r, err = http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	}
	if err != nil {
		tb.Errorf("%q: %v", text, err)
		return answer{}
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Errorf("%q: %v", text, err)
	}
	return answer{method, r.StatusCode, r.Header, string(body)}
}

// rateLimits starts a rate limit service that lets everything through, and says in the response what it was asked.
func rateLimits(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s, served := grpc.NewServer(ratelimit.GRPCOptions()...), make(chan error, 1)
	ratelimitsvcv3.RegisterRateLimitServiceServer(s, limiter{})
	go func() { served <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return l.Addr().String()
}

type limiter struct {
	ratelimitsvcv3.UnimplementedRateLimitServiceServer
}

// ShouldRateLimit implements ratelimitsvcv3.RateLimitServiceServer.
func (limiter) ShouldRateLimit(_ context.Context, r *ratelimitsvcv3.RateLimitRequest) (*ratelimitsvcv3.RateLimitResponse, error) {
	out := &ratelimitsvcv3.RateLimitResponse{OverallCode: ratelimitsvcv3.RateLimitResponse_OK}
	for _, d := range r.Descriptors {
		out.Statuses = append(out.Statuses, &ratelimitsvcv3.RateLimitResponse_DescriptorStatus{Code: ratelimitsvcv3.RateLimitResponse_OK})
		var entries []string
		for _, e := range d.Entries {
			if e.Key != "not" { // says which other limits do not take it
				entries = append(entries, e.Key+"="+e.Value)
			}
		}
		out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, &corev3.HeaderValue{Key: "x-asked", Value: strings.Join(entries, " ")})
	}
	return out, nil
}
