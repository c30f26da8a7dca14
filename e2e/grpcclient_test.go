package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// dialGRPC gives a channel of gRPC's own xDS client, with the bootstrap that weir prints for it.
func (w *world) dialGRPC(target string) *grpc.ClientConn {
	w.t.Helper()
	bootstrap, err := w.command("bootstrap", "--grpc", "shop/web", "--zone", "a", "--xds", w.args[4])
	if err != nil {
		w.t.Fatalf("weir bootstrap: %v\n%s", err, bootstrap)
	}
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting([]byte(bootstrap)) // GRPC_XDS_BOOTSTRAP is read when a program starts
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(resolver))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask calls a method, with metadata in pairs, and gives the name of the server that answered.
func ask(conn *grpc.ClientConn, method string, md ...string) (server string, err error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), md...), 20*time.Second)
	defer cancel()
	m := wrapperspb.String("x")
	err = conn.Invoke(ctx, method, m, m)
	server, _, _ = strings.Cut(m.Value, " ")
	return server, err
}

func grpcShop(v1, v2 string, w1, w2 int) string {
	return fmt.Sprintf(`
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  hosts: [checkout.shop, "*.checkout.shop"]
  port: 8080
  protocol: grpc
  versions: [{name: v1}, {name: v2}]
  endpoints: {static: [{address: 127.0.0.1, port: %s, labels: {version: v1}}, {address: 127.0.0.1, port: %s, labels: {version: v2}}]}
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - {name: no-call, match: {query: [{name: q, present: true}]}, to: [{version: v1}]}
    - {name: no-post, match: {methods: [GET]}, directResponse: {status: 404}}
    - {name: beta, match: {headers: [{name: X-Group, exact: beta}]}, to: [{version: v2}]}
    - {name: busy, match: {grpc: {service: acme.Busy}}, fault: {abort: {grpcStatus: 8}}, to: [{version: v1}]}
    - {name: chaos, match: {grpc: {service: acme.Chaos}}, fault: {headers: [{name: x-chaos, exact: "1"}], abort: {status: 403}, delay: {fixed: 200ms}}, to: [{version: v1}]}
    - {name: closed, match: {grpc: {service: acme.Closed}}, maintenance: {unless: {grpc: {service: acme.Closed, method: Admin}}}, to: [{version: v2}]}
    - {name: slow, match: {grpc: {service: acme.Slow}}, timeout: 200ms, to: [{version: v1}]}
    - {name: flaky, match: {grpc: {service: flaky.Flaky}}, retries: {attempts: 2, on: [unavailable, resource-exhausted]}, to: [{version: v1}]}
    - {name: default, match: {methods: [POST]}, to: [{version: v1, weight: %d}, {version: v2, weight: %d}]}
`, port(v1), port(v2), w1, w2)
}

