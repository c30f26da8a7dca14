package xds_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

var edge = mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}

func view(tb testing.TB, text string, p mesh.Proxy) xds.View {
	tb.Helper()
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: []byte(text)}}, nil)
	for _, p := range problems {
		tb.Fatal(p)
	}
	snapshot, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	v, ok := snapshot.View(p)
	if !ok {
		tb.Fatalf("no view of %s", p)
	}
	return v
}

// TestGolden holds each story against the resources that it must give, and the real Envoy against those.
func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		p := edge
		if strings.Contains(t.Name(), "sidecar") {
			p = mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "checkout"}}
		}
		if strings.Contains(t.Name(), "grpc-clients") { // whom e2e holds it against
			return byKind(t, view(t, string(files["policy.yaml"]), mesh.Proxy{Role: mesh.RoleGRPC, Ref: policy.Ref{Name: "web"}}))
		}
		v := view(t, string(files["policy.yaml"]), p)
		text, err := xds.Render(v, false)
		if err != nil {
			t.Fatal(err)
		}
		envoytest.Validate(t, static(t, text))
		return byKind(t, v)
	})
}

var wanted = map[string]string{
	xds.ClusterType: "clusters.yaml", xds.EndpointType: "endpoints.yaml", xds.ListenerType: "listeners.yaml", xds.RouteType: "routes.yaml",
	xds.SecretType: "secrets.yaml", xds.ExtensionType: "filters.yaml",
}

// byKind renders a view as one file a kind.
func byKind(t *testing.T, v xds.View) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	v, err := v.Whole()
	if err != nil {
		t.Fatal(err)
	}
	for kind, resources := range v {
		text, err := xds.Render(xds.View{kind: resources}, false)
		if err != nil {
			t.Fatal(err)
		}
		_, files[wanted[kind]], _ = bytes.Cut(text, []byte("\n")) // the first line is the type
	}
	return files
}

type object = map[string]any

// static makes a bootstrap that has the resources in itself, so that `envoy --mode validate` checks them.
func static(t *testing.T, rendered []byte) []byte {
	t.Helper()
	var all map[string][]object
	if err := yaml.Unmarshal(rendered, &all); err != nil {
		t.Fatal(err)
	}
	endpoints, routes := byName(all[xds.EndpointType], "cluster_name"), byName(all[xds.RouteType], "name")
	for _, c := range all[xds.ClusterType] {
		if c["type"] == "EDS" {
			name := xds.EndpointsOf(c["name"].(string))
			if s, ok := c["eds_cluster_config"].(object)["service_name"]; ok != (name != c["name"]) || ok && s != name {
				t.Fatalf("cluster %v has the endpoints of %v, want %s", c["name"], s, name)
			}
			delete(c, "eds_cluster_config")
			c["type"] = "STATIC"
			if c["load_assignment"] = endpoints[name]; endpoints[name] == nil {
				t.Fatalf("cluster %v has no endpoints resource", c["name"])
			}
		}
	}
	extensions := byName(all[xds.ExtensionType], "name")
	for _, l := range all[xds.ListenerType] {
		chain := l["filter_chains"].([]any)[0].(object)
		inPlace(chain)
		hcm := chain["filters"].([]any)[0].(object)["typed_config"].(object)
		for _, f := range hcm["http_filters"].([]any) {
			f := f.(object)
			if f["config_discovery"] == nil {
				continue
			}
			if extensions[f["name"]] == nil {
				t.Fatalf("listener %v has a filter %v without a resource", l["name"], f["name"])
			}
			delete(f, "config_discovery")
			f["typed_config"] = extensions[f["name"]]["typed_config"]
		}
		name := hcm["rds"].(object)["route_config_name"]
		if routes[name] == nil {
			t.Fatalf("listener %v has no route configuration %v", l["name"], name)
		}
		// In a bootstrap Envoy checks that all clusters are there that routes name.
		delete(routes[name], "validate_clusters")
		hcm["route_config"] = routes[name]
		delete(hcm, "rds")
	}
	var secrets []object
	for _, s := range all[xds.SecretType] {
		cert, key := certificate(t)
		secrets = append(secrets, object{"name": s["name"], "tls_certificate": object{
			"certificate_chain": object{"inline_string": cert}, "private_key": object{"inline_string": key},
		}})
	}
	// As with --peers of weir bootstrap, for fair shares.
	clusters := append(all[xds.ClusterType], object{"name": "weir/peers", "load_assignment": object{"cluster_name": "weir/peers"}})
	text, err := yaml.Marshal(object{"cluster_manager": object{"local_cluster_name": "weir/peers"}, "static_resources": object{
		"clusters": clusters, "listeners": all[xds.ListenerType], "secrets": secrets,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// inPlace makes a filter chain take its certificate from the bootstrap.
func inPlace(chain object) {
	socket, ok := chain["transport_socket"].(object)
	if !ok {
		return
	}
	config := socket["typed_config"].(object)
	if inner, ok := config["downstream_tls_context"].(object); ok {
		config = inner
	}
	for _, s := range config["common_tls_context"].(object)["tls_certificate_sds_secret_configs"].([]any) {
		delete(s.(object), "sds_config")
	}
}

// certificate makes one, for its files are not where Envoy would look for them.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func byName(all []object, field string) map[any]object {
	named := make(map[any]object)
	for _, one := range all {
		named[one[field]] = one
	}
	return named
}

// services is n services with routes, behind the gateway edge. The weights are of the first one's route.
func services(n, weight int) string {
	var b strings.Builder
	b.WriteString("kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: http, port: 8080}]}\n")
	for i := range n {
		fmt.Fprintf(&b, `---
kind: Service
metadata: {name: s%d, namespace: shop}
spec:
  versions: [{name: v1}, {name: v2}]
  endpoints:
    static:
      - {address: 10.0.0.1, port: %d, labels: {version: v1}}
      - {address: 10.0.0.2, port: %d, labels: {version: v2}}
---
kind: Route
metadata: {name: s%d, namespace: shop}
spec:
  service: s%d
  rules: [{name: all, to: [{version: v1, weight: %d}, {version: v2, weight: 10}]}]
`, i, 1000+i, 1000+i, i, i, weight)
		weight = 90
	}
	return b.String()
}

// TestSidecarsDifferInTheirListenerOnly: a listener says whose requests it takes, and all else is shared.
func TestSidecarsDifferInTheirListenerOnly(t *testing.T) {
	text := services(3, 90)
	one := view(t, text, mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "s0"}})
	two := view(t, text, mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "s1"}})
	for _, kind := range []string{xds.ClusterType, xds.EndpointType, xds.RouteType, xds.VirtualHostType} {
		names := func(v xds.View) map[string]string { return versions(xds.View{kind: v[kind]}) }
		if !maps.Equal(names(one), names(two)) {
			t.Errorf("%s: %v and %v", kind, names(one), names(two))
		}
	}
	if a, b := one[xds.ListenerType], two[xds.ListenerType]; len(a) != 1 || len(b) != 1 || a[0].Name != "outbound/shop/s0" || b[0].Name != "outbound/shop/s1" {
		t.Errorf("listeners %v and %v", a, b)
	}
}

