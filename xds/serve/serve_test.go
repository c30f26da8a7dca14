package serve_test

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	edge  = mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}
	other = mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "cart"}}
)

// snapshot makes resources named and versioned as given, the same for both proxies: "TYPE-INITIAL NAME" to version.
func snapshot(versions map[string]string) *xds.Snapshot {
	kinds := map[string]string{"c": xds.ClusterType, "e": xds.EndpointType, "l": xds.ListenerType, "r": xds.RouteType}
	v := xds.View{}
	for _, key := range slices.Sorted(maps.Keys(versions)) {
		kind, name, _ := strings.Cut(key, " ")
		v[kinds[kind]] = append(v[kinds[kind]], &xds.Resource{
			Type: kinds[kind], Name: name, Version: versions[key], Body: []byte(versions[key]),
			Sources: []policy.Key{{Kind: "Route", Name: name}},
		})
	}
	return xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: v, other: v})
}

type fixture struct {
	t      *testing.T
	server *serve.Server
	conn   *grpc.ClientConn
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, server: serve.New(slog.New(slog.DiscardHandler))}
	g := grpc.NewServer(serve.GRPCOptions()...)
	f.server.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	f.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.conn.Close() })
	return f
}

// client is a delta client that subscribes to all clusters and listeners and to routes and endpoints by name.
type client struct {
	t      *testing.T
	stream discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	cancel context.CancelFunc
	has    map[string]map[string]string // by type, name to version
	log    []string                     // of what came: "+NAME@VERSION" and "-NAME"
	refuse map[string]bool              // versions
	got    chan *discoverysvcv3.DeltaDiscoveryResponse
}

var names = []string{"a", "b", "c"}

func (f *fixture) connect(p mesh.Proxy, has map[string]map[string]string) *client {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(f.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &client{t: f.t, stream: stream, cancel: cancel, has: has, refuse: map[string]bool{}, got: make(chan *discoverysvcv3.DeltaDiscoveryResponse)}
	if c.has == nil {
		c.has = make(map[string]map[string]string)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case c.got <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	f.t.Cleanup(func() { cancel(); <-done })
	for i, kind := range xds.Types {
		if c.has[kind] == nil {
			c.has[kind] = make(map[string]string)
		}
		r := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: kind, InitialResourceVersions: maps.Clone(c.has[kind])}
		if i == 0 {
			r.Node = &corev3.Node{Id: serve.NodeID(p, "test")}
		}
		if kind == xds.EndpointType || kind == xds.RouteType {
			r.ResourceNamesSubscribe = names
		}
		c.send(r)
	}
	return c
}

func (c *client) send(r *discoverysvcv3.DeltaDiscoveryRequest) {
	if err := c.stream.Send(r); err != nil {
		c.t.Errorf("send: %v", err)
	}
}

// settle takes and answers responses until none comes for a while.
func (c *client) settle() *client {
	quiet := time.NewTimer(80 * time.Millisecond)
	defer quiet.Stop()
	for {
		select {
		case r := <-c.got:
			c.answer(r)
			quiet.Reset(80 * time.Millisecond)
		case <-quiet.C:
			return c
		}
	}
}

func (c *client) answer(r *discoverysvcv3.DeltaDiscoveryResponse) {
	ack := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	for _, one := range r.GetResources() {
		if c.refuse[one.GetVersion()] {
			ack.ErrorDetail = &statusv1.Status{Message: "Error adding " + one.GetName() + ": no"}
			continue
		}
		c.has[r.GetTypeUrl()][one.GetName()] = one.GetVersion()
		c.log = append(c.log, "+"+one.GetName()+"@"+one.GetVersion())
	}
	for _, name := range r.GetRemovedResources() {
		if _, had := c.has[r.GetTypeUrl()][name]; had {
			c.log = append(c.log, "-"+name)
		}
		delete(c.has[r.GetTypeUrl()], name)
	}
	c.send(ack)
}

func (c *client) came() string {
	all := strings.Join(c.log, " ")
	c.log = nil
	return all
}

var first = map[string]string{"c a": "c1", "c b": "c2", "e a": "e1", "l x": "l1", "r a": "r1", "r b": "r2"}

func with(base map[string]string, changes ...string) map[string]string {
	m := maps.Clone(base)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(m, changes[i])
		} else {
			m[changes[i]] = changes[i+1]
		}
	}
	return m
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	f := newFixture(t)
	c := f.connect(edge, nil)
	want(t, "before the first snapshot", c.settle().came(), "")
	f.server.Apply(snapshot(first))
	want(t, "everything, in order", c.settle().came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@r1 +b@r2")
	f.server.Apply(snapshot(with(first, "r b", "r3")))
	want(t, "one route", c.settle().came(), "+b@r3")
	f.server.Apply(snapshot(with(first, "r b", "r3")))
	want(t, "the same again", c.settle().came(), "")
	f.server.Apply(snapshot(with(first, "r b", "r3", "c a", "c9")))
	want(t, "a cluster brings its endpoints", c.settle().came(), "+a@c9 +a@e1")
	f.server.Apply(snapshot(with(first, "r b", "", "c b", "")))
	want(t, "routes go before clusters", c.settle().came(), "+a@c1 +a@e1 -b -b")
}

