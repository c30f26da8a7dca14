package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
)

// The states of a load test.
const (
	testRuns    = "running"
	testStopped = "stopped" // before its time, since real requests suffered
	testOver    = "over"
)

// loadTestStatus is how a load test stands.
type loadTestStatus struct {
	Route    string      `json:"route"`
	Rule     string      `json:"rule"`
	State    string      `json:"state"`
	Since    *time.Time  `json:"since,omitempty"`    // when it stopped, or was over
	Why      string      `json:"why,omitempty"`      // it stopped
	Until    *time.Time  `json:"until,omitempty"`    // null: no time is set
	Requests *counter    `json:"requests,omitempty"` // null: they are not counted
	Real     *realStatus `json:"real,omitempty"`     // null: real requests are not watched
	limit    string
}

// counter is how far a load test is whose requests are counted.
type counter struct {
	Passed uint64 `json:"passed"` // since Weir started
	Of     uint64 `json:"of"`
}

// realStatus is how real requests fared lately, as far as proxies say.
type realStatus struct {
	Window      string  `json:"window"`
	Requests    uint64  `json:"requests"` // that have an outcome
	Failed      uint64  `json:"failed"`
	MeanLatency float64 `json:"meanLatencySeconds"` // 0 of no requests
	MinRequests int     `json:"minRequests"`        // with fewer nothing is judged
	Proxies     int     `json:"proxies"`            // connected
	Reporting   int     `json:"reporting"`          // of those
}

// watch has proxies report what is needed for the load tests of a set, and says whether any of them is watched.
func (p *plane) watch(set *policy.Set, now time.Time) bool {
	tests := mesh.LoadTests(set, now)
	p.guard.Follow(slices.DeleteFunc(slices.Clone(tests), func(t mesh.LoadTest) bool { return p.resolver.Stopped[t.ID] }))
	p.reports.Ask(p.guard.Real())
	p.noteLoadTests(set, now)
	return len(p.guard.Real()) > 0
}

// look stops load tests from which real requests suffer, and says whether there are any.
func (p *plane) look(set *policy.Set, now time.Time) bool {
	stops := p.guard.Look(now, p.reports.Totals())
	for _, s := range stops {
		p.log.Warn("a load test has stopped: real requests suffered. It stays so until its rule is edited", "route", s.ID.Route.String(), "rule", s.Rule, "why", s.Why)
		p.stopped.Inc()
	}
	p.stops.Add(stops)
	p.noteLoadTests(set, now)
	return len(stops) > 0
}

// noteLoadTests keeps how all load tests of a set stand, for whoever asks.
func (p *plane) noteLoadTests(set *policy.Set, now time.Time) {
	all := []loadTestStatus{}
	for _, t := range mesh.LoadTests(set, time.Time{}) {
		all = append(all, p.loadTest(&t, now))
	}
	for _, state := range []string{testRuns, testStopped, testOver} {
		n := 0
		for i := range all {
			if all[i].State == state {
				n++
			}
		}
		p.tests.WithLabelValues(state).Set(float64(n))
	}
	p.loadTests.Store(&all)
}

func (p *plane) loadTest(t *mesh.LoadTest, now time.Time) loadTestStatus {
	s := loadTestStatus{Route: t.ID.Route.String(), Rule: t.Rule, State: testRuns, limit: t.LimitID}
	if !t.Until.IsZero() {
		s.Until = &t.Until
	}
	stop, stopped := p.stops.Of(t.ID)
	switch {
	case !t.Until.IsZero() && !now.Before(t.Until):
		s.State, s.Since, s.limit = testOver, s.Until, ""
	case stopped:
		s.State, s.Since, s.Why, s.limit = testStopped, &stop.At, stop.Why, ""
	case t.StopWhen != nil:
		seen := p.guard.Seen(t.ID)
		s.Real = &realStatus{
			Window: t.StopWhen.Window.Text(), Requests: seen.Ended(), Failed: seen.Failed,
			MeanLatency: seen.MeanLatency().Seconds(), MinRequests: *t.StopWhen.MinRequests,
		}
		s.Real.Proxies, s.Real.Reporting = p.reports.Reporting(now)
	}
	return s
}

// counted gives load tests with how far they are, by what their limits say.
func counted(tests []loadTestStatus, limits []ratelimit.LimitStatus) []loadTestStatus {
	tests = slices.Clone(tests)
	for i := range tests {
		j, ok := slices.BinarySearchFunc(limits, tests[i].limit, func(l ratelimit.LimitStatus, id string) int { return cmp.Compare(l.ID, id) })
		if ok {
			tests[i].Requests = &counter{Passed: limits[j].Allowed, Of: limits[j].Requests}
		}
	}
	return tests
}

func printLoadTests(out io.Writer, tests []loadTestStatus) error {
	if len(tests) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nLOAD TEST\tSTATE\tREAL REQUESTS\n")
	for i := range tests {
		t, said := &tests[i], ""
		if t.State == testRuns {
			said = t.Real.say()
		}
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%s %s\t%s\t%s", t.Route, t.Rule, t.state(), said), "\t"))
	}
	return w.Flush()
}

// state is how a load test stands, and why.
func (s *loadTestStatus) state() string {
	switch s.State {
	case testStopped:
		return fmt.Sprintf("stopped at %s: %s", s.Since.Format(time.RFC3339), s.Why)
	case testOver:
		return "over since " + s.Since.Format(time.RFC3339)
	}
	parts := []string{s.State}
	if s.Requests != nil {
		parts = append(parts, fmt.Sprintf("%d of %d requests", s.Requests.Passed, s.Requests.Of))
	}
	if s.Until != nil {
		parts = append(parts, "until "+s.Until.Format(time.RFC3339))
	}
	return strings.Join(parts, ", ")
}

// say tells how real requests fare, and whether that is enough to go by.
func (r *realStatus) say() string {
	switch {
	case r == nil:
		return "not watched"
	case r.Proxies == 0:
		return "not known: no proxy reports; their bootstraps are of an older weir"
	case r.Requests == 0:
		return "none reported within " + r.Window
	}
	text := fmt.Sprintf("%d within %s, %d failed, some %s on average", r.Requests, r.Window, r.Failed,
		time.Duration(r.MeanLatency*float64(time.Second)).Round(time.Millisecond))
	if r.Requests < uint64(r.MinRequests) {
		text += fmt.Sprintf("; too few to judge, which takes %d", r.MinRequests)
	}
	return text
}
