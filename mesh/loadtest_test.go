package mesh_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const loadTests = `
kind: Service
metadata: {name: s}
spec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}
---
kind: Route
metadata: {name: r}
spec:
  service: s
  rules:
    - {name: first, match: {path: {prefix: /a}, methods: [GET], query: [{name: q, present: true}]}, loadTest: {until: 2026-11-30T18:00:00Z, requests: 7}}
    - {name: second, match: {headers: [{name: x, present: true}]}, loadTest: {until: 2026-11-30T20:00:00+01:00}}
    - {name: third, match: {headers: [{name: x, present: true}]}, loadTest: {requests: 3}}
    - {name: default}
`

// TestLoadTestsEnd: each at its own time, to the nanosecond, together with its limit; and a set as it is written has all.
func TestLoadTestsEnd(t *testing.T) {
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(loadTests)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	end := time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		now   time.Time
		first string
		limit int
		next  time.Time
		ended bool
	}{
		{time.Time{}, "first", 2, end, false},
		{end.Add(-1), "first", 2, end, false},
		{end, "second", 1, end.Add(time.Hour), true},
		{end.Add(time.Hour - 1), "second", 1, end.Add(time.Hour), true},
		{end.Add(time.Hour), "third", 1, time.Time{}, true},
		{end.Add(1000 * time.Hour), "third", 1, time.Time{}, true},
	} {
		m := mesh.At(set, c.now)
		if got := m.Services[0].Rules[0].Name; got != c.first || len(m.Limits) != c.limit {
			t.Errorf("at %s the first rule is %s, with %d limits; want %s and %d", c.now, got, len(m.Limits), c.first, c.limit)
		}
		if next, over := mesh.NextEnd(set, c.now), mesh.AnyEnded(set, c.now); !next.Equal(c.next) || over != c.ended {
			t.Errorf("at %s the next end is %s, ended %t; want %s, %t", c.now, next, over, c.next, c.ended)
		}
	}
	if l := mesh.Build(set).Limits[0]; l.ID != "loadtest/r/first" || l.Requests != 7 || l.Burst != 7 || l.Per != mesh.Ever {
		t.Errorf("a load test's limit is %+v", l)
	}
}

// TestMarked: the mark in the baggage stands for what tells load from real requests, and for nothing else.
func TestMarked(t *testing.T) {
	r := build(t, loadTests).Services[0].Rules[0]
	m := r.Marked()
	if *m.Path.Prefix != "/a" || len(m.Methods) != 1 || len(m.Query) != 0 || len(m.Headers) != 1 || m.Headers[0].Name != "baggage" {
		t.Errorf("a marked request is matched by %+v", m)
	}
	mark := regexp.MustCompile("^(?:" + *m.Headers[0].Regex + ")$")
	for baggage, want := range map[string]bool{
		"weir.load-test=1": true, "weir.load-test = 1": true, "a=b,weir.load-test=1": true, "a=b , weir.load-test=1;p=q, c=d": true,
		"weir.load-test=1,weir.load-test=2": true, "weir.load-test=10": false, "weir.load-test=0": false, "a.weir.load-test=1": false,
		"a=weir.load-test=1": false, "weir-load-test=1": false, "": false,
	} {
		if got := mark.MatchString(baggage); got != want {
			t.Errorf("%q: %t, want %t", baggage, got, want)
		}
	}
}
