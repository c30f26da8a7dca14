package serve_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// TestMeshChaos: real documents are edited at random while Envoys of every kind (delta with all virtual hosts or some of
// them, delta and state-of-the-world with whole route configurations) and gRPC libraries refuse, are silent, break off,
// and come back with what they had, with what is stale, or with nothing. In the end each has exactly what the model gives
// it, and nothing of them is left. WEIR_CHAOS=30m goes on for so long, with other seeds.
func TestMeshChaos(t *testing.T) {
	long, _ := time.ParseDuration(os.Getenv("WEIR_CHAOS"))
	began, base, last := time.Now(), uint64(0), uint64(0)
	goroutines := runtime.NumGoroutine()
	seed := uint64(0)
	for ; seed < 20 || time.Since(began) < long; seed++ {
		if ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			story(t, func(w *world) { newMeshChaos(w, seed).run() })
		}); !ok {
			break
		}
		if seed%10 == 9 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if last = m.HeapAlloc; base == 0 {
				base = last
			}
		}
	}
	t.Logf("%d seeds, heap %d KB after the first ten and %d KB in the end", seed, base/1000, last/1000)
	if last > base+20e6 {
		t.Errorf("the heap has grown from %d to %d bytes", base, last)
	}
	var n int
	for range 1000 { // those of the last one may be at their last instruction
		if n = runtime.NumGoroutine(); n <= goroutines {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, and %d before:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
}

// shop is what the documents say of one service.
type shop struct{ edit, weight int } // an edit of 0: there is no such service

type meshChaos struct {
	*world
	random   *rand.Rand
	shops    [6]shop
	edits    int
	snapshot *xds.Snapshot
	clients  []*envoy
}

func newMeshChaos(w *world, seed uint64) *meshChaos {
	h := &meshChaos{world: w, random: rand.New(rand.NewPCG(seed, 11))}
	for i := range h.shops {
		h.change(i)
	}
	h.apply()
	sidecar := mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "s0"}}
	library := mesh.Proxy{Role: mesh.RoleGRPC, Ref: policy.Ref{Name: "web"}}
	for _, e := range []*envoy{
		{proxy: edge, minor: 40},
		{proxy: sidecar, minor: 40},
		{proxy: sidecar, minor: 40, some: true},
		{proxy: edge, minor: 30},
		{proxy: sidecar, minor: 30},
		{proxy: edge, sotw: true},
		{proxy: sidecar, sotw: true},
		{proxy: library, sotw: true},
	} {
		e.h, e.id = h, len(h.clients)
		e.has = make(map[string]map[string]string)
		h.clients = append(h.clients, e)
		e.connect()
	}
	return h
}

func (h *meshChaos) change(i int) {
	h.edits++
	h.shops[i] = shop{edit: h.edits, weight: h.random.IntN(100)}
}

func (h *meshChaos) apply() {
	var b strings.Builder
	b.WriteString("kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: a, port: 80}, {name: b, port: 81}]}\n")
	for i, s := range h.shops {
		if s.edit == 0 {
			continue
		}
		fmt.Fprintf(&b, "---\nkind: Service\nmetadata: {name: s%d, namespace: shop}\nspec: {protocol: grpc, versions: [{name: v1}, {name: v2}], circuitBreaker: {maxRequests: %d}, endpoints: {static: [{address: 10.0.0.1, port: %d, labels: {version: v1}}, {address: 10.0.0.2, port: %d, labels: {version: v2}}]}}\n"+
			"---\nkind: Route\nmetadata: {name: s%d, namespace: shop}\nspec: {service: s%d, rules: [{timeout: %ds, to: [{version: v1, weight: 1}, {version: v2, weight: %d}]}]}\n",
			i, s.edit, s.edit, s.edit, i, i, s.edit, s.weight)
	}
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(b.String())}}, nil)
	if len(problems) > 0 {
		h.t.Fatal(problems[0])
	}
	var err error
	if h.snapshot, err = xds.Translate(mesh.Build(set), xds.Options{}); err != nil {
		h.t.Fatal(err)
	}
	h.server.Apply(h.snapshot)
}

func (h *meshChaos) run() {
	for range 150 {
		h.event()
	}
	// Peace: nobody refuses any more, and every service is there in a version that nobody has seen.
	for i := range h.shops {
		h.change(i)
	}
	h.apply()
	for range 4 {
		h.settle()
		time.Sleep(serve.Patience + time.Millisecond)
	}
	for _, e := range h.clients {
		e.check()
	}
	for _, e := range h.clients {
		e.cancel()
	}
	synctest.Wait()
	if left := h.server.Status().Proxies; len(left) > 0 {
		h.t.Errorf("%d streams are left", len(left))
	}
}

