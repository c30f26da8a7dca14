package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// control is a control plane that serves a set.
type control interface {
	apply(set *policy.Set) error
	transport() transport
}

// transport serves until the process ends.
type transport interface{ Serve(l net.Listener) error }

// runServer serves on a free port, which it prints, and obeys lines on standard input until that ends:
//
//	route FIRST N SECONDS       the routes of N services have another timeout
//	endpoint I PORT             a service's first endpoint has another port
//	collect                     what is not used is given back to the system
//	profile PATH                PATH.cpu is what was done since the start or the last profile, PATH.heap what is held
func runServer(kind string, services, proxies int) error {
	set, problems := policy.Load([]policy.File{{Name: "bench.yaml", Data: documents(services)}}, nil)
	if len(problems) > 0 {
		return fmt.Errorf("%s", problems[0])
	}
	var c control
	switch kind {
	case "weir":
		c = weir{serve.New(slog.New(slog.DiscardHandler))}
	case "linear":
		c = newLinear()
	case "snapshot":
		c = &snapshots{cache: cache.NewSnapshotCache(true, byNode{}, nil), proxies: proxies, services: services}
	default:
		return fmt.Errorf("no server %q", kind)
	}
	if err := c.apply(set); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = c.transport().Serve(l) }()
	fmt.Println(l.Addr())
	var cpu profiler
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "collect" { // so that resident memory is what is used
			debug.FreeOSMemory()
		} else if path, ok := strings.CutPrefix(in.Text(), "profile "); ok {
			if err := cpu.write(path); err != nil {
				return err
			}
		} else if err := c.apply(edit(set, strings.Fields(in.Text()))); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

// profiler writes pprof's profiles.
type profiler struct{ cpu bytes.Buffer }

// write gives what came since it was last called, and begins anew; path "-" only begins.
func (p *profiler) write(path string) error {
	pprof.StopCPUProfile()
	if path != "-" {
		runtime.GC()
		var heap bytes.Buffer
		if err := pprof.Lookup("heap").WriteTo(&heap, 0); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(path+".cpu", p.cpu.Bytes(), 0o600), os.WriteFile(path+".heap", heap.Bytes(), 0o600)); err != nil {
			return err
		}
	}
	p.cpu.Reset()
	return pprof.StartCPUProfile(&p.cpu)
}

// documents is services, each with a Route and two endpoints.
func documents(services int) []byte {
	var b strings.Builder
	for i := range services {
		fmt.Fprintf(&b, `---
kind: Service
metadata: {name: s%d, namespace: shop}
spec: {endpoints: {static: [{address: 10.%d.%d.1, port: 8080, zone: a}, {address: 10.%d.%d.2, port: 8080, zone: b}]}}
---
kind: Route
metadata: {name: s%d, namespace: shop}
spec: {service: s%d, rules: [{name: cart, match: {path: {prefix: /cart}}, timeout: 5s}, {name: all, timeout: 9s}]}
`, i, i/250, i%250, i/250, i%250, i, i)
	}
	return []byte(b.String())
}

// edit changes the set's own slices; documents are copied.
func edit(set *policy.Set, words []string) *policy.Set {
	n := func(i int) int {
		v, err := strconv.Atoi(words[i])
		if err != nil {
			panic(err)
		}
		return v
	}
	next := *set
	switch words[0] {
	case "route":
		next.Routes = slices.Clone(set.Routes)
		for i := n(1); i < n(1)+n(2); i++ {
			d, timeout := *next.Routes[i], policy.Duration(n(3))*policy.Duration(time.Second)
			d.Spec.Rules = slices.Clone(d.Spec.Rules)
			d.Spec.Rules[0].Timeout = &timeout
			next.Routes[i] = &d
		}
	case "endpoint":
		next.Services = slices.Clone(set.Services)
		d := *next.Services[n(1)]
		d.Spec.Endpoints.Static = slices.Clone(d.Spec.Endpoints.Static)
		d.Spec.Endpoints.Static[0].Port = n(2)
		next.Services[n(1)] = &d
	}
	*set = next
	return set
}

// weir is our own.
type weir struct{ server *serve.Server }

