package serve_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// protocols runs a story with clients of either protocol.
func protocols(t *testing.T, f func(w *world, connect func(mesh.Proxy, *client) *client)) {
	t.Helper()
	t.Run("delta", func(t *testing.T) { story(t, func(w *world) { f(w, w.connect) }) })
	t.Run("sotw", func(t *testing.T) { story(t, func(w *world) { f(w, w.connectSotW) }) })
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		settle(c)
		want(t, "before the first snapshot", c.came(), "")
		w.apply(first, c)
		want(t, "everything, in order", c.came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@r1 +b@r2")
		w.apply(with(first, "r b", "r3"), c)
		want(t, "one route", c.came(), "+b@r3")
		w.apply(with(first, "r b", "r3"), c)
		want(t, "the same again", c.came(), "")
		w.apply(with(first, "r b", "r3", "c a", "c9"), c)
		want(t, "a cluster brings its endpoints", c.came(), "+a@c9 +a@e1")
		w.apply(with(first, "r b", "", "c b", ""), c)
		want(t, "routes go before clusters", c.came(), "+a@c1 +a@e1 -b -b")
	})
}

func TestStateOfTheWorld(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first))
		c := w.connectSotW(edge, nil)
		settle(c)
		want(t, "everything, in order", c.came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@r1 +b@r2")
		w.apply(with(first, "r b", "r3"), c)
		want(t, "one route", c.came(), "+b@r3")
		w.apply(with(first, "c a", "c9", "r b", "", "c b", ""), c)
		want(t, "a cluster brings its endpoints; one that goes stays until all else is done", c.came(), "+a@c9 +b@c2 +a@e1 +a@c9 -b")
	})
}

func TestReconnect(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		w.server.Apply(snapshot(first))
		c := connect(edge, nil)
		settle(c)
		c.came()
		c.cancel()
		w.restart()
		again := connect(edge, c)
		settle(again)
		w.apply(first, again)
		want(t, "a restarted Weir, nothing changed", again.came(), "")
		again.cancel()
		w.server.Apply(snapshot(first))
		again = connect(edge, again)
		settle(again)
		want(t, "back again, nothing changed", again.came(), "")
	})
}

func TestReconnectAfterAChange(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first))
		c := w.connect(edge, nil)
		settle(c)
		c.came()
		c.cancel()
		w.restart()
		w.server.Apply(snapshot(with(first, "r a", "r9", "c a", "c9", "c b", "")))
		again := w.connect(edge, c)
		settle(again)
		want(t, "a cluster brings its endpoints though the proxy says it has them", again.came(), "+a@c9 +a@e1 +a@r9 -b")
	})
}

func TestNothingOfATypeIsSaid(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		w.server.Apply(snapshot(nil))
		c := connect(edge, nil)
		synctest.Wait()
		c.mu.Lock()
		got := len(c.inbox) > 0 && c.inbox[0].kind == xds.ClusterType && len(c.inbox[0].items) == 0
		c.mu.Unlock()
		if !got {
			t.Error("want an empty response: an Envoy waits for its clusters until it is told that there are none")
		}
		settle(c)
	})
}