func (h *meshChaos) event() {
	e := h.clients[h.random.IntN(len(h.clients))]
	switch p := h.random.IntN(100); {
	case p < 35:
		i := 1 + h.random.IntN(len(h.shops)-1) // the proxy of s0 is about
		if h.change(i); h.random.IntN(5) == 0 {
			h.shops[i] = shop{}
		}
		h.apply()
	case p < 75:
		synctest.Wait()
		e.step(h.random.IntN(12) == 0)
	case p < 85:
		e.cancel()
		synctest.Wait()
		switch h.random.IntN(4) {
		case 0:
			e.has = make(map[string]map[string]string)
			e.version = nil
		case 1: // what it says it has is of another time
			for _, all := range e.has {
				for name := range all {
					if h.random.IntN(3) == 0 {
						all[name] = "stale"
					}
				}
			}
			for kind := range e.version {
				e.version[kind] = "1"
			}
		}
		e.connect()
	case p < 87:
		h.restart()
		h.server.Apply(h.snapshot)
		for _, e := range h.clients {
			e.cancel()
			e.connect()
		}
	case p < 92:
		time.Sleep(serve.Patience)
	default:
		h.settle()
	}
}

func (h *meshChaos) settle() {
	for busy := true; busy; {
		synctest.Wait()
		busy = false
		for _, e := range h.clients {
			busy = e.step(false) || busy
		}
	}
}

// envoy is a proxy, or a gRPC library: it asks for endpoints, routes and, where it needs only some, virtual hosts by name.
type envoy struct {
	h      *meshChaos
	id     int
	proxy  mesh.Proxy
	minor  uint32 // of its version: 1.37 and later take virtual hosts
	sotw   bool
	some   bool                         // virtual hosts
	has    map[string]map[string]string // by type and name, the version
	names  map[string]map[string]bool   // asked for, by type
	cancel context.CancelFunc

	delta   discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	stream  discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	version map[string]string // of the last accepted response, by type
	nonce   map[string]string

	mu    sync.Mutex
	inbox []func(refuse bool)
}

func (e *envoy) virtualHosts() bool { return !e.sotw && e.minor >= 37 }

// edited says whether an edit of any service makes another version of all that there is of a type: what is refused and
// never changes would be withheld in the end, as it should be.
func (e *envoy) edited(kind string) bool {
	return kind != xds.ListenerType && (kind != xds.RouteType || !e.virtualHosts())
}

func (e *envoy) library() bool { return e.proxy.Role == mesh.RoleGRPC }

func (e *envoy) kinds() []string {
	kinds := []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType}
	if e.virtualHosts() {
		kinds = append(kinds, xds.VirtualHostType)
	}
	return kinds
}

// wants gives the names that it asks for of a type; nil: all.
func (e *envoy) wants(kind string) map[string]bool {
	want := make(map[string]bool)
	switch {
	case e.library() && kind == xds.ListenerType:
		for i := range e.h.shops {
			want[fmt.Sprintf("s%d.shop", i)] = true
		}
	case e.library() && kind == xds.RouteType:
		for name := range e.has[xds.ListenerType] {
			want["grpc/shop/"+strings.TrimSuffix(name, ".shop")] = true
		}
	case e.library() && kind == xds.ClusterType:
		for name := range e.has[xds.RouteType] {
			want[strings.TrimPrefix(name, "grpc/")+"/v1"], want[strings.TrimPrefix(name, "grpc/")+"/v2"] = true, true
		}
	case kind == xds.EndpointType:
		for name := range e.has[xds.ClusterType] {
			want[xds.EndpointsOf(name)] = true
		}
	case kind == xds.RouteType && e.proxy == edge:
		want["gateway/edge/a"], want["gateway/edge/b"] = true, true
	case kind == xds.RouteType:
		want["outbound"] = true
	case kind == xds.VirtualHostType && e.some:
		want["outbound/shop.s1"], want["outbound/shop.s2"] = true, true
	default:
		return nil
	}
	return want
}

func (e *envoy) connect() {
	ctx, cancel := context.WithCancel(e.h.t.Context())
	e.names, e.nonce = make(map[string]map[string]bool), make(map[string]string)
	if e.version == nil {
		e.version = make(map[string]string)
	}
	e.mu.Lock()
	e.inbox = nil
	e.mu.Unlock()
	done := make(chan struct{})
	e.cancel = func() { cancel(); <-done }
	next := e.openDelta
	if e.sotw {
		next = e.openSotW
	}
	receive := next(ctx)
	go func() {
		defer close(done)
		for {
			take, err := receive()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.inbox = append(e.inbox, take)
			e.mu.Unlock()
		}
	}()
	e.h.t.Cleanup(e.cancel)
	for n, kind := range e.kinds() {
		if e.has[kind] == nil {
			e.has[kind] = make(map[string]string)
		}
		e.names[kind] = e.wants(kind)
		node := (*corev3.Node)(nil)
		if n == 0 {
			node = &corev3.Node{Id: serve.NodeID(e.proxy, strconv.Itoa(e.id)), UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
				UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: e.minor}},
			}}
		}
		names := slices.Sorted(maps.Keys(e.names[kind]))
		if e.sotw {
			_ = e.stream.Send(&discoverysvcv3.DiscoveryRequest{Node: node, TypeUrl: kind, ResourceNames: names, VersionInfo: e.version[kind]}) // it may have ended
			continue
		}
		if kind == xds.EndpointType || kind == xds.RouteType || e.some {
			maps.DeleteFunc(e.has[kind], func(name, _ string) bool { return e.names[kind] != nil && !e.names[kind][name] })
		}
		_ = e.delta.Send(&discoverysvcv3.DeltaDiscoveryRequest{Node: node, TypeUrl: kind, ResourceNamesSubscribe: names, InitialResourceVersions: maps.Clone(e.has[kind])})
	}
}