func (w weir) apply(set *policy.Set) error {
	copied := *set // edit changes it
	snapshot, err := xds.Translate(mesh.Build(&copied), xds.Options{})
	if err != nil {
		return err
	}
	w.server.Apply(snapshot)
	return nil
}

func (w weir) transport() transport { return w.server.Server(http.NotFoundHandler()) }

// overGRPC serves a cache as go-control-plane's users do, with the buffers that cost it the least here.
func overGRPC(c cache.Cache) transport {
	g := grpc.NewServer(grpc.ReadBufferSize(1<<10), grpc.MaxRecvMsgSize(64<<20))
	discoverysvcv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(context.Background(), c, nil))
	return g
}

// resources are the same services in the peers' terms: a route configuration for each service, since their caches know
// no virtual hosts, and one listener for all.
func resources(set *policy.Set) (map[string]map[string]types.Resource, error) {
	s, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		return nil, err
	}
	v, _ := s.View(mesh.Proxy{Role: mesh.RoleService, Ref: set.Services[0].Ref()})
	all := make(map[string]map[string]types.Resource)
	for kind, blank := range map[string]proto.Message{
		xds.ClusterType: &clusterv3.Cluster{}, xds.EndpointType: &endpointv3.ClusterLoadAssignment{},
		xds.ListenerType: &listenerv3.Listener{}, xds.VirtualHostType: &routev3.VirtualHost{},
	} {
		named := make(map[string]types.Resource)
		for _, r := range v[kind] {
			m := proto.Clone(blank)
			if err := proto.Unmarshal(r.Body, m); err != nil {
				return nil, err
			}
			if host, ok := m.(*routev3.VirtualHost); ok {
				m = &routev3.RouteConfiguration{Name: r.Name, VirtualHosts: []*routev3.VirtualHost{host}}
			}
			named[r.Name] = m
		}
		if kind == xds.VirtualHostType {
			kind = xds.RouteType
		}
		all[kind] = named
	}
	return all, nil
}

// linear is go-control-plane's LinearCache, one a type.
type linear struct {
	caches map[string]*cache.LinearCache
	last   map[string]map[string]types.Resource
}

func newLinear() *linear {
	l := &linear{caches: make(map[string]*cache.LinearCache), last: make(map[string]map[string]types.Resource)}
	for _, kind := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
		l.caches[kind] = cache.NewLinearCache(kind)
	}
	return l
}

func (l *linear) apply(set *policy.Set) error {
	all, err := resources(set)
	if err != nil {
		return err
	}
	for kind, named := range all {
		changed := make(map[string]types.Resource)
		for name, r := range named {
			if before := l.last[kind][name]; before == nil || !proto.Equal(before, r) {
				changed[name] = r
			}
		}
		if len(changed) > 0 {
			if err := l.caches[kind].UpdateResources(changed, nil); err != nil {
				return err
			}
		}
	}
	l.last = all
	return nil
}

func (l *linear) transport() transport {
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        make(map[string]cache.Cache),
	}
	for kind, c := range l.caches {
		mux.Caches[kind] = c
	}
	return overGRPC(mux)
}

// snapshots is go-control-plane's SnapshotCache, with one snapshot that all proxies share.
type snapshots struct {
	cache    cache.SnapshotCache
	services int
	proxies  int
	version  int
}

// byNode gives a snapshot to each proxy, as users do whose proxies differ.
type byNode struct{}

func (byNode) ID(n *corev3.Node) string { return n.GetId() }

func (s *snapshots) apply(set *policy.Set) error {
	all, err := resources(set)
	if err != nil {
		return err
	}
	listed := make(map[string][]types.Resource)
	for kind, named := range all {
		for _, r := range named {
			listed[kind] = append(listed[kind], r)
		}
	}
	s.version++
	snapshot, err := cache.NewSnapshot(strconv.Itoa(s.version), listed)
	if err != nil {
		return err
	}
	if err := snapshot.ConstructVersionMap(); err != nil {
		return err
	}
	for i := range s.proxies {
		if err := s.cache.SetSnapshot(context.Background(), nodeID(i, s.services), snapshot); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshots) transport() transport { return overGRPC(s.cache) }

func nodeID(i, services int) string { return fmt.Sprintf("service~shop/s%d~%d", i%services, i) }
