package main

import (
	"errors"
	"testing"
	"time"
)

func good() observations {
	return observations{
		counts: counts{
			requests: 1000, limited: 20, passed: 30,
			byVersion: map[string]map[string]int{"1": {"v1": 900, "v2": 100}, "2": {"v1": 500, "v2": 500}},
		},
		edit: edit{took: 30 * time.Millisecond},
		classes: map[string]spans{
			"main": {1000, 200}, "api": {1000, 300}, "background": {1000, 50}, "health": {1000, 10}, "executions": {1000, 500}, "default": {1000, 200},
		},
		archive: archived{objects: 3, decoded: 40},
	}
}

func TestJudge(t *testing.T) {
	for _, e := range judge(good()) {
		if !e.seen {
			t.Errorf("%s is missing: %s", e.what, e.how)
		}
	}
	for what, spoil := range map[string]func(*observations){
		"canary split 90/10":                func(o *observations) { o.counts.byVersion["1"]["v2"] = 900 },
		"canary split 50/50 after the edit": func(o *observations) { o.counts.byVersion["2"] = nil },
		"rate limit answers 429":            func(o *observations) { o.counts.limited = 0 },
		"policy edit takes effect":          func(o *observations) { o.edit.took = 0 },
		"no request lost":                   func(o *observations) { o.counts.failed = 1 },
		"sampling of class api":             func(o *observations) { o.classes["api"] = spans{1000, 990} },
		"sampling of class health":          func(o *observations) { o.classes["health"] = spans{1000, 0} },
		"sampling of class main":            func(o *observations) { o.classes["main"] = spans{} },
		"every part runs to the end":        func(o *observations) { o.ended = []string{"weir"} },
		"traces archived in S3":             func(o *observations) { o.archive = archived{err: errors.New("gone")} },
	} {
		o := good()
		spoil(&o)
		for _, e := range judge(o) {
			if e.seen == (e.what == what) {
				t.Errorf("with %q spoiled, %q is seen: %v (%s)", what, e.what, e.seen, e.how)
			}
		}
	}
}

func TestParseSampling(t *testing.T) {
	got := parseSampling(`# TYPE weir_sampling_spans_total counter
otelcol_weir_sampling_spans_total{class="api",decision="kept",otel_scope_name="x"} 30
otelcol_weir_sampling_spans_total{class="api",decision="dropped",otel_scope_name="x"} 70
other{class="api"} 5
`)
	if want := (spans{in: 100, kept: 30}); got["api"] != want || len(got) != 1 {
		t.Errorf("got %v, want api %v", got, want)
	}
}
