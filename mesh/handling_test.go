package mesh_test

import "testing"

const handled = `
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  endpoints: {static: [{address: 10.0.0.1, port: 1}]}
  retries: {attempts: 3, perTry: 1s}
  hedge: {onPerTryTimeout: true}
  maintenance: {body: closed}
  cors: {allowOrigins: [https://a]}
  compression: {}
  maxRequestBytes: 1KB
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - name: own
      match: {path: {exact: /own}}
      retries: {attempts: 0}
      hedge: {onPerTryTimeout: false}
      maintenance: {body: own}
      cors: {allowOrigins: []}
      compression: {algorithms: []}
      maxRequestBytes: 0
    - name: services
`

// TestARuleHasItsOwnHandlingOrItsServices: a rule has its own of each, or the service's.
func TestARuleHasItsOwnHandlingOrItsServices(t *testing.T) {
	rules := checkout(t, build(t, handled)).Rules
	own, service := rules[0], rules[1]
	holds := func(what string, own, service bool) {
		t.Helper()
		if !own || !service {
			t.Errorf("%s: the rule's own %t, the service's %t", what, own, service)
		}
	}
	holds("retries", own.Retries == nil, service.Retries != nil && *service.Retries.Attempts == 3)
	holds("hedge", !own.Hedge.OnPerTryTimeout, service.Hedge.OnPerTryTimeout)
	holds("maintenance", own.Maintenance.Body == "own", service.Maintenance.Body == "closed")
	holds("cors", len(own.CORS.AllowOrigins) == 0, len(service.CORS.AllowOrigins) == 1)
	holds("compression", len(own.Compression.Algorithms) == 0, len(service.Compression.Algorithms) == 3)
	holds("maxRequestBytes", *own.MaxRequestBytes == 0, *service.MaxRequestBytes == 1000)
}

// TestAnswersAskNoGlobalLimit: Envoy asks of what is sent on only, and the model says no more.
func TestAnswersAskNoGlobalLimit(t *testing.T) {
	rules := checkout(t, build(t, `
kind: Service
metadata: {name: checkout, namespace: shop}
spec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec: {service: checkout, rules: [{redirect: {scheme: https}}, {directResponse: {status: 200}}, {name: rest}]}
---
kind: RateLimit
metadata: {name: all, namespace: shop}
spec: {service: checkout, limits: [{requests: 1, per: second}]}
`)).Rules
	for i, want := range []int{0, 0, 1} {
		if len(rules[i].Global) != want {
			t.Errorf("rule %d asks %d global limits, want %d", i, len(rules[i].Global), want)
		}
	}
}