func (e *envoy) openDelta(ctx context.Context) func() (func(bool), error) {
	stream, err := e.h.ads().DeltaAggregatedResources(ctx)
	if err != nil {
		e.h.t.Fatal(err)
	}
	e.delta = stream
	return func() (func(bool), error) {
		r, err := stream.Recv()
		return func(refuse bool) {
			answer := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
			if refuse && len(r.Resources) > 0 && e.edited(r.TypeUrl) {
				answer.ErrorDetail = detail("I don't like " + r.Resources[0].Name)
			} else {
				for _, one := range r.Resources {
					e.has[r.TypeUrl][one.Name] = one.Version
				}
				for _, name := range r.RemovedResources {
					delete(e.has[r.TypeUrl], name)
				}
			}
			_ = stream.Send(answer) // it may have ended
		}, err
	}
}

func (e *envoy) openSotW(ctx context.Context) func() (func(bool), error) {
	stream, err := e.h.ads().StreamAggregatedResources(ctx)
	if err != nil {
		e.h.t.Fatal(err)
	}
	e.stream = stream
	return func() (func(bool), error) {
		r, err := stream.Recv()
		return func(refuse bool) {
			kind := r.TypeUrl
			e.nonce[kind] = r.Nonce
			answer := &discoverysvcv3.DiscoveryRequest{TypeUrl: kind, ResponseNonce: r.Nonce, ResourceNames: slices.Sorted(maps.Keys(e.names[kind]))}
			if refuse && len(r.Resources) > 0 && e.edited(r.TypeUrl) {
				answer.ErrorDetail = detail("I don't like " + nameOf(e.h.t, r.Resources[0]))
			} else {
				if kind == xds.ClusterType || kind == xds.ListenerType {
					clear(e.has[kind])
				}
				for _, one := range r.Resources {
					e.has[kind][nameOf(e.h.t, one)] = strconv.FormatUint(xxhash.Sum64(one.Value), 16)
				}
				e.version[kind] = r.VersionInfo
			}
			answer.VersionInfo = e.version[kind]
			_ = stream.Send(answer) // it may have ended
		}, err
	}
}

func nameOf(t testing.TB, a *anypb.Any) string {
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for _, field := range []protoreflect.Name{"name", "cluster_name"} {
		if f := fields.ByName(field); f != nil {
			return m.ProtoReflect().Get(f).String()
		}
	}
	t.Fatalf("%T has no name", m)
	return ""
}

// step takes one response, and asks for what that leads to.
func (e *envoy) step(refuse bool) bool {
	e.mu.Lock()
	if len(e.inbox) == 0 {
		e.mu.Unlock()
		return false
	}
	take := e.inbox[0]
	e.inbox = e.inbox[1:]
	e.mu.Unlock()
	take(refuse)
	for _, kind := range e.kinds() {
		if want := e.wants(kind); want != nil && !maps.Equal(want, e.names[kind]) {
			e.asks(kind, want)
		}
	}
	return true
}

func (e *envoy) asks(kind string, want map[string]bool) {
	before := e.names[kind]
	e.names[kind] = want
	maps.DeleteFunc(e.has[kind], func(name, _ string) bool { return !want[name] })
	if e.sotw {
		_ = e.stream.Send(&discoverysvcv3.DiscoveryRequest{
			TypeUrl: kind, ResourceNames: slices.Sorted(maps.Keys(want)), VersionInfo: e.version[kind], ResponseNonce: e.nonce[kind],
		}) // it may have ended
		return
	}
	r := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: kind}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !before[name] {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
		}
	}
	for name := range before {
		if !want[name] {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
		}
	}
	_ = e.delta.Send(r) // it may have ended
}

// check holds what it has against the model.
func (e *envoy) check() {
	e.h.t.Helper()
	view, ok := e.h.snapshot.View(e.proxy)
	if !e.virtualHosts() {
		var err error
		if view, ok, err = e.h.snapshot.Whole(e.proxy); err != nil {
			e.h.t.Fatal(err)
		}
	}
	if !ok {
		e.h.t.Fatalf("no view of %s", e.proxy)
	}
	for _, kind := range e.kinds() {
		want := make(map[string]string)
		names := e.wants(kind)
		for _, r := range view[kind] {
			if names == nil || names[r.Name] {
				want[r.Name] = r.Version
			}
		}
		if len(want) == 0 {
			e.h.t.Errorf("client %d (%s): nothing of %s is wanted", e.id, e.proxy, kind)
		}
		if !maps.Equal(want, e.has[kind]) {
			e.h.t.Errorf("client %d (%s, 1.%d, state-of-the-world %v): %s is\n%v, want\n%v", e.id, e.proxy, e.minor, e.sotw, kind, e.has[kind], want)
		}
	}
}