func TestRefusedResourceIsWithdrawnForAll(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		c, d := connect(edge, nil), w.connect(other, nil)
		w.apply(first, c, d)
		c.refuse["bad"] = true
		w.apply(with(first, "r a", "bad", "r b", "r9"), c, d)
		for _, one := range []*client{c, d} {
			want(t, "the last accepted, and what was not to blame", one.applied[xds.RouteType]["a"]+" "+one.applied[xds.RouteType]["b"], "r1 r9")
		}
		s := w.server.Status()
		if len(s.Refused) != 1 {
			t.Fatalf("refused: %+v", s.Refused)
		}
		r := s.Refused[0]
		if r.Name != "a" || r.Version != "bad" || r.Serving != "r1" || r.Message != "no such thing as that" || r.Sources[0].Name != "a" || !strings.HasPrefix(r.Node, "gateway~edge") {
			t.Errorf("refused: %+v", r)
		}
		if n := s.Proxies[0].Types["RouteConfiguration"].NACK; n == nil || n.Message != "no such thing as that" || n.Time.IsZero() {
			t.Errorf("the proxy's refusal: %+v", n)
		}
		w.apply(with(first, "r a", "good", "r b", "r9"), c, d)
		want(t, "a mended version", c.applied[xds.RouteType]["a"]+d.applied[xds.RouteType]["a"], "goodgood")
		if s := w.server.Status(); len(s.Refused) != 0 || len(s.Proxies) != 2 || !s.Proxies[0].Synced || !s.Proxies[1].Synced {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestRefusedAfterOthersTookIt(t *testing.T) {
	story(t, func(w *world) {
		c, d := w.connect(edge, nil), w.connect(edge, nil)
		w.apply(first, c, d)
		d.refuse["bad"] = true
		w.apply(with(first, "c a", "bad"), c) // c takes it first
		want(t, "taken by one", c.applied[xds.ClusterType]["a"], "bad")
		settle(c, d)
		want(t, "withdrawn from both", c.applied[xds.ClusterType]["a"]+d.applied[xds.ClusterType]["a"], "c1c1")
	})
}

func TestLastAcceptedIsRefusedToo(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.refuse["r1"], c.refuse["bad"] = true, true
		w.apply(with(first, "r a", "bad"), c)
		want(t, "it ends", c.came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@r1 +b@r2 ! !")
		w.apply(with(first, "r a", "bad", "r b", "r9"), c)
		want(t, "and is not tried again", c.came(), "+b@r9")
		if s := w.server.Status(); len(s.Refused) != 2 {
			t.Errorf("refused: %+v", s.Refused)
		}
	})
}

// After a restart, a proxy has versions that this server never saw accepted.
func TestRefusedFromTheStart(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		w.server.Apply(snapshot(first))
		c := connect(edge, nil)
		settle(c)
		c.cancel()
		w.restart()
		c.refuse["bad"], c.refuse["worse"] = true, true
		c = connect(edge, c)
		w.apply(with(first, "c a", "bad", "r a", "worse", "c b", "c3"), c)
		want(t, "what the proxy has stays", c.applied[xds.ClusterType]["a"]+c.applied[xds.RouteType]["a"], "c1r1")
		want(t, "and holds up nothing", c.applied[xds.ClusterType]["b"], "c3")
		w.apply(with(first, "c a", "bad", "r a", "worse", "c b", "c4", "r b", "r4"), c)
		want(t, "stays through later changes", c.applied[xds.ClusterType]["a"]+c.applied[xds.RouteType]["a"], "c1r1")
		want(t, "which come", c.applied[xds.ClusterType]["b"]+c.applied[xds.RouteType]["b"], "c4r4")
		if s := w.server.Status(); len(s.Refused) != 2 {
			t.Errorf("refused: %+v", s.Refused)
		}
		w.apply(with(first, "r a", "", "c a", "", "e a", ""), c)
		want(t, "until it goes", c.applied[xds.ClusterType]["a"], "")
	})
}

// What a returning proxy says it has is accepted, though not on this server.
func TestRefusedAfterARestartFallsBackToWhatProxiesHave(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		w.server.Apply(snapshot(first))
		c := connect(edge, nil)
		settle(c)
		c.cancel()
		w.restart()
		w.server.Apply(snapshot(first))
		c = connect(edge, c)
		settle(c)
		c.refuse["bad"] = true
		w.apply(with(first, "r a", "bad"), c)
		fresh := connect(edge, nil)
		settle(c, fresh)
		want(t, "a new proxy is served it", fresh.applied[xds.RouteType]["a"], "r1")
	})
}

func TestManyRefusedAtOnce(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		c.refuse["bad"] = true
		w.apply(with(first, "r a", "r1", "r b", "bad", "r c", "r3"), c)
		if c.applied[xds.RouteType]["a"] != "r1" || c.applied[xds.RouteType]["c"] != "r3" {
			t.Errorf("one that is bad, unnamed, holds up the others: %v", c.applied[xds.RouteType])
		}
		if s := w.server.Status(); len(s.Refused) != 1 || s.Refused[0].Name != "b" || s.Refused[0].Serving != "" {
			t.Errorf("refused: %+v", s.Refused)
		}
		fresh := w.connect(edge, nil)
		settle(fresh)
		want(t, "left out where never accepted", fresh.applied[xds.RouteType]["a"]+fresh.applied[xds.RouteType]["b"]+fresh.applied[xds.RouteType]["c"], "r1r3")
	})
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		message, name string
		want          bool
	}{
		{"Error adding/updating cluster(s) shop/cart: no", "shop/cart", true},
		{"Error adding/updating cluster(s) shop/cart-v2: no", "shop/cart", false},
		{"Error adding/updating cluster(s) big-shop/cart: no", "shop/cart", false},
		{"Error adding/updating cluster(s) shop/cart.v2: no", "shop/cart", false},
		{"cluster shop/cart-v2 and shop/cart.", "shop/cart", true},
		{"'shop/cart'", "shop/cart", true},
		{"shop/cart", "shop/cart", true},
		{"", "shop/cart", false},
		{"anything", "", false},
	} {
		if got := serve.Names(c.message, c.name); got != c.want {
			t.Errorf("%q names %q: %v", c.message, c.name, got)
		}
	}
}