// TestGRPCLibrary: gRPC-Go's own xDS client does by itself what the documents say, with no proxy between.
func TestGRPCLibrary(t *testing.T) {
	v1, v2 := newGRPCServer(t, "v1"), newGRPCServer(t, "v2")
	w := newWorld(t, grpcShop(v1.address, v2.address, 90, 10))
	conn := w.dialGRPC("checkout.shop:8080")

	const calls = 10_000
	counts := make(map[string]float64)
	for range calls {
		server, err := ask(conn, "/acme.Cart/Add")
		if err != nil {
			t.Fatal(err)
		}
		counts[server]++
	}
	// Chi-square with one degree of freedom; beyond 23.9 in one run of a million.
	off := counts["v2"] - 0.1*calls
	chi := off*off/(0.9*calls) + off*off/(0.1*calls)
	if t.Logf("%v: chi-square %.2f", counts, chi); chi > 23.9 {
		t.Errorf("%v of %d calls at 90:10: chi-square %.1f", counts, calls, chi)
	}

	for _, c := range []struct {
		method string
		md     []string
		server string
		code   codes.Code
	}{
		{method: "/acme.Cart/Add", md: []string{"x-group", "beta"}, server: "v2"},
		{method: "/acme.Busy/Do", code: codes.ResourceExhausted},
		{method: "/acme.Busybody/Do", md: []string{"x-group", "beta"}, server: "v2"},
		{method: "/acme.Chaos/Do", md: []string{"x-chaos", "1"}, code: codes.PermissionDenied},
		{method: "/acme.Chaos/Do", md: []string{"x-chaos", "2"}, server: "v1"},
		{method: "/acme.Closed/Do", code: codes.Unavailable},
		{method: "/acme.Closed/Admin", server: "v2"},
	} {
		began := time.Now()
		server, err := ask(conn, c.method, c.md...)
		if grpcstatus.Code(err) != c.code || err == nil && server != c.server {
			t.Errorf("%s with %v: %q, %v; want %q, %s", c.method, c.md, server, err, c.server, c.code)
		}
		if c.code == codes.PermissionDenied && time.Since(began) < 200*time.Millisecond {
			t.Errorf("%s: no delay", c.method)
		}
	}
	for code, want := range map[string]int64{"UNAVAILABLE": 3, "RESOURCE_EXHAUSTED": 3, "ABORTED": 1} {
		v1.calls.Store(0)
		if _, err := ask(conn, "/flaky.Flaky/"+code); (err == nil) != (want == 3) || v1.calls.Load() != want {
			t.Errorf("%s: %v after %d calls, want %d", code, err, v1.calls.Load(), want)
		}
	}
	began, m := time.Now(), wrapperspb.String("hang")
	if err := conn.Invoke(t.Context(), "/acme.Slow/Do", m, m); grpcstatus.Code(err) != codes.DeadlineExceeded || time.Since(began) > 10*time.Second {
		t.Errorf("slower than the timeout: %v after %v", err, time.Since(began))
	}

	// An edit reaches the library while it calls, and no call fails for it.
	w.write("mesh.yaml", grpcShop(v1.address, v2.address, 0, 1))
	w.eventually("all calls are of v2", func() error {
		for range 100 {
			if server, err := ask(conn, "/acme.Cart/Add"); err != nil {
				t.Fatal(err)
			} else if server != "v2" {
				return fmt.Errorf("one was of %s", server)
			}
		}
		return nil
	})
	if server, err := ask(w.dialGRPC("checkout.shop"), "/acme.Cart/Add"); err != nil || server != "v2" {
		t.Errorf("without the port: %q, %v", server, err)
	}

	out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
	if host, _ := os.Hostname(); err != nil || !strings.Contains(out, "grpc~shop/web~"+host) || !strings.Contains(out, "gRPC Go") {
		t.Errorf("weir status: %v\n%s", err, out)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("%v resources were refused", n)
	}
}

// TestGRPCLibraryPicksEndpoints: by a header's hash, and evenly over endpoints whatever zones they are in.
func TestGRPCLibraryPicksEndpoints(t *testing.T) {
	var all []*grpcServer
	var endpoints []string
	for i := range 4 {
		all = append(all, newGRPCServer(t, fmt.Sprint("s", i)))
		zone := "a"
		if i == 3 {
			zone = "b"
		}
		endpoints = append(endpoints, fmt.Sprintf("{address: 127.0.0.1, port: %s, zone: %s}", port(all[i].address), zone))
	}
	// One address in two zones is one endpoint, which a library would refuse to have twice.
	endpoints = append(endpoints, fmt.Sprintf("{address: 127.0.0.1, port: %s, zone: c}", port(all[0].address)))
	service := func(name, more string) string {
		return fmt.Sprintf("kind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {protocol: grpc, endpoints: {static: [%s]}, %s}\n---\n",
			name, strings.Join(endpoints, ", "), more)
	}
	w := newWorld(t, service("even", "loadBalancing: {policy: round_robin}, outlierDetection: {}")+
		service("least", "outlierDetection: {}")+
		service("hashed", "affinity: {header: X-User-ID}, outlierDetection: {}")+
		service("channel", "affinity: {sourceAddress: true}, loadBalancing: {policy: maglev}")+
		"kind: Service\nmetadata: {name: named, namespace: shop}\nspec: {protocol: grpc, endpoints: {dns: {name: localhost, port: "+port(all[0].address)+"}}}\n")

	even := w.dialGRPC("even.shop")
	w.eventually("all endpoints of both zones are used evenly", func() error {
		counts := make(map[string]int)
		for range 400 {
			server, err := ask(even, "/a.B/C")
			if err != nil {
				t.Fatal(err)
			}
			counts[server]++
		}
		for _, s := range all { // 100 each: the zones are picked by weight, as it comes
			if n := counts[s.name]; n < 50 || n > 150 {
				return fmt.Errorf("%v", counts)
			}
		}
		return nil
	})

	hashed, used := w.dialGRPC("hashed.shop"), make(map[string]bool)
	for user := range 40 {
		var first string
		for range 3 {
			server, err := ask(hashed, "/a.B/C", "x-user-id", fmt.Sprint("user ", user))
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = server
			}
			if server != first {
				t.Errorf("user %d was at %s and at %s", user, first, server)
			}
		}
		used[first] = true
	}
	if len(used) != len(all) {
		t.Errorf("40 users are all on %v", used)
	}

	channel, used := w.dialGRPC("channel.shop"), make(map[string]bool)
	for range 40 {
		server, err := ask(channel, "/a.B/C")
		if err != nil {
			t.Fatal(err)
		}
		used[server] = true
	}
	if len(used) != 1 {
		t.Errorf("one channel's calls went to %v", used)
	}
	for _, target := range []string{"named.shop", "least.shop"} {
		if _, err := ask(w.dialGRPC(target), "/a.B/C"); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("%v resources were refused", n)
	}
}

