package loadtest

import (
	"slices"
	"time"

	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/mesh"
)

// Stop is that a load test stopped, and why.
type Stop struct {
	ID   mesh.LoadTestID
	Rule string
	At   time.Time
	Why  string
}

// Guard watches load tests. It is for one goroutine, and decides nothing but by what it is given.
type Guard struct {
	tests []*watched
	real  []string
}

// watched is a load test with a stopWhen.
type watched struct {
	mesh.LoadTest
	window window
	seen   loadreport.Counts // within the window
}

// Follow watches these load tests from now on, as far as something stops them. Of one that is watched already what has
// been seen stays, unless its real requests are others now.
func (g *Guard) Follow(tests []mesh.LoadTest) {
	before := g.tests
	g.tests, g.real = nil, nil
	for _, t := range tests {
		if t.StopWhen == nil {
			continue
		}
		w := &watched{}
		if i := slices.IndexFunc(before, func(o *watched) bool { return o.ID == t.ID && slices.Equal(o.Real, t.Real) }); i >= 0 {
			w = before[i]
		}
		w.LoadTest = t
		g.tests, g.real = append(g.tests, w), append(g.real, t.Real...)
	}
}

// Real gives the clusters of which totals are wanted.
func (g *Guard) Real() []string { return g.real }

// Look judges all load tests by what has been reported until now, and gives those that must stop.
func (g *Guard) Look(now time.Time, totals map[string]loadreport.Counts) []Stop {
	var stops []Stop
	for _, w := range g.tests {
		var total loadreport.Counts
		for _, cluster := range w.Real {
			total = total.Add(totals[cluster])
		}
		w.seen = w.window.add(now, time.Duration(*w.StopWhen.Window), total)
		if why := judge(w.StopWhen, w.seen); why != "" {
			stops = append(stops, Stop{ID: w.ID, Rule: w.Rule, At: now, Why: why})
		}
	}
	return stops
}

// Seen gives how real requests fared within a load test's window at the last look.
func (g *Guard) Seen(id mesh.LoadTestID) loadreport.Counts {
	for _, w := range g.tests {
		if w.ID == id {
			return w.seen
		}
	}
	return loadreport.Counts{}
}