func TestGoneProxyKeepsItsView(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.came()
		w.server.Apply(xds.NewSnapshot(nil))
		w.server.Apply(xds.NewSnapshot(nil))
		settle(c)
		want(t, "its document is gone", c.came(), "")
		if p := w.server.Status().Proxies[0]; !p.Known || !p.Gone {
			t.Errorf("status: %+v", p)
		}
		fresh := w.connect(edge, nil)
		settle(fresh)
		want(t, "and of a new replica too", fresh.applied[xds.RouteType]["a"], "r1")
		w.apply(with(first, "r a", "r9"), c)
		want(t, "it is back", c.came(), "+a@r9")
	})
}

func TestUnknownProxyWaits(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{other: viewOf(first)}))
		c := w.connect(edge, nil)
		settle(c)
		if p := w.server.Status().Proxies; len(p) != 1 || p[0].Known || p[0].Synced {
			t.Errorf("status: %+v", p)
		}
		w.apply(first, c)
		want(t, "known now", c.came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@r1 +b@r2")
	})
}

func TestStuckClientHoldsUpNobody(t *testing.T) {
	story(t, func(w *world) {
		stuck, c := w.connect(edge, nil), w.connect(edge, nil)
		w.apply(first, c) // stuck answers nothing
		for i := range 100 {
			w.server.Apply(snapshot(with(first, "r a", "v"+strconv.Itoa(i))))
		}
		settle(c)
		want(t, "the latest", c.applied[xds.RouteType]["a"], "v99")
		settle(stuck)
		want(t, "the stuck one gets the latest too, and nothing between", stuck.came(), "+a@c1 +b@c2 +a@e1 +x@l1 +a@v99 +b@r2")
	})
}

// A client that does not read at all blocks its own stream in Send; neither others nor the status wait for it.
func TestClientThatDoesNotRead(t *testing.T) {
	story(t, func(w *world) {
		stream, err := w.ads().DeltaAggregatedResources(w.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		big := viewOf(first)
		for _, r := range big[xds.ClusterType] {
			r.Body = make([]byte, 1<<20) // more than flow control lets through
		}
		w.server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: big, other: viewOf(first)}))
		if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: serve.NodeID(edge, "1")}, TypeUrl: xds.ClusterType}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c := w.connect(other, nil)
		settle(c)
		want(t, "another", c.applied[xds.RouteType]["a"], "r1")
		if s := w.server.Status(); len(s.Proxies) != 2 {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first))
		c := w.connect(edge, nil)
		c.mute = true
		settle(c)
		want(t, "listeners wait for the answer to clusters", c.came(), "+a@c1 +b@c2 +a@e1")
		time.Sleep(serve.Patience + time.Millisecond)
		settle(c)
		want(t, "but not for ever", c.came(), "+x@l1 +a@r1 +b@r2")
	})
}

func TestRemovalDoesNotWaitForever(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.came()
		// The proxy never answers about routes.
		w.server.Apply(snapshot(with(first, "r a", "r9", "c b", "")))
		synctest.Wait()
		want(t, "the cluster is there while the routes are not answered", c.applied[xds.ClusterType]["b"], "c2")
		time.Sleep(serve.Patience + time.Millisecond)
		synctest.Wait()
		c.mu.Lock()
		n, last := len(c.inbox), c.inbox[len(c.inbox)-1]
		c.mu.Unlock()
		if n != 2 || last.kind != xds.ClusterType || len(last.removed) != 1 {
			t.Errorf("%d responses, the last %+v: want the routes and then the removal", n, last)
		}
		settle(c)
	})
}

