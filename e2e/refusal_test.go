package e2e_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// expectRefusal waits until `weir status` exits 1 with all of the words, and the metric says that one resource is
// refused.
func (w *world) expectRefusal(words ...string) {
	w.t.Helper()
	w.eventually("weir status tells of the refusal", func() error {
		out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
		if err == nil {
			return fmt.Errorf("exit code 0\n%s", out)
		} else if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			return fmt.Errorf("%w\n%s", err, out)
		}
		for _, word := range words {
			if !strings.Contains(out, word) {
				return fmt.Errorf("not a word of %q:\n%s", word, out)
			}
		}
		if got := w.metric("weir_xds_refused_resources"); got != 1 {
			return fmt.Errorf("weir_xds_refused_resources is %v, want 1", got)
		}
		return nil
	})
}

// expectNoRefusal waits until `weir status` exits 0 and the metric is 0.
func (w *world) expectNoRefusal() {
	w.t.Helper()
	w.eventually("weir status tells of no refusal", func() error {
		if out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://")); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		if got := w.metric("weir_xds_refused_resources"); got != 0 {
			return fmt.Errorf("weir_xds_refused_resources is %v", got)
		}
		return nil
	})
}

// answers waits until another address than the gateway's first is answered there.
func (w *world) answers(address string) {
	w.t.Helper()
	w.eventually(address+" answers", func() error {
		resp, err := w.client.Get("http://" + address)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// TestEnvoyRefusesAListener: that a port is taken where the proxy runs is what only the proxy can know.
func TestEnvoyRefusesAListener(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w := newWorld(t, shop(v1.Address, v2.Address, 100, 0))
	gateway := func(more ...string) string {
		text := "kind: Gateway\nmetadata: {name: edge}\nspec:\n  address: 127.0.0.1\n  listeners:\n    - {name: http, port: " + port(w.gateway) + "}\n"
		for i, address := range more {
			text += fmt.Sprintf("    - {name: l%d, port: %s}\n", i, port(address))
		}
		return text
	}
	free := freePorts(t, 3)
	w.write("gateway.yaml", gateway(free[0]))
	w.answers(free[0])
	l := w.load(2)

	w.write("gateway.yaml", gateway(taken.Addr().String(), free[1])) // l0 moves to where it can't, and l1 is new
	w.expectRefusal("Listener gateway/edge/l0, of Gateway edge\n", "Address already in use", "is served instead")
	w.answers(free[1]) // of the same response
	w.answers(free[0]) // the last accepted version
	if n := w.metric("weir_xds_nacks_total"); n != 1 {
		t.Errorf("%v refusals were counted, want 1", n)
	}
	w.write("mesh.yaml", shop(v1.Address, v2.Address, 0, 100))
	w.eventually("another change gets through", func() error { return answeredBy(w.mustDo(checkout), "v2") })
	w.expectRefusal("Listener gateway/edge/l0")

	w.write("gateway.yaml", gateway(free[2], free[1]))
	w.answers(free[2])
	w.expectNoRefusal()
	l.end(t)
}

// TestEnvoyRefusesARoute: a regular expression that is one for Go and too large for Envoy.
func TestEnvoyRefusesARoute(t *testing.T) {
	v1, v2, moved := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2"), envoytest.Upstream(t, "moved")
	other := func(edition string) string { return "---\n" + shops(1, port(v1.Address), map[int]string{0: edition}) }
	w := newWorld(t, shop(v1.Address, v2.Address, 100, 0)+other("first"))
	l := w.load(2)
	// The same change moves v1, edits another service's route, and would move the weights.
	broken := strings.Replace(shop(moved.Address, v2.Address, 0, 100), "  rules:\n",
		"  rules:\n    - {name: large, match: {path: {regex: '/\\pL{1000}\\pL{1000}'}}}\n", 1)
	w.write("mesh.yaml", broken+other("second"))
	words := []string{"VirtualHost gateway/edge/http/shop.checkout, of Route shop/checkout, Service shop/checkout\n", "RE2 program size"}
	w.expectRefusal(append(words, "is served instead")...)
	w.eventually("the endpoints of the change are taken", func() error { return answeredBy(w.mustDo(checkout), "moved") })
	w.edition(w.gateway, "s0.example.com", "second")

	// A Weir that starts on it knows of no version before.
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	w.startWeir()
	w.expectRefusal(append(words, "the proxies keep what they have")...)
	w.write("mesh.yaml", broken+other("third"))
	w.edition(w.gateway, "s0.example.com", "third")

	w.write("mesh.yaml", shop(moved.Address, v2.Address, 0, 100)+other("third"))
	w.eventually("the mended route is taken", func() error { return answeredBy(w.mustDo(checkout), "v2") })
	w.expectNoRefusal()
	l.end(t)
}

// TestEnvoyRefusesResources serves an Envoy what no document leads to: a bad cluster and bad endpoints beside good ones.
func TestEnvoyRefusesResources(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("a", up.Address, "")+service("b", up.Address, "")+service("c", up.Address, ""))
	// From here on, a server of our own in weir's place.
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	server := serve.New(slog.New(slog.DiscardHandler))
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", w.args[slices.Index(w.args, "--xds-address")+1])
	if err != nil {
		t.Fatal(err)
	}
	transport := server.Server(http.NotFoundHandler())
	served := make(chan error, 1)
	go func() { served <- transport.Serve(listener) }()
	t.Cleanup(func() {
		transport.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	edge := mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}
	good := w.view(edge)
	server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: good}))
	serving := func(versions map[string]string, refused int) {
		t.Helper()
		w.eventually("what was refused is withdrawn, and the rest is taken", func() error {
			s := server.Status()
			if len(s.Proxies) != 1 || !s.Proxies[0].Synced || len(s.Refused) != refused {
				return fmt.Errorf("%+v", s)
			}
			for name, want := range versions {
				kind, name, _ := strings.Cut(name, " ")
				if got := s.Proxies[0].Types[kind].Resources[name]; got != want {
					return fmt.Errorf("%s %s is %s, want %s", kind, name, got, want)
				}
			}
			return nil
		})
		for _, name := range []string{"a", "b", "c"} {
			if got := w.mustDo(request{host: name + ".example.com", path: "/"}); got.body != "up" {
				t.Errorf("%s: %d %s", name, got.status, got.body)
			}
		}
	}
	serving(nil, 0)

	next := xds.View{}
	for kind, resources := range good {
		next[kind] = slices.Clone(resources)
	}
	edit(t, next, xds.ClusterType, "shop/a", "bad", func(c *clusterv3.Cluster) { c.LbPolicy = 99 })
	edit(t, next, xds.ClusterType, "shop/b", "good", func(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(3e9) })
	edit(t, next, xds.EndpointType, "shop/b", "bad", func(a *endpointv3.ClusterLoadAssignment) { a.Endpoints[0].Priority = 1000 })
	edit(t, next, xds.EndpointType, "shop/c", "good", func(a *endpointv3.ClusterLoadAssignment) { a.Endpoints[0].Locality.Zone = "z" })
	server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: next}))
	serving(map[string]string{
		"Cluster shop/a": version(good, xds.ClusterType, "shop/a"), "Cluster shop/b": "good",
		"ClusterLoadAssignment shop/b": version(good, xds.EndpointType, "shop/b"), "ClusterLoadAssignment shop/c": "good",
	}, 2)
	for _, r := range server.Status().Refused {
		t.Logf("%s %s: %s", r.Type, r.Name, r.Message)
		if r.Version != "bad" {
			t.Errorf("blamed is %+v", r)
		}
	}
	server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: good}))
	serving(map[string]string{"Cluster shop/b": version(good, xds.ClusterType, "shop/b")}, 0)
}

// view is what a proxy is served for the world's documents.
func (w *world) view(p mesh.Proxy) xds.View {
	w.t.Helper()
	set, problems, err := source.New([]string{w.dir}, slog.New(slog.DiscardHandler)).Load()
	if err != nil || len(problems) > 0 {
		w.t.Fatal(err, problems)
	}
	snapshot, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	view, ok := snapshot.View(p)
	if !ok {
		w.t.Fatalf("no view of %s", p)
	}
	return view
}

// edit replaces a resource of a view by another version of it.
func edit[M any, P interface {
	*M
	proto.Message
}](t *testing.T, v xds.View, kind, name, version string, change func(P)) {
	t.Helper()
	i := slices.IndexFunc(v[kind], func(r *xds.Resource) bool { return r.Name == name })
	next := *v[kind][i]
	m := P(new(M))
	if err := proto.Unmarshal(next.Body, m); err != nil {
		t.Fatal(err)
	}
	change(m)
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	next.Version, next.Body = version, body
	v[kind][i] = &next
}

func version(v xds.View, kind, name string) string {
	return v[kind][slices.IndexFunc(v[kind], func(r *xds.Resource) bool { return r.Name == name })].Version
}
