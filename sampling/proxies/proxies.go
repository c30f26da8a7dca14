// Package proxies is how what collectors learn comes back to the proxies that make the spans: which share of a route's
// requests are worth a trace, from reports of any number of collectors.
//
// A share is never below what a collector wants, moves down in steps of a factor and only where it has become much too
// high, so that little is sent to proxies, and moves up at once. When no collector reports a route any more, its share is
// kept for a while, and then goes back, step by step, to everything.
//
// Decisions are pure functions of reports and of now; the package holds no clock and starts no goroutines.
package proxies

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/machinenativeops/weir/sampling/fleet"
)

// Report is what a collector wants to be made of the routes whose spans it gets. It is complete: what it leaves out, it
// wants all of.
type Report struct {
	Routes []Route       `json:"routes"`
	Budget *fleet.Report `json:"budget,omitempty"` // nil: it has no part of the documents' budgets
}

// Answer is what the collector is told.
type Answer struct {
	Budget *fleet.Answer `json:"budget,omitempty"`
}

// Validate says what is wrong.
func (a *Answer) Validate() error {
	if a.Budget != nil {
		return a.Budget.Validate()
	}
	return nil
}

// Route is one of them.
type Route struct {
	Name    string  `json:"name"`
	Percent float64 `json:"percent"` // of its requests
}

// Validate says what is wrong.
func (r *Report) Validate() error {
	for i, route := range r.Routes {
		if route.Name == "" || !(route.Percent >= 0 && route.Percent <= 100) {
			return fmt.Errorf("routes[%d]: want a name and 0 to 100 per cent, got %q and %v", i, route.Name, route.Percent)
		}
	}
	if r.Budget != nil {
		return r.Budget.Validate()
	}
	return nil
}

const (
	// Stale is how old a report may be, beside those of others for the same route, before it is passed over: the collector
	// is gone.
	Stale = 30 * time.Second
	// Freeze is how long shares stay when nobody reports them any more, unless a table is told otherwise.
	Freeze = 5 * time.Minute
	// Decay is how long it takes them from then on to go back to everything, unless a table is told otherwise.
	Decay = 10 * time.Minute

	maxCollectors = 1000
	lowest        = 0.01 // per cent: proxies decide by ten-thousandths
	stepsEach     = 2    // steps in a factor of two
)

// Table is what collectors have reported last. Its methods may be called from many goroutines.
type Table struct {
	freeze, decay time.Duration

	mu     sync.Mutex // guards everything below
	routes map[string]*route
	seen   map[string]time.Time // collectors, and when they reported last
}

type route struct {
	wanted  map[string]wish // by collector
	percent float64         // in force
}

type wish struct {
	percent float64
	at      time.Time
}

// NewTable gives one without reports, which keeps shares for so long, and lets them go back for so long.
func NewTable(freeze, decay time.Duration) *Table {
	return &Table{freeze: freeze, decay: decay, routes: map[string]*route{}, seen: map[string]time.Time{}}
}

// Accept takes a collector's report in the place of its last one.
func (t *Table) Accept(collector string, r Report, now time.Time) error {
	if err := r.Validate(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.seen[collector]; !known && len(t.seen) >= maxCollectors {
		return fmt.Errorf("%d collectors report already", maxCollectors)
	}
	t.seen[collector] = now
	for _, one := range t.routes {
		delete(one.wanted, collector)
	}
	for _, one := range r.Routes {
		if one.Percent >= 100 {
			continue
		}
		if t.routes[one.Name] == nil {
			t.routes[one.Name] = &route{wanted: map[string]wish{}, percent: 100}
		}
		t.routes[one.Name].wanted[collector] = wish{one.Percent, now}
	}
	return nil
}

// Shares gives per cent by route; of those that are not there, everything is made.
func (t *Table) Shares(now time.Time) map[string]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, at := range t.seen {
		if now.Sub(at) > t.freeze+t.decay {
			delete(t.seen, name)
		}
	}
	shares := map[string]float64{}
	for name, r := range t.routes {
		if r.percent = next(r.percent, t.combined(r.wanted, now)); r.percent >= 100 {
			delete(t.routes, name)
			if len(r.wanted) > 0 { // it may come down again
				t.routes[name] = r
			}
			continue
		}
		shares[name] = r.percent
	}
	return shares
}

// combined is the highest of what collectors want that report the route, or did last, at now.
func (t *Table) combined(wanted map[string]wish, now time.Time) float64 {
	var last time.Time
	for _, w := range wanted {
		if w.at.After(last) {
			last = w.at
		}
	}
	highest := -1.0
	for name, w := range wanted {
		if age := last.Sub(w.at); age > t.freeze+t.decay {
			delete(wanted, name)
		} else if age <= Stale {
			highest = max(highest, w.percent)
		}
	}
	if highest < 0 {
		return 100
	}
	return t.decayed(highest, now.Sub(last))
}

// decayed is what becomes of a share that was reported so long ago.
func (t *Table) decayed(percent float64, age time.Duration) float64 {
	switch {
	case age <= t.freeze:
		return percent
	case age >= t.freeze+t.decay:
		return 100
	}
	part := float64(age-t.freeze) / float64(t.decay)
	return math.Pow(max(percent, lowest), 1-part) * math.Pow(100, part)
}

// next is the share in force after the one before, where so much is wanted: not less, and the same as long as it is not
// too much by two steps.
func next(before, wanted float64) float64 {
	if before >= wanted && stepAbove(wanted*math.Exp2(1.0/stepsEach)) >= before {
		return before
	}
	return stepAbove(wanted)
}

// stepAbove is the lowest step that is not below a share: 100 and its parts by powers of the square root of two, in whole
// hundredths.
func stepAbove(percent float64) float64 {
	if percent <= lowest {
		return lowest
	}
	steps := math.Floor(stepsEach*math.Log2(100/percent) + 1e-9)
	return min(math.Ceil(100*100*math.Exp2(-max(steps, 0)/stepsEach)-1e-6)/100, 100)
}

// Status is what is in force, for people.
type Status struct {
	Collectors []Collector `json:"collectors"`
	Routes     []Route     `json:"routes"` // of which less than everything is made
}

// Collector is one that reports.
type Collector struct {
	Name string    `json:"name"`
	Last time.Time `json:"last"`
}

// Status tells what was in force when Shares was asked last.
func (t *Table) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{Collectors: []Collector{}, Routes: []Route{}}
	for name, at := range t.seen {
		s.Collectors = append(s.Collectors, Collector{name, at})
	}
	for name, r := range t.routes {
		if r.percent < 100 {
			s.Routes = append(s.Routes, Route{name, r.percent})
		}
	}
	slices.SortFunc(s.Collectors, func(a, b Collector) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Routes, func(a, b Route) int { return strings.Compare(a.Name, b.Name) })
	return s
}