func TestSubscriptions(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.came()
		c.ask(ask{kind: xds.RouteType, unwanted: []string{"a"}})
		settle(c)
		w.apply(with(first, "r a", "r9"), c)
		want(t, "unsubscribed", c.came(), "")
		c.ask(ask{kind: xds.RouteType, names: []string{"a"}})
		settle(c)
		want(t, "subscribed again", c.came(), "+a@r9")
		c.ask(ask{kind: xds.EndpointType, names: []string{"a"}})
		settle(c)
		want(t, "asked again is sent again", c.came(), "+a@e1")
		c.ask(ask{kind: xds.ClusterType, names: []string{"*", "a"}})
		settle(c)
		want(t, "everything, and one by name", c.came(), "+a@c1 +a@e1")
		c.ask(ask{kind: xds.ClusterType, unwanted: []string{"a"}})
		settle(c)
		want(t, "no more by name: it is told what stays", c.came(), "+a@c1 +a@e1")
		c.ask(ask{kind: xds.ClusterType, unwanted: []string{"*"}})
		settle(c)
		w.apply(with(first, "r a", "r9", "c a", "c9"), c)
		want(t, "nothing any more", c.came(), "")
	})
}

func TestNameThatDoesNotExist(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(nil))
		stream, err := w.ads().DeltaAggregatedResources(w.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: serve.NodeID(edge, "1")}, TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"nowhere"},
		}); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil || len(r.GetRemovedResources()) != 1 || r.GetRemovedResources()[0] != "nowhere" {
			t.Errorf("got %v, %v: want it said that it does not exist", r, err)
		}
	})
}