func versions(v xds.View) map[string]string {
	all := make(map[string]string)
	for kind, resources := range v {
		for _, r := range resources {
			all[kind+" "+r.Name] = r.Version
		}
	}
	return all
}

func TestOneEditChangesOneResource(t *testing.T) {
	base := services(20, 90)
	before := versions(view(t, base, edge))
	routes := []string{xds.VirtualHostType + " gateway/edge/http/shop.s0"}
	want := map[string][]string{
		"weight": routes, "timeout": routes, "header": routes,
		"local limit": {xds.ExtensionType + " weir.local_ratelimit.rule/gateway/edge/http", routes[0]},
		"endpoint":    {xds.EndpointType + " shop/s3/v1"},
		// Not the listener, whose connections would have to end.
		"first global limit": {xds.ClusterType + " weir/ratelimit", routes[0]},
	}
	rule := func(more string) string { return strings.Replace(base, "{name: all,", "{name: all, "+more+",", 1) }
	for what, edited := range map[string]string{
		"nothing":            base,
		"weight":             services(20, 80),
		"timeout":            rule("timeout: 3s"),
		"header":             rule("requestHeaders: {set: {x-env: prod}}"),
		"local limit":        rule("rateLimit: {requests: 5, per: second, scope: local}"),
		"first global limit": rule("rateLimit: {requests: 5, per: second}"),
		"endpoint":           strings.Replace(base, "{address: 10.0.0.1, port: 1003", "{address: 10.9.9.9, port: 1003", 1),
	} {
		var changed []string
		for name, version := range versions(view(t, edited, edge)) {
			if before[name] != version {
				changed = append(changed, name)
			}
		}
		slices.Sort(changed)
		if !slices.Equal(changed, want[what]) {
			t.Errorf("an edit of %s changes %v, want %v", what, changed, want[what])
		}
	}
}

func BenchmarkTranslate(b *testing.B) {
	set, problems := policy.Load([]policy.File{{Name: "p", Data: []byte(services(1000, 90))}}, nil)
	if len(problems) > 0 {
		b.Fatal(problems[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := xds.Translate(mesh.Build(set), xds.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestABadRateLimitAddressIsAnError(t *testing.T) {
	limit := "---\nkind: RateLimit\nmetadata: {name: l, namespace: shop}\nspec: {service: s0, limits: [{requests: 1, per: second}]}\n"
	set, problems := policy.Load([]policy.File{{Name: "p", Data: []byte(services(1, 90) + limit)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	for _, address := range []string{"somewhere", "host:http", "host:70000"} {
		if _, err := xds.Translate(mesh.Build(set), xds.Options{RateLimitAddress: address}); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := xds.Translate(mesh.Build(set), xds.Options{RateLimitAddress: "[::1]:18001"}); err != nil {
		t.Error(err)
	}
}

func TestRenderAsJSON(t *testing.T) {
	text, err := xds.Render(view(t, services(1, 90), edge), true)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]object
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if got := all[xds.ListenerType][0]["per_connection_buffer_limit_bytes"]; got != 1048576.0 || len(all) != len(xds.Types)-2 {
		t.Errorf("%v, of %d types", got, len(all))
	}
}