// TestGRPCLibraryTakesEverything: of whatever documents say, gRPC-Go's own xDS client refuses nothing.
func TestGRPCLibraryTakesEverything(t *testing.T) {
	sets := make(map[string][]byte)
	stories, err := filepath.Glob("../xds/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob("../examples/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(stories, examples...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range txtar.Parse(text).Files {
			if f.Name == "policy.yaml" {
				text = f.Data
			}
		}
		dir := filepath.Dir(name)
		if !strings.HasSuffix(name, ".yaml") {
			dir = name
		}
		sets[dir] = append(sets[dir], "\n---\n"+string(text)...)
	}
	clusters := 0
	for name, text := range sets {
		t.Run(name, func(t *testing.T) { clusters += takesAll(t, text) })
	}
	if clusters < 60 {
		t.Errorf("only %d clusters in all", clusters)
	}
}

// takesAll has a library ask for all that a set has for it, and says how many clusters it took.
func takesAll(t *testing.T, text []byte) (clusters int) {
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: text}}, nil)
	for _, p := range problems {
		t.Error(p)
	}
	for _, s := range set.Services {
		s.Spec.Protocol = "grpc"
	}
	snapshot, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	library := mesh.Proxy{Role: mesh.RoleGRPC, Ref: policy.Ref{Name: "test"}}
	view, ok := snapshot.View(library)
	if !ok {
		t.Fatal("no view")
	}
	if len(view[xds.ListenerType]) == 0 {
		t.Skip("nothing for a library")
	}
	server := serve.New(slog.New(slog.DiscardHandler))
	server.Apply(snapshot)
	transport := server.Server(http.NotFoundHandler())
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- transport.Serve(l) }()
	defer func() {
		transport.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	bootstrap := fmt.Sprintf(`{"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}]}], "node": {"id": %q}}`, l.Addr(), serve.NodeID(library, t.Name()))
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range view[xds.ListenerType] {
		conn, err := grpc.NewClient("xds:///"+r.Name, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(resolver))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		conn.Connect()
	}
	var last serve.Status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last = server.Status(); len(last.Proxies) == 0 {
			continue
		}
		got, synced := make(map[string]int), true // each channel may have a stream of its own
		for _, p := range last.Proxies {
			if p.LastNACK != "" {
				t.Fatalf("refused: %s", p.LastNACK)
			}
			for kind, sync := range p.Types {
				got[kind] += len(sync.Resources)
			}
			synced = synced && p.Synced
		}
		// Each cluster brings its endpoints, but for those behind a name.
		named := slices.ContainsFunc(set.Services, func(s *policy.Document[policy.ServiceSpec]) bool { return s.Spec.Endpoints.DNS != nil })
		if synced && got["Listener"] == len(view[xds.ListenerType]) && got["RouteConfiguration"] >= len(view[xds.RouteType]) &&
			got["Cluster"] > 0 && (named || got["ClusterLoadAssignment"] == got["Cluster"]) {
			return got["Cluster"]
		}
	}
	t.Fatalf("not all was taken: %+v", last.Proxies)
	return 0
}
