package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// TestReplicas: two processes that read the same documents, from other files in another order, serve the same bytes in
// the same versions, and a proxy that moves from one to the other is sent nothing.
func TestReplicas(t *testing.T) {
	files, err := filepath.Glob("../examples/demo/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	dirs := [2]string{t.TempDir(), t.TempDir()}
	for n, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		documents := strings.Split(string(text), "\n---\n")
		slices.Reverse(documents)
		for i, said := range [2]string{string(text), strings.Join(documents, "\n---\n")} {
			other := [2]int{n, len(files) - n}[i]
			if err := os.WriteFile(filepath.Join(dirs[i], fmt.Sprintf("%d.yaml", other)), []byte(said), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var replicas [2]*world
	for i, dir := range dirs {
		ports := freePorts(t, 3)
		replicas[i] = &world{t: t, dir: dir, http: "http://" + ports[2], client: http.DefaultClient, args: []string{
			"serve", "--policy", dir, "--xds-address", ports[0], "--ratelimit-address", ports[1], "--http-address", ports[2],
			"--ratelimit-dial", "127.0.0.1:18001", // one address for all, as behind a load balancer
		}}
		replicas[i].startWeir()
	}
	first := syncDelta(t, replicas[0], nil)
	if second := syncDelta(t, replicas[1], nil); !maps.EqualFunc(first, second, maps.Equal) {
		t.Errorf("the replicas differ:\n%v\n%v", first, second)
	}
	sent := replicas[1].metric("weir_xds_resources_sent_total")
	if sent == 0 {
		t.Fatal("nothing was sent to a new proxy")
	}
	syncDelta(t, replicas[1], first)
	if now := replicas[1].metric("weir_xds_resources_sent_total"); now != sent {
		t.Errorf("a proxy that moved was sent %v resources", now-sent)
	}
}

// syncDelta is a gateway that has versions and bytes of resources, by type and name, and gives those that it has then.
func syncDelta(t *testing.T, w *world, has map[string]map[string]string) map[string]map[string]string {
	t.Helper()
	conn, err := grpc.NewClient(w.args[4], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev3.Node{Id: "gateway~edge~" + filepath.Base(w.dir), UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
	}}
	kinds := []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.VirtualHostType}
	want := w.names()
	for _, kind := range kinds {
		r := &discoverysvcv3.DeltaDiscoveryRequest{Node: node, TypeUrl: kind, InitialResourceVersions: make(map[string]string)}
		for name, v := range has[kind] {
			r.InitialResourceVersions[name], _, _ = strings.Cut(v, " ")
		}
		if kind == xds.EndpointType || kind == xds.RouteType {
			r.ResourceNamesSubscribe = want[kind]
		}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		node = nil
	}
	got := make(map[string]map[string]string)
	complete := func() bool {
		for _, kind := range kinds {
			if len(got[kind])+len(has[kind]) < len(want[kind]) {
				return false
			}
		}
		return true
	}
	for !complete() {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range r.Resources {
			if got[r.TypeUrl] == nil {
				got[r.TypeUrl] = make(map[string]string)
			}
			got[r.TypeUrl][one.Name] = one.Version + " " + string(one.Resource.Value)
		}
		if err := stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the gateway is in order", func() error {
		resp, err := w.client.Get(w.http + "/api/v1/status")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var s struct{ XDS serve.Status }
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			return err
		}
		for _, p := range s.XDS.Proxies {
			if p.Synced && len(p.Types["VirtualHost"].Resources) == len(want[xds.VirtualHostType]) && len(p.Types["Cluster"].Resources) == len(want[xds.ClusterType]) {
				return nil
			}
		}
		return fmt.Errorf("proxies: %+v", s.XDS.Proxies)
	})
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	return got
}

// names are those of the resources of the gateway edge, by type.
func (w *world) names() map[string][]string {
	w.t.Helper()
	var files []policy.File
	names, err := filepath.Glob(w.dir + "/*.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		files = append(files, policy.File{Name: name, Data: text})
	}
	set, problems := policy.Load(files, nil)
	for _, p := range problems {
		w.t.Error(p)
	}
	snapshot, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	view, ok := snapshot.View(mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}})
	if !ok {
		w.t.Fatal("no view of the gateway")
	}
	all := make(map[string][]string)
	for kind, resources := range view {
		for _, r := range resources {
			all[kind] = append(all[kind], r.Name)
		}
	}
	return all
}
