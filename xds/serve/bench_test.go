package serve_test

import (
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

const services = 1000

// fleet gives a snapshot of many sidecars that share resources of each type but listeners, with one route's version.
// Nothing but versions is shared with a fleet made before, as it is with translation.
func fleet(proxies int, version string) *xds.Snapshot {
	shared := xds.View{}
	for _, kind := range []string{xds.ClusterType, xds.EndpointType, xds.RouteType} {
		for i := range services {
			name := fmt.Sprintf("shop/service-%05d", i)
			r := &xds.Resource{Type: kind, Name: name, Version: "1", Body: make([]byte, 500)}
			if kind == xds.RouteType && i == services/2 {
				r.Version = version
			}
			shared[kind] = append(shared[kind], r)
		}
	}
	views := make(map[mesh.Proxy]xds.View, proxies)
	for i := range proxies {
		own := &xds.Resource{Type: xds.ListenerType, Name: "outbound/" + strconv.Itoa(i), Version: "1", Body: make([]byte, 500)}
		v := xds.View{xds.ListenerType: {own}}
		maps.Copy(v, shared)
		views[sidecar(i)] = v
	}
	return xds.NewSnapshot(views)
}

func sidecar(i int) mesh.Proxy {
	return mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "s" + strconv.Itoa(i)}}
}

// BenchmarkApplyOneRoute: one of 1,000 routes changes, and all of 100 connected proxies are sent it and accept it. What
// is to move it: work that grows with the number of resources rather than with the change.
func BenchmarkApplyOneRoute(b *testing.B) {
	const proxies = 100
	w := newWorld(b)
	w.server.Apply(fleet(proxies, "1"))
	var got sync.WaitGroup
	got.Add(proxies)
	for i := range proxies {
		benchClient(b, w, sidecar(i), &got)
	}
	got.Wait()
	b.ReportAllocs()
	round := 1
	for b.Loop() {
		b.StopTimer()
		round++
		snapshot := fleet(proxies, strconv.Itoa(round))
		got.Add(proxies)
		b.StartTimer()
		w.server.Apply(snapshot)
		got.Wait()
	}
}

// benchClient takes routes, of which the first response brings all and each one later one.
func benchClient(b *testing.B, w *world, p mesh.Proxy, got *sync.WaitGroup) {
	stream, err := w.ads().DeltaAggregatedResources(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	names := make([]string, services)
	for i := range names {
		names[i] = fmt.Sprintf("shop/service-%05d", i)
	}
	for i, kind := range xds.Types {
		r := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: kind}
		if i == 0 {
			r.Node = &corev3.Node{Id: serve.NodeID(p, "1")}
		}
		if kind == xds.EndpointType || kind == xds.RouteType {
			r.ResourceNamesSubscribe = names
		}
		if err := stream.Send(r); err != nil {
			b.Fatal(err)
		}
	}
	ended := make(chan struct{})
	b.Cleanup(func() { <-ended }) // the stream's context has ended by then
	go func() {
		defer close(ended)
		want := services
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			if r.GetTypeUrl() == xds.RouteType {
				if len(r.GetResources()) != want {
					b.Errorf("%d routes came, want %d", len(r.GetResources()), want)
				}
				want = 1
			}
			if stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}) != nil {
				return
			}
			if r.GetTypeUrl() == xds.RouteType {
				got.Done()
			}
		}
	}()
}

// BenchmarkApply: what a change costs the server itself, with 5,000 proxies of 1,000 services known.
func BenchmarkApply(b *testing.B) {
	s := serve.New(slog.New(slog.DiscardHandler))
	snapshots := []*xds.Snapshot{fleet(5000, "1"), fleet(5000, "2")}
	s.Apply(snapshots[0])
	b.ReportAllocs()
	round := 0
	for b.Loop() {
		round++
		s.Apply(snapshots[round%2])
	}
}
