package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/machinenativeops/weir/xds"
)

// fleet is proxies that ask as Envoy does, each over a connection of its own: clusters, their endpoints by name, the
// listener, its routes.
type fleet struct {
	address  string
	services int
	virtual  bool // routes are virtual hosts
	istio    bool // all routes are one resource, and names are Istio's
	pings    bool // windows are guessed as gRPC libraries do it, with a ping for each message, and not set as Envoy's are

	bytes, errors atomic.Int64
	stuck         atomic.Bool                  // every tenth proxy reads nothing while this is so
	on            func(int, *seen)             // each response, after its answer is sent; from the proxy's goroutine
	shared        map[string][]byte            // parts of requests that are the same for all, encoded once
	versions      map[string]map[string]string // what proxies have of an earlier sync; nil: nothing
	once          sync.Once
	ended         sync.WaitGroup
}

func (f *fleet) kinds() []string {
	kinds := []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType}
	if f.virtual {
		kinds = append(kinds, xds.VirtualHostType)
	}
	return kinds
}

// routes is the type of which there is one resource a service.
func (f *fleet) routes() string {
	if f.virtual {
		return xds.VirtualHostType
	}
	return xds.RouteType
}

func (f *fleet) names(kind string) (names []string) {
	switch {
	case kind == xds.RouteType && f.virtual:
		return []string{"outbound"}
	case kind == xds.RouteType && f.istio:
		return []string{"80"}
	case kind == xds.EndpointType || kind == xds.RouteType:
		for i := range f.services {
			name := fmt.Sprintf("shop/s%d", i)
			switch {
			case kind == xds.RouteType:
				name = fmt.Sprintf("outbound/shop.s%d", i)
			case f.istio:
				name = fmt.Sprintf("outbound|80||s%d.shop", i)
			}
			names = append(names, name)
		}
	}
	return names
}

// resources is how many a proxy is sent of [fleet.routes] when so many services' routes change.
func (f *fleet) resources(services int) int {
	if f.istio {
		return 1
	}
	return services
}

// node says who a proxy is.
func (f *fleet) node(i int) *corev3.Node {
	n := &corev3.Node{Id: nodeID(i, f.services), UserAgentName: "envoy", UserAgentVersionType: version}
	if f.istio {
		// A sidecar of a pod that no service has, as Istio's agent has its Envoy say.
		n.Id = fmt.Sprintf("sidecar~10.200.%d.%d~p%d.shop~shop.svc.cluster.local", i/250, i%250, i)
		said := func(s string) *structpb.Value { return structpb.NewStringValue(s) }
		n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{
			"NAMESPACE": said("shop"), "CLUSTER_ID": said("Kubernetes"), "ISTIO_VERSION": said("1.31.0"),
			"INTERCEPTION_MODE": said("REDIRECT"), "MESH_ID": said("cluster.local"), "NAME": said(fmt.Sprintf("p%d", i)),
			"SERVICE_ACCOUNT": said("default"), "INSTANCE_IPS": said(fmt.Sprintf("10.200.%d.%d", i/250, i%250)),
		}}
	}
	return n
}

// prepare encodes what proxies subscribe to and, where there is an earlier sync, what they have of it.
func (f *fleet) prepare() {
	f.shared = make(map[string][]byte)
	for _, kind := range f.kinds() {
		f.shared[kind] = encode(&discoverysvcv3.DeltaDiscoveryRequest{
			TypeUrl: kind, ResourceNamesSubscribe: f.names(kind), InitialResourceVersions: f.versions[kind],
		})
	}
}

// connect starts proxies from first until last; they end with ctx.
func (f *fleet) connect(ctx context.Context, first, last int) {
	for i := first; i < last; i++ {
		f.ended.Add(1)
		go func() {
			defer f.ended.Done()
			if err := f.run(ctx, i); err != nil && ctx.Err() == nil {
				f.once.Do(func() { fmt.Println("a proxy's stream:", err) })
				f.errors.Add(1)
			}
		}()
	}
}

var version = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
	Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
}}

// What Envoy 1.40 says that it has room for, on a stream and on a connection.
const streamWindow, connWindow = 16 << 20, 24 << 20

func (f *fleet) options() []grpc.DialOption {
	all := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(8 << 10), grpc.WithWriteBufferSize(8 << 10), grpc.WithSharedWriteBuffer(true),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(256<<20), grpc.WaitForReady(true)),
	}
	if f.pings {
		return all
	}
	return append(all, grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow))
}

func (f *fleet) run(ctx context.Context, i int) error {
	conn, err := grpc.NewClient("passthrough:///"+f.address, f.options()...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
	if err != nil {
		return err
	}
	node := encode(&discoverysvcv3.DeltaDiscoveryRequest{Node: f.node(i)})
	asked := 1
	if err := stream.SendMsg(slices.Concat(node, f.shared[xds.ClusterType])); err != nil {
		return err
	}
	kinds := f.kinds()
	for ; f.versions != nil && asked < len(kinds); asked++ { // an Envoy that comes back asks for all at once
		if err := stream.SendMsg(f.shared[kinds[asked]]); err != nil {
			return err
		}
	}
	for s := (seen{keep: i == 0 && f.versions == nil}); ; {
		if f.stuck.Load() && i%10 == 9 {
			<-ctx.Done()
			return nil
		}
		if err := stream.RecvMsg(&s); err != nil {
			return err
		}
		f.bytes.Add(int64(s.bytes))
		if err := stream.SendMsg(encode(&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: s.kind, ResponseNonce: s.nonce})); err != nil {
			return errors.Join(err, stream.RecvMsg(&s)) // which says why
		}
		// What comes first of a type leads to the next.
		if asked < len(kinds) && kinds[asked-1] == s.kind {
			if err := stream.SendMsg(f.shared[kinds[asked]]); err != nil {
				return err
			}
			asked++
		}
		f.on(i, &s)
	}
}
