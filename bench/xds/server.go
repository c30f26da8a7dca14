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

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// control is a control plane.
type control interface {
	// stage gives what puts documents in force. What is not the control plane's own work is done before.
	stage(d *documents) (apply func() error, err error)
	transport() transport
}

// transport serves until the process ends.
type transport interface{ Serve(l net.Listener) error }

// runServer serves on a free port, which it prints, and obeys lines on standard input until that ends:
//
//	route FIRST N SECONDS       the routes of N services have another timeout
//	endpoint I PORT             a service's first endpoint has another port
//	apply                       what was edited last is put in force
//	collect                     what is not used is given back to the system
//	profile PATH                PATH.cpu is what was done since the start or the last profile, PATH.heap what is held
func runServer(kind string, services, proxies int) error {
	var c control
	switch kind {
	case "weir":
		c = newWeir()
	case "linear":
		c = newLinear()
	case "snapshot":
		c = &snapshots{cache: cache.NewSnapshotCache(true, byNode{}, nil), proxies: proxies, services: services}
	default:
		return fmt.Errorf("no server %q", kind)
	}
	d := newDocuments(services)
	apply, err := c.stage(d)
	if err != nil {
		return err
	}
	if err := apply(); err != nil {
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
		words := strings.Fields(in.Text())
		switch words[0] {
		case "collect": // so that resident memory is what is used
			debug.FreeOSMemory()
		case "profile":
			err = cpu.write(words[1])
		case "apply":
			err = apply()
		default:
			d.edit(words)
			apply, err = c.stage(d)
		}
		if err != nil {
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

// documents are services, each with a Route and two endpoints, in a file of its own.
type documents struct {
	services []service
	files    []policy.File
	set      *policy.Set // that was loaded last
}

// service is what edits change: the port of an endpoint, and seconds that a route may take.
type service struct{ port, timeout int }

func newDocuments(services int) *documents {
	d := &documents{services: make([]service, services), files: make([]policy.File, services)}
	for i := range services {
		d.services[i] = service{port: 8080, timeout: 5}
		d.write(i)
	}
	return d
}

func (d *documents) write(i int) {
	d.files[i] = policy.File{Name: fmt.Sprintf("s%05d.yaml", i), Data: fmt.Appendf(nil, `kind: Service
metadata: {name: s%[1]d, namespace: shop}
spec: {endpoints: {static: [{address: 10.%[2]d.%[3]d.1, port: %[4]d, zone: a}, {address: 10.%[2]d.%[3]d.2, port: 8080, zone: b}]}}
---
kind: Route
metadata: {name: s%[1]d, namespace: shop}
spec: {service: s%[1]d, rules: [{name: cart, match: {path: {prefix: /cart}}, timeout: %[5]ds}, {name: all, timeout: 9s}]}
`, i, i/250, i%250, d.services[i].port, d.services[i].timeout)}
}

func (d *documents) edit(words []string) {
	n := func(i int) int {
		v, err := strconv.Atoi(words[i])
		if err != nil {
			panic(err) // only main speaks here
		}
		return v
	}
	d.files = slices.Clone(d.files)
	switch words[0] {
	case "route":
		for i := n(1); i < n(1)+n(2); i++ {
			d.services[i].timeout = n(3)
			d.write(i)
		}
	case "endpoint":
		d.services[n(1)].port = n(2)
		d.write(n(1))
	}
}

func (d *documents) load() (*policy.Set, error) {
	set, problems := policy.Load(d.files, d.set)
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s", problems[0])
	}
	d.set = set
	return set, nil
}

// weir is our own: all that `weir serve` does with documents once it has read their files.
type weir struct {
	resolver   mesh.Resolver
	translator *xds.Translator
	checker    lint.Checker
	server     *serve.Server
}

func newWeir() *weir {
	return &weir{translator: xds.NewTranslator(xds.Options{}), server: serve.New(slog.New(slog.DiscardHandler))}
}

func (w *weir) stage(d *documents) (func() error, error) {
	return func() error {
		set, err := d.load()
		if err != nil {
			return err
		}
		model := w.resolver.At(set, time.Now())
		snapshot, err := w.translator.Translate(model)
		if err != nil {
			return err
		}
		w.server.Apply(snapshot)
		w.checker.Check(set, model, true)
		return nil
	}, nil
}

func (w *weir) transport() transport { return w.server.Server(http.NotFoundHandler()) }

// overGRPC serves a cache as go-control-plane's users do, with the buffers that cost it the least here.
func overGRPC(c cache.Cache) transport {
	g := grpc.NewServer(grpc.ReadBufferSize(1<<10), grpc.MaxRecvMsgSize(64<<20))
	discoverysvcv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(context.Background(), c, nil))
	return g
}

// resources are the same services in the peers' terms: a route configuration for each service, since their caches know
// no virtual hosts, and one listener for all.
func resources(d *documents) (map[string]map[string]types.Resource, error) {
	set, err := d.load()
	if err != nil {
		return nil, err
	}
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

func (l *linear) stage(d *documents) (func() error, error) {
	all, err := resources(d)
	if err != nil {
		return nil, err
	}
	changes := make(map[string]map[string]types.Resource)
	for kind, named := range all {
		changed := make(map[string]types.Resource)
		for name, r := range named {
			if before := l.last[kind][name]; before == nil || !proto.Equal(before, r) {
				changed[name] = r
			}
		}
		if len(changed) > 0 {
			changes[kind] = changed
		}
	}
	l.last = all
	return func() error {
		for kind, changed := range changes {
			if err := l.caches[kind].UpdateResources(changed, nil); err != nil {
				return err
			}
		}
		return nil
	}, nil
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

func (s *snapshots) stage(d *documents) (func() error, error) {
	all, err := resources(d)
	if err != nil {
		return nil, err
	}
	listed := make(map[string][]types.Resource)
	for kind, named := range all {
		for _, r := range named {
			listed[kind] = append(listed[kind], r)
		}
	}
	return func() error { return s.apply(listed) }, nil
}

func (s *snapshots) apply(listed map[string][]types.Resource) error {
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
