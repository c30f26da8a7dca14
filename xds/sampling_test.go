package xds

import (
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// TestOneShareMakesOneVirtualHostAnew: what collectors have learnt of a route changes the virtual hosts of its service
// and nothing else, and only while it is another share.
func TestOneShareMakesOneVirtualHostAnew(t *testing.T) {
	set, problems := policy.Load([]policy.File{{Name: "a.yaml", Data: []byte(`
kind: Mesh
metadata: {name: mesh}
spec: {tracing: {collector: "127.0.0.1:4317", percent: 50}}
---
kind: Gateway
metadata: {name: edge}
spec: {listeners: [{name: http, port: 8080, protocol: http}], services: ["shop/*"]}
---
kind: Service
metadata: {name: a, namespace: shop}
spec: {hosts: [a], endpoints: {static: [{address: 127.0.0.1, port: 9}]}}
---
kind: Service
metadata: {name: b, namespace: shop}
spec: {hosts: [b], endpoints: {static: [{address: 127.0.0.1, port: 9}]}}
---
kind: Sampling
metadata: {name: default}
spec: {adaptive: {spansPerSecond: 10}}
`)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	model := mesh.Build(set)
	if !model.Thinned {
		t.Fatal("the model does not say that proxies are to make less")
	}
	edge := mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}
	var overlay mesh.Overlay
	translator := NewTranslator(Options{})
	at := func(percents map[string]float64) map[string]*Resource {
		t.Helper()
		s, err := translator.Translate(overlay.Over(model, percents))
		if err != nil {
			t.Fatal(err)
		}
		v, ok := s.View(edge)
		if !ok {
			t.Fatal("the gateway has no view")
		}
		all := map[string]*Resource{}
		for kind, resources := range v {
			for _, r := range resources {
				all[kind+" "+r.Name] = r
			}
		}
		return all
	}
	before := at(nil)
	for _, tt := range []struct {
		percent     float64
		numerator   uint32 // of 10,000; 0: the mesh's own
		wantChanged int
	}{{3.13, 313, 1}, {3.13, 313, 0}, {100, 5000, 1}, {0, 0, 1}} {
		after := at(map[string]float64{"shop/a/default": tt.percent, "shop/gone/default": 1})
		changed := 0
		for name, r := range after {
			if r.Version == before[name].Version {
				continue
			}
			changed++
			var host routev3.VirtualHost
			if err := proto.Unmarshal(r.Body, &host); err != nil || r.Type != VirtualHostType {
				t.Fatalf("%s has changed: %v", name, err)
			}
			for _, route := range host.Routes {
				if got := route.GetTracing().GetRandomSampling().GetNumerator(); got != tt.numerator {
					t.Errorf("at %v %%: %v", tt.percent, route.Tracing)
				}
			}
		}
		if changed != tt.wantChanged {
			t.Errorf("at %v %%: %d resources have changed, want %d", tt.percent, changed, tt.wantChanged)
		}
		before = after
	}
}
