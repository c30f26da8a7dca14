package mesh_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const documents = `
kind: Gateway
metadata: {name: edge}
spec: {listeners: [{name: z, port: 2}, {name: a, port: 1}], services: ["shop/*"]}
---
kind: Gateway
metadata: {name: all}
spec: {listeners: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: search, namespace: find}
spec: {port: 8080, endpoints: {dns: {name: search.internal}}}
---
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  port: 9000
  versions: [{name: v2}, {name: green, selector: {colour: green}}]
  endpoints:
    static:
      - {address: 10.0.0.2, zone: b, labels: {version: v2}}
      - {address: 10.0.0.1, port: 1, zone: b, labels: {version: v2, colour: green}}
      - {address: 10.0.0.9, zone: a}
      - {address: 10.0.0.9, zone: a}
  timeout: 3s
  retries: {attempts: 5}
---
kind: Route
metadata: {name: paths, namespace: shop}
spec:
  service: checkout
  rules:
    - {name: find, match: {path: {prefix: /find}}, to: [{service: find/search}], timeout: 0s, retries: {attempts: 1}}
    - {to: [{version: v2, weight: 9}, {weight: 0}], rateLimit: {requests: 7, per: minute, by: [{header: X-A}, {header: x-a}]}}
    - {name: local, rateLimit: {requests: 0, per: day, scope: local}}
---
kind: RateLimit
metadata: {name: a, namespace: shop}
spec:
  service: checkout
  onError: deny
  limits: [{requests: 100, per: hour, burst: 5, shadow: true}]
---
kind: RateLimit
metadata: {name: b, namespace: find}
spec: {service: search, scope: local, limits: [{requests: 3, per: second, by: [{remoteAddress: true}]}]}
`

func build(t *testing.T, text string) *mesh.Model {
	t.Helper()
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return mesh.Build(set)
}

func checkout(t *testing.T, m *mesh.Model) *mesh.Service {
	t.Helper()
	i := slices.IndexFunc(m.Services, func(s *mesh.Service) bool { return s.Ref.String() == "shop/checkout" })
	if i < 0 {
		t.Fatal("no service shop/checkout")
	}
	return m.Services[i]
}