func TestNodesAreTurnedAway(t *testing.T) {
	meta := func(fields map[string]any) *structpb.Struct {
		m, err := structpb.NewStruct(map[string]any{"weir": fields})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	inner := meta(map[string]any{"role": "gateway", "name": "inner"})
	story(t, func(w *world) {
		for what, node := range map[string]*corev3.Node{
			"no node":       nil,
			"no id":         {},
			"unknown role":  {Id: "router~edge~1"},
			"no instance":   {Id: "gateway~edge"},
			"contradiction": {Id: "gateway~edge~1", Metadata: inner},
			"half a name":   {Id: "gateway~edge~1", Metadata: meta(map[string]any{"name": "inner"})},
			"a long id":     {Id: "gateway~edge~" + strings.Repeat("1", 1<<10)},
			"a long zone":   {Id: "gateway~edge~1", Locality: &corev3.Locality{Zone: strings.Repeat("z", 1<<10+1)}},
		} {
			stream, err := w.ads().DeltaAggregatedResources(w.t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{Node: node, TypeUrl: xds.ClusterType}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "node") {
				t.Errorf("%s: got %v, want InvalidArgument", what, err)
			}
		}
	})
	for _, node := range []*corev3.Node{{Id: "my-envoy", Metadata: inner}, {Id: "gateway~inner~1", Metadata: inner}, {Id: "gateway~inner~x~y"}} {
		if p, err := serve.ParseNode(node); err != nil || p.Ref.Name != "inner" || p.Role != mesh.RoleGateway {
			t.Errorf("%v: %v %v", node, p, err)
		}
	}
	if p, err := serve.ParseNode(&corev3.Node{Id: serve.NodeID(other, "1")}); err != nil || p != other {
		t.Errorf("a service: %v %v", p, err)
	}
}

func TestClose(t *testing.T) {
	story(t, func(w *world) {
		stream, err := w.ads().DeltaAggregatedResources(w.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "gateway~edge~1"}, TypeUrl: xds.ClusterType}); err != nil {
			t.Fatal(err)
		}
		w.server.Close()
		w.server.Close()
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
}

func TestMetrics(t *testing.T) {
	story(t, func(w *world) {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(w.server)
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.refuse["bad"] = true
		w.apply(with(first, "r a", "bad"), c)
		err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP weir_xds_nacks_total Responses refused by proxies.
# TYPE weir_xds_nacks_total counter
weir_xds_nacks_total{type="Cluster"} 0
weir_xds_nacks_total{type="ClusterLoadAssignment"} 0
weir_xds_nacks_total{type="Listener"} 0
weir_xds_nacks_total{type="RouteConfiguration"} 1
weir_xds_nacks_total{type="Secret"} 0
weir_xds_nacks_total{type="TypedExtensionConfig"} 0
weir_xds_nacks_total{type="VirtualHost"} 0
# HELP weir_xds_refused_resources Resources withdrawn because a proxy refused them.
# TYPE weir_xds_refused_resources gauge
weir_xds_refused_resources 1
# HELP weir_xds_streams Connected discovery streams, by protocol.
# TYPE weir_xds_streams gauge
weir_xds_streams{protocol="delta"} 1
weir_xds_streams{protocol="sotw"} 0
`), "weir_xds_nacks_total", "weir_xds_refused_resources", "weir_xds_streams")
		if err != nil {
			t.Error(err)
		}
	})
}

func TestStreamsEndWithTheirClients(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		settle(c)
		c.cancel()
		synctest.Wait()
		if s := w.server.Status(); len(s.Proxies) != 0 {
			t.Errorf("still there: %+v", s.Proxies)
		}
	})
}

func TestRefusedByAFreshProxyIsNotSentAlong(t *testing.T) {
	story(t, func(w *world) {
		c := w.connectSotW(edge, nil)
		c.refuse["c1"] = true
		w.apply(first, c)
		c.came()
		w.apply(with(first, "c b", "c9"), c)
		want(t, "it has no version of it to keep", c.came(), "+b@c9")
	})
}

func TestNeverAcceptedIsNothingToFallBackOn(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first)) // nobody has seen this
		c := w.connect(edge, nil)
		c.refuse["bad"] = true
		w.apply(with(first, "r a", "bad"), c)
		want(t, "left out", c.applied[xds.RouteType]["a"], "")
		if s := w.server.Status(); len(s.Refused) != 1 || s.Refused[0].Serving != "" {
			t.Errorf("refused: %+v", s.Refused)
		}
	})
}

func TestFewVersionsAreKept(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		for i := range 20 {
			w.apply(with(first, "r a", "v"+strconv.Itoa(i)), c)
		}
		if n := w.server.Remembered(edge, xds.RouteType, "a"); n != 3 {
			t.Errorf("%d versions are kept, want that served and two before", n)
		}
	})
}

func TestOnlyProxiesThatCameAreKept(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first))
		w.server.Apply(xds.NewSnapshot(nil))
		c := w.connect(edge, nil)
		settle(c)
		if p := w.server.Status().Proxies[0]; p.Known {
			t.Errorf("status: %+v", p)
		}
	})
}

// TestProxiesAreForgotten: those that no document has, and that are not here.
func TestProxiesAreForgotten(t *testing.T) {
	story(t, func(w *world) {
		kept := func(what string, proxies, resources int) {
			t.Helper()
			synctest.Wait()
			if p, r := w.server.Kept(); p != proxies || r != resources {
				t.Errorf("%s: %d proxies and %d resources are kept, want %d and %d", what, p, r, proxies, resources)
			}
		}
		made := func(i int) mesh.Proxy {
			return mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "made-up-" + strconv.Itoa(i)}}
		}
		early := w.connect(made(0), nil)
		settle(early)
		kept("before the first documents", 1, 0)
		early.cancel()
		kept("and after", 0, 0)
		w.apply(first)
		var all []*client
		for i := range 20 {
			all = append(all, w.connect(made(i), nil), w.connect(made(i), nil))
		}
		kept("while they are here", 20, 0)
		for _, c := range all {
			c.cancel()
		}
		kept("after", 0, 0)
		w.apply(first)
		kept("and after other documents", 0, 0)

		c, d := w.connect(edge, nil), w.connect(other, nil)
		settle(c, d)
		c.cancel()
		kept("one that the documents have", 2, 2*len(first))
		w.server.Apply(xds.NewSnapshot(nil))
		kept("that are gone, and one is here", 1, len(first))
		d.cancel()
		kept("and none", 0, 0)
	})
}

func TestOldAnswersSayNothing(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		w.server.Apply(snapshot(with(first, "r a", "r9")))
		synctest.Wait()
		c.send(&update{kind: xds.RouteType, nonce: "old"}, "no")
		synctest.Wait()
		s := w.server.Status()
		if len(s.Refused) != 0 || s.Proxies[0].Types["RouteConfiguration"].Pending != 1 || s.Proxies[0].Types["RouteConfiguration"].Waiting[0] != "a" {
			t.Errorf("status: %+v", s)
		}
		settle(c)
	})
}

// TestWhatIsNotReadCanNotBeAnswered has a client answer more than it has read, to be sent ever more.
func TestWhatIsNotReadCanNotBeAnswered(t *testing.T) {
	story(t, func(w *world) {
		w.server.Apply(snapshot(first))
		ctx, cancel := context.WithCancel(w.t.Context())
		defer cancel()
		stream, err := w.ads().DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(nonce string) {
			_ = stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{ // it may have ended
				Node: &corev3.Node{Id: serve.NodeID(edge, "test")}, TypeUrl: xds.ClusterType, ResponseNonce: nonce, ResourceNamesSubscribe: []string{"a"},
			})
		}
		ask("")
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		more := make(chan int)
		go func() {
			n := 0
			for {
				if _, err := stream.Recv(); err != nil {
					more <- n
					return
				}
				n++
			}
		}()
		ask(got.GetNonce())
		last, _ := strconv.ParseUint(got.GetNonce(), 16, 64)
		for guess := last + 1; guess < last+20; guess++ {
			ask(strconv.FormatUint(guess, 16))
		}
		synctest.Wait()
		cancel()
		if n := <-more; n != 1 {
			t.Errorf("%d more responses, want the one that was asked for", n)
		}
	})
}

func TestNamingOneEndsMeaningAll(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		c.ask(ask{kind: xds.ClusterType, names: []string{"a"}})
		settle(c)
		c.came()
		w.apply(with(first, "c a", "c8", "c b", "c9"), c)
		want(t, "the one named", c.came(), "+a@c8 +a@e1")
	})
}

// A name that does not exist is said so at once, also while removals are held back.
func TestUnknownNameIsToldAtOnce(t *testing.T) {
	story(t, func(w *world) {
		c := w.connect(edge, nil)
		w.apply(first, c)
		w.server.Apply(snapshot(with(first, "r a", "r9", "e a", "")))
		synctest.Wait() // the routes are not answered, and so the endpoints stay
		c.ask(ask{kind: xds.EndpointType, names: []string{"nowhere"}})
		synctest.Wait()
		c.mu.Lock()
		n, last := len(c.inbox), c.inbox[len(c.inbox)-1]
		c.mu.Unlock()
		if n != 2 || last.kind != xds.EndpointType || strings.Join(last.removed, " ") != "nowhere" {
			t.Errorf("%d responses, the last %+v", n, last)
		}
		settle(c)
		want(t, "and what is gone goes after", c.applied[xds.EndpointType]["a"], "")
	})
}

// TestVirtualHostsFollowTheirRouteConfiguration: Envoy drops those that come before it, and those that are there when
// it goes.
func TestVirtualHostsFollowTheirRouteConfiguration(t *testing.T) {
	story(t, func(w *world) {
		hosted := map[string]string{"l x": "l1", "r a": "r1", "v a/x": "v1", "v a/y": "v2"}
		c := w.connect(edge, nil)
		w.apply(hosted, c)
		want(t, "all", c.came(), "+x@l1 +a@r1 +a/x@v1 +a/y@v2")
		w.apply(with(hosted, "v a/x", "v3"), c)
		want(t, "one edited", c.came(), "+a/x@v3")
		d := w.connect(edge, c)
		settle(d)
		want(t, "back again", d.came(), "")
		w.apply(with(hosted, "v d/x", "v9", "r d", "r9"), d)
		want(t, "before anybody asks for what they belong to", d.came(), "+a/x@v1")
		d.ask(ask{kind: xds.RouteType, names: []string{"d"}})
		settle(d)
		want(t, "after it", d.came(), "+d@r9 +d/x@v9")
		d.ask(ask{kind: xds.RouteType, unwanted: []string{"d"}})
		settle(d)
		d.ask(ask{kind: xds.RouteType, names: []string{"d"}})
		settle(d)
		want(t, "once more with it", d.came(), "+d@r9 +d/x@v9")
	})
}

func TestOldEnvoysTakeRouteConfigurationsWhole(t *testing.T) {
	for version, want := range map[[2]uint32]bool{{}: false, {1, 36}: false, {1, 37}: true, {1, 40}: true, {2, 0}: true} {
		n := &corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
			Version: &typev3.SemanticVersion{MajorNumber: version[0], MinorNumber: version[1]},
		}}}
		if got := serve.TakesVirtualHosts(n); got != want {
			t.Errorf("%v: %t", version, got)
		}
	}
	if serve.TakesVirtualHosts(&corev3.Node{}) {
		t.Error("a node that says nothing")
	}
}

// TestAProxySeenAfterARefusal: one of the same role, of which nobody had asked before, is not served what was refused.
func TestAProxySeenAfterARefusal(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		second := mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "second"}}
		both := func(versions map[string]string) *xds.Snapshot {
			v := viewOf(versions)
			return xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: v, second: v})
		}
		w.server.Apply(both(first))
		c := connect(edge, nil)
		settle(c)
		c.refuse["bad"] = true
		w.server.Apply(both(with(first, "r a", "bad")))
		settle(c)
		d := connect(second, nil)
		settle(d)
		want(t, "the other's", d.applied[xds.RouteType]["a"], "r1")
	})
}
