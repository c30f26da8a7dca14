package mesh_test

import "testing"

func TestTheKeyOfARule(t *testing.T) {
	m := build(t, `
kind: Service
metadata: {name: checkout, namespace: shop}
spec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}, affinity: {header: x-service}}
---
kind: Service
metadata: {name: plain, namespace: shop}
spec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}
---
kind: Route
metadata: {name: r, namespace: shop}
spec:
  service: checkout
  rules:
    - {name: service}
    - {name: own, sticky: {header: x-rule}}
    - {name: elsewhere, to: [{service: plain}]}
    - {name: both, to: [{service: plain}, {service: checkout}]}
    - {name: answers, redirect: {scheme: https}}
`)
	for _, r := range checkout(t, m).Rules {
		got := ""
		if r.Key != nil {
			got = r.Key.Header
		}
		want := map[string]string{"service": "x-service", "own": "x-rule", "both": "x-service"}[r.Name]
		if got != want {
			t.Errorf("rule %s has the key %q, want %q", r.Name, got, want)
		}
	}
}