func TestGatewaysServeWhatTheirPatternsMatch(t *testing.T) {
	m := build(t, documents)
	got := make(map[string][]string)
	for _, g := range m.Gateways {
		for _, s := range g.Services {
			got[g.Ref.String()] = append(got[g.Ref.String()], s.Ref.String())
		}
	}
	want := map[string][]string{"edge": {"shop/checkout"}, "all": {"find/search", "shop/checkout"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("gateways serve %v, want %v", got, want)
	}
	if l := m.Gateways[1].Listeners; l[0].Name != "a" || l[1].Name != "z" {
		t.Errorf("listeners are not sorted: %v", l)
	}
}

func TestSubsetsAreTheEndpointsThatASelectorSelects(t *testing.T) {
	got := make(map[string]string)
	for _, sub := range checkout(t, build(t, documents)).Subsets {
		got[sub.Name] = fmt.Sprint(sub.Endpoints)
	}
	want := map[string]string{ // by zone, address and port, and each once
		"shop/checkout":       "[{10.0.0.9 9000 a} {10.0.0.1 1 b} {10.0.0.2 9000 b}]",
		"shop/checkout/green": "[{10.0.0.1 1 b}]",
		"shop/checkout/v2":    "[{10.0.0.1 1 b} {10.0.0.2 9000 b}]",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("subsets %v, want %v", got, want)
	}
}

func TestRulesAreComplete(t *testing.T) {
	rules := checkout(t, build(t, documents)).Rules
	for i, want := range []struct {
		name     string
		to       []mesh.Share
		timeout  time.Duration
		attempts int
	}{
		{"find", []mesh.Share{{Subset: "find/search", Weight: 1}}, 0, 1},
		{"rule-1", []mesh.Share{{Subset: "shop/checkout/v2", Weight: 9}, {Subset: "shop/checkout"}}, 3 * time.Second, 5},
		{"local", []mesh.Share{{Subset: "shop/checkout", Weight: 1}}, 3 * time.Second, 5},
	} {
		r := rules[i]
		if r.Name != want.name || !slices.Equal(r.To, want.to) || r.Timeout != want.timeout || *r.Retries.Attempts != want.attempts {
			t.Errorf("rule %d is %+v, want %+v", i, r, want)
		}
	}
}

func TestAServiceWithoutARouteHasARuleForEverything(t *testing.T) {
	for _, s := range build(t, documents).Services {
		if s.Ref.String() != "find/search" {
			continue
		}
		if len(s.Rules) != 1 || s.Rules[0].Source.Kind != "Service" || s.Rules[0].To[0].Subset != "find/search" {
			t.Errorf("rules %+v", s.Rules)
		}
	}
}

func TestLimitsAreFoundWhereTheyHold(t *testing.T) {
	m := build(t, documents)
	s := checkout(t, m)
	var all []string
	for _, l := range m.Limits {
		all = append(all, fmt.Sprintf("%s %d %d/%s burst %d shadow %t", l.ID, len(l.By), l.Requests, l.Per, l.Burst, l.Shadow))
	}
	want := []string{
		"limit/shop/a/0 0 100/1h0m0s burst 5 shadow true",
		"route/shop/paths/rule-1 1 7/1m0s burst 7 shadow false", // by one header, written twice
	}
	if !slices.Equal(all, want) {
		t.Errorf("global limits\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
	}
	for i, want := range []string{"limit/shop/a/0 true", "route/shop/paths/rule-1 false limit/shop/a/0 true", "limit/shop/a/0 true"} {
		var got []string
		for _, l := range s.Rules[i].Global {
			got = append(got, fmt.Sprint(l.ID, " ", l.DenyOnError))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("rule %d asks about %v, want %s", i, got, want)
		}
	}
	if l := s.Rules[2].Local; len(l) != 1 || l[0].ID != "route/shop/paths/local" || l[0].Requests != 0 {
		t.Errorf("the rule's own local limits are %+v", l)
	}
	if l := m.Services[0].Local; len(l) != 1 || l[0].ID != "limit/find/b/0" || len(m.Services[0].Rules[0].Local) != 0 {
		t.Errorf("the service's local limits are %+v", l)
	}
}

// TestExceptions: a request is taken out of a limit only by one that takes it itself.
func TestExceptions(t *testing.T) {
	for limits, want := range map[string]string{
		`{by: [{header: X-T}]}, {by: [{header: x-t, exact: gold}]}`:                                         "[[x-t = gold]] []",
		`{by: [{header: x-t}]}, {by: [{header: x-t, exact: b}]}, {by: [{header: x-t, exact: a}]}`:           "[[x-t = a] [x-t = b]] [] []",
		`{by: [{header: x-t}]}, {by: [{header: x-t, exact: a}, {header: x-p, exact: b}]}`:                   "[[x-p = b and x-t = a]] []",
		`{by: [{header: x-t}]}, {by: [{header: x-u, exact: a}]}`:                                            "[] []",
		`{by: [{remoteAddress: true}]}, {by: [{header: x-u, exact: a}]}`:                                    "[] []",
		`{by: [{header: x-t}]}, {by: [{header: x-t, exact: a}], shadow: true}`:                              "[] []",
		`{by: [{header: x-t}], shadow: true}, {by: [{header: x-t, exact: a}], shadow: true}`:                "[[x-t = a]] []",
		`{by: [{header: x-t}, {remoteAddress: true}]}, {by: [{header: x-t, exact: a}, {header: x-t}]}`:      "[[x-t = a]] []",
		`{by: [{header: x-t}]}, {by: [{header: x-t, exact: a}]}, {by: [{header: x-t, exact: a}], burst: 9}`: "[[x-t = a]] [] []",
		`{by: [{header: x-t}]}, {by: [{header: x-t, prefix: g}]}, {by: [{header: x-t, exact: gold}]}`:       "[[x-t = g*] [x-t = gold]] [[x-t = gold]] []",
		`{by: [{header: x-t, suffix: d, share: true}]}, {by: [{header: x-t, regex: "go.d"}]}`:               "[] []",
		`{by: [{header: x-a, exact: a}, {header: x-b}]}, {by: [{header: x-b, exact: b}, {header: x-a}]}`:    "[] []", // else nobody would count both
		`{by: [{header: x-a, exact: a}, {header: x-b}]}, {by: [{header: x-b, exact: b}]}`:                   "[] []",
		`{by: [{header: x-a}, {header: x-b}]}, {by: [{header: x-a, regex: "a+"}]}`:                          "[[x-a ~ a+]] []",
	} {
		text := "kind: Service\nmetadata: {name: s}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}\n---\n" +
			"kind: RateLimit\nmetadata: {name: l}\nspec: {service: s, limits: [" + strings.ReplaceAll(limits, "{by", "{requests: 1, per: second, by") + "]}\n"
		var got []string
		for _, l := range build(t, text).Services[0].Rules[0].Global {
			var all []string
			for _, e := range l.Except {
				var conditions []string
				for _, by := range e {
					conditions = append(conditions, strings.ReplaceAll(by.Text(), `"`, ""))
				}
				all = append(all, "["+strings.Join(conditions, " and ")+"]")
			}
			got = append(got, fmt.Sprint(all))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: exceptions %v, want %s", limits, got, want)
		}
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	parts := strings.Split(documents, "---\n")
	slices.Reverse(parts)
	if a, b := build(t, documents), build(t, strings.Join(parts, "\n---\n")); !reflect.DeepEqual(a, b) {
		t.Error("the order of documents changes the model")
	}
}
