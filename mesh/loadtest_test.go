package mesh_test

import (
	"regexp"
	"slices"
	"strings"
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
	set := load(t, loadTests)
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

// TestStoppedLoadTest: what it would take is refused, marks of earlier hops and all, and nothing is counted; the others go
// on, and so does this one when it is edited.
func TestStoppedLoadTest(t *testing.T) {
	text := strings.Replace(loadTests, "requests: 3}", "requests: 3, stopWhen: {errors: 1}}, mirror: [{percent: 1}], rateLimit: {requests: 1, per: second}", 1)
	set := load(t, text)
	now := time.Date(2026, 11, 30, 17, 0, 0, 0, time.UTC)
	tests := mesh.LoadTests(set, now)
	if len(tests) != 3 || tests[0].StopWhen != nil || tests[2].Rule != "third" || *tests[2].StopWhen.Errors != 1 ||
		time.Duration(*tests[2].StopWhen.Window) != 10*time.Second || *tests[2].StopWhen.MinRequests != 100 ||
		tests[2].LimitID != "loadtest/r/third" || tests[1].LimitID != "" || !slices.Equal(tests[2].Real, []string{"s"}) {
		t.Fatalf("%+v", tests)
	}
	if n := len(mesh.LoadTests(set, now.Add(time.Hour))); n != 2 {
		t.Errorf("%d load tests after the first is over, want 2", n)
	}
	var resolver mesh.Resolver
	if n := len(resolver.At(set, now).Limits); n != 3 {
		t.Errorf("%d limits, want 3", n)
	}
	resolver.Stopped = map[mesh.LoadTestID]bool{tests[2].ID: true}
	m := resolver.At(set, now)
	r := m.Services[0].Rules[2]
	if r.Name != "third" || r.LoadTest == nil || r.DirectResponse == nil || r.DirectResponse.Status != 429 || len(r.To)+len(r.Mirror)+len(r.Global) > 0 || len(m.Limits) != 1 {
		t.Errorf("the stopped rule is %+v, with limits %v", r, m.Limits)
	}
	if n := len(m.Services[0].Rules[0].To); n != 1 {
		t.Errorf("another one goes to %d", n)
	}
	edited := load(t, strings.Replace(text, "errors: 1", "errors: 2", 1))
	if r := resolver.At(edited, now).Services[0].Rules[2]; r.DirectResponse != nil {
		t.Errorf("edited, it is %+v", r)
	}
	if has, route := mesh.HasLoadTest(set, tests[2].ID); !has || !route {
		t.Error("the set has it")
	}
	if has, route := mesh.HasLoadTest(edited, tests[2].ID); has || !route {
		t.Error("the edited set has it no more")
	}
}

// TestWritten: what tells a load test from an edited one outlives this version of Weir, and sees what an alias stands for.
func TestWritten(t *testing.T) {
	written := func(name string) uint64 {
		set := load(t, strings.SplitAfter(loadTests, "rules:")[0]+` [
			{name: a, match: &m {headers: [{name: `+name+`, present: true}]}, loadTest: {requests: 3}},
			{name: b, match: *m, loadTest: {requests: 1}}]`)
		if got, want := mesh.LoadTests(set, time.Time{})[0].ID.Written, uint64(12986531469363828916); name == "x" && got != want {
			t.Errorf("%d, and it was %d", got, want)
		}
		return mesh.LoadTests(set, time.Time{})[1].ID.Written
	}
	if written("x") == written("y") {
		t.Error("an alias hides an edit")
	}
}

func load(t *testing.T, text string) *policy.Set {
	t.Helper()
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return set
}