func TestReconnectGetsOnlyWhatChanged(t *testing.T) {
	f := newFixture(t)
	f.server.Apply(snapshot(first))
	c := f.connect(edge, nil).settle()
	c.cancel()
	f.server.Apply(snapshot(with(first, "r a", "r9", "c b", "")))
	again := f.connect(edge, c.has)
	want(t, "after a reconnect", again.settle().came(), "+a@r9 -b")
}

func TestRefusedResourceIsWithdrawnForAll(t *testing.T) {
	f := newFixture(t)
	f.server.Apply(snapshot(first))
	c, d := f.connect(edge, nil).settle(), f.connect(other, nil).settle()
	c.came()
	d.came()
	c.refuse["bad"] = true
	f.server.Apply(snapshot(with(first, "r a", "bad", "r b", "r9")))
	c.settle()
	d.settle()
	c.settle()
	want(t, "the one that refused", c.has[xds.RouteType]["a"]+" "+c.has[xds.RouteType]["b"], "r1 r9")
	want(t, "the other", d.has[xds.RouteType]["a"]+" "+d.has[xds.RouteType]["b"], "r1 r9")
	s := f.server.Status()
	if len(s.Refused) != 1 || s.Refused[0].Name != "a" || s.Refused[0].Serving != "r1" || !strings.Contains(s.Refused[0].Message, "no") ||
		s.Refused[0].Sources[0].Name != "a" {
		t.Errorf("status: %+v", s.Refused)
	}
	f.server.Apply(snapshot(with(first, "r a", "good", "r b", "r9")))
	want(t, "a mended version", c.settle().has[xds.RouteType]["a"], "good")
	if s := f.server.Status(); len(s.Refused) != 0 || len(s.Proxies) != 2 || !s.Proxies[0].Synced {
		t.Errorf("status: %+v", s)
	}
}

func TestRefusedByEverybodyFromTheStart(t *testing.T) {
	f := newFixture(t)
	// As after a restart: the proxy has an older version, which this server never saw.
	c := f.connect(edge, map[string]map[string]string{xds.RouteType: {"a": "old"}})
	c.refuse["r1"] = true
	f.server.Apply(snapshot(first))
	want(t, "what the proxy has stays", c.settle().has[xds.RouteType]["a"], "old")
}

func TestGoneProxyKeepsItsView(t *testing.T) {
	f := newFixture(t)
	f.server.Apply(snapshot(first))
	c := f.connect(edge, nil).settle()
	c.came()
	f.server.Apply(xds.NewSnapshot(nil))
	want(t, "its document is gone", c.settle().came(), "")
}

func TestStuckClientHoldsUpNobody(t *testing.T) {
	f := newFixture(t)
	f.server.Apply(snapshot(first))
	stuck := f.connect(edge, nil) // which answers nothing
	c := f.connect(edge, nil).settle()
	for i := range 100 {
		f.server.Apply(snapshot(with(first, "r a", "v"+strconv.Itoa(i))))
	}
	want(t, "the latest", c.settle().has[xds.RouteType]["a"], "v99")
	want(t, "the stuck one gets the latest too", stuck.settle().has[xds.RouteType]["a"], "v99")
}

func TestNodesAreTurnedAway(t *testing.T) {
	f := newFixture(t)
	meta, err := structpb.NewStruct(map[string]any{"weir": map[string]any{"role": "gateway", "name": "inner"}})
	if err != nil {
		t.Fatal(err)
	}
	for what, node := range map[string]*corev3.Node{
		"no id":         {},
		"unknown role":  {Id: "router~edge~1"},
		"contradiction": {Id: "gateway~edge~1", Metadata: meta},
	} {
		stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(f.conn).DeltaAggregatedResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{Node: node, TypeUrl: xds.ClusterType}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want InvalidArgument", what, err)
		}
	}
}

