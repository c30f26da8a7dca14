package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// observations is what the demo has seen.
type observations struct {
	elapsed time.Duration
	counts  counts
	edit    edit
	classes map[string]spans
	archive archived
	ended   []string // parts that have ended, though nobody told them to
}

// edit is the change of policy that the demo makes by itself.
type edit struct {
	saved time.Time     // zero: not yet
	took  time.Duration // from saving to the first answer by it; 0: not seen yet
}

// effect is one thing that the demo promises.
type effect struct {
	what string
	seen bool
	how  string
}

// canaryShares are per cent to v2 by generation of the route, as the documents say before and after the edit.
var canaryShares = map[string]float64{"1": 10, "2": 50}

// class is what the documents say of a class of spans, and how many of it one trace has at most.
type class struct {
	percent  float64
	perTrace int // a trace is kept or dropped whole, so that this many spans are one draw
}

// classes are examples/demo's. The proxies' own spans are of no Service, and so of the class default.
var classes = map[string]class{
	"main": {20, 6}, "api": {30, 4}, "background": {5, 4}, "health": {1, 4}, "executions": {50, 4}, "default": {20, 3},
}

// judge says which of the promised effects were seen.
func judge(o observations) []effect {
	effects := []effect{
		canary(o, "1", "canary split 90/10"),
		canary(o, "2", "canary split 50/50 after the edit"),
		{"rate limit answers 429", o.counts.limited > 0 && o.counts.passed > 0, fmt.Sprintf("%d refused, %d let through", o.counts.limited, o.counts.passed)},
		{"policy edit takes effect", o.edit.took > 0, fmt.Sprintf("%s from saving the file to the first answer by it", o.edit.took.Round(time.Millisecond))},
		{"no request lost", o.counts.requests > 0 && o.counts.failed == 0, lost(o.counts)},
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		effects = append(effects, kept(name, o.classes[name]))
	}
	return append(
		effects,
		effect{"traces archived in S3", o.archive.objects > 0 && o.archive.decoded > 0, archiveText(o.archive)},
		effect{"every part runs to the end", len(o.ended) == 0, parts(o.ended)},
	)
}

func lost(c counts) string {
	text := fmt.Sprintf("%d requests, %d failed", c.requests, c.failed)
	if c.firstFailure != "" {
		text += ", the first: " + c.firstFailure
	}
	return text
}

func parts(ended []string) string {
	if len(ended) == 0 {
		return "all run"
	}
	return "ended: " + strings.Join(ended, ", ")
}

func canary(o observations, generation, what string) effect {
	versions := o.counts.byVersion[generation]
	n := versions["v1"] + versions["v2"]
	if n == 0 {
		return effect{what, false, "no requests"}
	}
	want := canaryShares[generation] / 100
	got := float64(versions["v2"]) / float64(n)
	bound := 4 * math.Sqrt(want*(1-want)/float64(n))
	return effect{what, math.Abs(got-want) <= bound, fmt.Sprintf("%.1f %% of %d to v2, within %.1f of %.0f expected", 100*got, n, 100*bound, 100*want)}
}

// kept holds the share to 4 standard errors, of the case where each trace has as many spans as it can have.
func kept(name string, s spans) effect {
	what := "sampling of class " + name
	if s.in == 0 {
		return effect{what, false, "no spans"}
	}
	want := classes[name].percent / 100
	got := float64(s.kept) / float64(s.in)
	bound := 4 * math.Sqrt(want*(1-want)*float64(classes[name].perTrace)/float64(s.in))
	return effect{what, s.kept > 0 && math.Abs(got-want) <= bound, fmt.Sprintf("%.1f %% of %d spans, within %.1f of %.0f expected", 100*got, s.in, 100*bound, 100*want)}
}
