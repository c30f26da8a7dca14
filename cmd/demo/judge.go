package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// observations is what the demo has seen.
type observations struct {
	elapsed time.Duration
	counts  counts
	edit    edit
	classes map[string]spans
	archive archived
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

// classRates are examples/demo's.
var classRates = map[string]float64{"main": 20, "api": 30, "background": 5, "health": 1, "executions": 50}

const spansPerTrace = 8 // of one class, at most: spans of a trace are kept together, so that they count as one draw

// judge says which of the promised effects were seen.
func judge(o observations) []effect {
	effects := []effect{
		canary(o, "1", "canary split 90/10"),
		canary(o, "2", "canary split 50/50 after the edit"),
		{"rate limit answers 429", o.counts.limited > 0 && o.counts.passed > 0, fmt.Sprintf("%d refused, %d let through", o.counts.limited, o.counts.passed)},
		{"policy edit takes effect", o.edit.took > 0, fmt.Sprintf("%s from saving the file to the first answer by it", o.edit.took.Round(time.Millisecond))},
		{"no request lost", o.counts.requests > 0 && o.counts.failed == 0, fmt.Sprintf("%d requests, %d failed %s", o.counts.requests, o.counts.failed, o.counts.firstFailure)},
	}
	for _, class := range slices.Sorted(maps.Keys(classRates)) {
		effects = append(effects, kept(class, o.classes[class]))
	}
	archiveText := fmt.Sprintf("%d objects; one read back holds %d spans", o.archive.objects, o.archive.decoded)
	if o.archive.err != nil {
		archiveText = o.archive.err.Error()
	}
	return append(effects, effect{"traces archived in S3", o.archive.objects > 0 && o.archive.decoded > 0, archiveText})
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

func kept(class string, s spans) effect {
	what := "sampling of class " + class
	if s.in == 0 {
		return effect{what, false, "no spans"}
	}
	want := classRates[class] / 100
	got := float64(s.kept) / float64(s.in)
	bound := 4*math.Sqrt(want*(1-want)*spansPerTrace/float64(s.in)) + 1e-9
	return effect{what, math.Abs(got-want) <= bound, fmt.Sprintf("%.1f %% of %d spans, within %.1f of %.0f expected", 100*got, s.in, 100*bound, 100*want)}
}