func TestStateOfTheWorld(t *testing.T) {
	f := newFixture(t)
	f.server.Apply(snapshot(first))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func() discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient {
		stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(f.conn).StreamAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	node := &corev3.Node{Id: serve.NodeID(edge, "sotw")}
	exchange := func(s discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient, r *discoverysvcv3.DiscoveryRequest) *discoverysvcv3.DiscoveryResponse {
		t.Helper()
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
		got, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	s := open()
	clusters := exchange(s, &discoverysvcv3.DiscoveryRequest{Node: node, TypeUrl: xds.ClusterType})
	if len(clusters.GetResources()) != 2 {
		t.Fatalf("%d clusters, want 2", len(clusters.GetResources()))
	}
	if err := s.Send(&discoverysvcv3.DiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: clusters.GetNonce(), VersionInfo: clusters.GetVersionInfo()}); err != nil {
		t.Fatal(err)
	}
	routes := exchange(s, &discoverysvcv3.DiscoveryRequest{TypeUrl: xds.RouteType, ResourceNames: []string{"a", "b"}})
	if len(routes.GetResources()) != 2 {
		t.Fatalf("%d routes, want 2", len(routes.GetResources()))
	}
	f.server.Apply(snapshot(with(first, "r b", "r9")))
	changed := exchange(s, &discoverysvcv3.DiscoveryRequest{
		TypeUrl: xds.RouteType, ResourceNames: []string{"a", "b"}, ResponseNonce: routes.GetNonce(), VersionInfo: routes.GetVersionInfo(),
	})
	if len(changed.GetResources()) != 1 || string(changed.GetResources()[0].GetValue()) != "r9" {
		t.Errorf("one route changed, and came: %v", changed.GetResources())
	}
	// A proxy that comes back with the version of all that it has is sent nothing of that type: the next that comes is
	// the answer to the type after it.
	again := open()
	if err := again.Send(&discoverysvcv3.DiscoveryRequest{Node: node, TypeUrl: xds.ClusterType, VersionInfo: clusters.GetVersionInfo()}); err != nil {
		t.Fatal(err)
	}
	next := exchange(again, &discoverysvcv3.DiscoveryRequest{TypeUrl: xds.RouteType, ResourceNames: []string{"a"}})
	want(t, "after a reconnect", next.GetTypeUrl(), xds.RouteType)
}

// TestChaos: whatever happens on the way, every client ends with what the last snapshot gives it.
func TestChaos(t *testing.T) {
	f := newFixture(t)
	random := rand.New(rand.NewPCG(1, 2))
	clients := []*client{f.connect(edge, nil), f.connect(other, nil), f.connect(edge, nil)}
	current := first
	for i := range 60 {
		keys := []string{"c a", "c b", "c c", "e a", "e b", "l x", "l y", "r a", "r b", "r c"}
		version := "v" + strconv.Itoa(i)
		if random.IntN(4) == 0 {
			version = ""
		}
		current = with(current, keys[random.IntN(len(keys))], version)
		f.server.Apply(snapshot(current))
		n := random.IntN(len(clients))
		switch random.IntN(6) {
		case 0:
			clients[n].cancel()
			clients[n] = f.connect(edge, clients[n].has)
		case 1:
			clients[n].refuse["v"+strconv.Itoa(i+1)] = true
		case 2:
			clients[n].settle()
		}
	}
	for _, c := range clients {
		clear(c.refuse)
	}
	// Everything anew, so that nothing that was refused is left.
	for key := range current {
		current[key] = "last " + key
	}
	f.server.Apply(snapshot(current))
	for range 3 {
		for _, c := range clients {
			c.settle()
		}
	}
	kinds := map[string]string{"c": xds.ClusterType, "e": xds.EndpointType, "l": xds.ListenerType, "r": xds.RouteType}
	for n, c := range clients {
		held := 0
		for _, resources := range c.has {
			held += len(resources)
		}
		if held != len(current) {
			t.Errorf("client %d holds %v, want %v", n, c.has, current)
		}
		for key, version := range current {
			kind, name, _ := strings.Cut(key, " ")
			want(t, "client "+strconv.Itoa(n)+" "+key, c.has[kinds[kind]][name], version)
		}
	}
}
