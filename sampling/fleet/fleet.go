// Package fleet divides the budgets of the documents among the collectors that share them: each says what it needs, and is
// told its share.
//
// Shares are in proportion to needs, and their sum is 1. So where there is enough for all, each has enough, and where there is
// not, each keeps the same part of what it needs. Nobody's share is nothing: a collector to which traffic turns has
// something to begin with. One whose needs are not known yet has as much as the others on average.
//
// There may be several tables, of as many replicas of Weir, that know nothing of each other. If every collector reports to all of
// them and has the lowest of the shares that it is told ([Answer.Lowest]), the sum is 1 at most as long as one table hears of all.
//
// A collector that was not heard of for [Stale] is gone, and its share is the others'. A new one takes its share at its first
// report, and the others give way at their next; for that long, there is one share too many.
//
// Decisions are pure functions of reports and of now; the package holds no clock and starts no goroutines.
package fleet

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/machinenativeops/weir/sampling"
)

// Report is what a collector says of itself.
type Report struct {
	Needs sampling.Parts `json:"needs"` // spans a second
	New   bool           `json:"new"`   // what it needs is not known well yet
}

// Answer is what it is told.
type Answer struct {
	Shares sampling.Parts `json:"shares"` // 0 to 1
	// Settling says that others may not have reported yet, which have their shares already: whoever has less keeps it.
	Settling bool `json:"settling"`
}

// Validate says what is wrong.
func (r *Report) Validate() error {
	if n := len(r.Needs.Classes) + len(r.Needs.Services); n > maxBudgets {
		return fmt.Errorf("budget.needs: want %d budgets at most, got %d", maxBudgets, n)
	}
	for _, of := range []map[string]float64{{"mesh": r.Needs.Mesh}, r.Needs.Classes, r.Needs.Services} {
		for name, need := range of {
			if !(need >= 0 && need <= most) {
				return fmt.Errorf("budget.needs: of %q, want 0 to %g spans a second, got %v", name, float64(most), need)
			}
		}
	}
	return nil
}

// Lowest is the lower of two answers for each budget.
func (a Answer) Lowest(b Answer) Answer {
	return Answer{lower(a.Shares, b.Shares), a.Settling && b.Settling}
}

// Validate says what is wrong.
func (a *Answer) Validate() error {
	for _, of := range []map[string]float64{{"mesh": a.Shares.Mesh}, a.Shares.Classes, a.Shares.Services} {
		for name, share := range of {
			if !(share > 0 && share <= 1) {
				return fmt.Errorf("budget.shares: of %q, want more than 0 and 1 at most, got %v", name, share)
			}
		}
	}
	return nil
}

const (
	// Stale is how long a collector that is not heard of keeps its share.
	Stale = 30 * time.Second
	// Freeze is how long a collector keeps the shares that it was told last, when it is told nothing any more.
	Freeze = 5 * time.Minute
	// Decay is how long it takes them from then on to go to what it would have had without being told.
	Decay = 10 * time.Minute

	maxCollectors = 1000
	maxBudgets    = 10_000
	most          = 1e12
	least         = 0.1 // of what the others need on average
)

// Table is what collectors have reported last. Its methods may be called from many goroutines.
type Table struct {
	mu      sync.Mutex // guards everything below
	first   time.Time  // report
	members map[string]*member
}

type member struct {
	Report
	at    time.Time
	share float64 // of the mesh's budget, that it was told
}

// NewTable gives one without reports.
func NewTable() *Table { return &Table{members: map[string]*member{}} }

// Take takes a collector's report in the place of its last one, and answers it.
func (t *Table) Take(collector string, r Report, now time.Time) (Answer, error) {
	if err := r.Validate(); err != nil {
		return Answer{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	m := t.members[collector]
	if m == nil {
		if len(t.members) >= maxCollectors {
			return Answer{}, fmt.Errorf("%d collectors share the budget already", maxCollectors)
		}
		m = &member{}
		t.members[collector] = m
	}
	if t.first.IsZero() {
		t.first = now
	}
	m.Report, m.at = r, now
	shares := sampling.Parts{
		Mesh:     t.share(m, func(p *sampling.Parts) float64 { return p.Mesh }),
		Classes:  t.shares(m, func(p *sampling.Parts) map[string]float64 { return p.Classes }),
		Services: t.shares(m, func(p *sampling.Parts) map[string]float64 { return p.Services }),
	}
	m.share = shares.Mesh
	return Answer{Shares: shares, Settling: now.Sub(t.first) < Stale}, nil
}

// Leave takes a collector's share back, which shares no longer.
func (t *Table) Leave(collector string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, collector)
}

func (t *Table) forget(now time.Time) {
	maps.DeleteFunc(t.members, func(_ string, m *member) bool { return now.Sub(m.at) > Stale })
}

// shares gives the member's share of each budget that it knows.
func (t *Table) shares(m *member, of func(*sampling.Parts) map[string]float64) map[string]float64 {
	all := make(map[string]float64, len(of(&m.Needs)))
	for name := range of(&m.Needs) {
		all[name] = t.share(m, func(p *sampling.Parts) float64 { return of(p)[name] })
	}
	return all
}

// share is the member's of one budget.
func (t *Table) share(m *member, of func(*sampling.Parts) float64) float64 {
	sum, known := 0.0, 0.0
	for _, one := range t.members {
		if !one.New {
			sum += of(&one.Needs)
			known++
		}
	}
	usual := 1.0 // where nobody needs anything, all have the same
	if sum > 0 {
		usual = sum / known
	}
	weight := func(one *member) float64 {
		if one.New {
			return usual
		}
		return max(of(&one.Needs), least*usual)
	}
	all := 0.0
	for _, one := range t.members {
		all += weight(one)
	}
	return weight(m) / all
}

// Collector is one that shares the budget, for people.
type Collector struct {
	Name  string  `json:"name"`
	Needs float64 `json:"needs"` // spans a second
	Share float64 `json:"share"` // of the mesh's budget
}

// Status tells who shares the budget at now, and what each was told last.
func (t *Table) Status(now time.Time) []Collector {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	all := make([]Collector, 0, len(t.members))
	for name, m := range t.members {
		all = append(all, Collector{name, m.Needs.Mesh, m.share})
	}
	slices.SortFunc(all, func(a, b Collector) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Held is which shares a collector has. The zero value is that of one that was told nothing.
type Held struct {
	shares sampling.Parts
	at     time.Time // that it was told
}

// Told is what it has when it is told something.
func (h Held) Told(a Answer, now time.Time) Held {
	if a.Settling && !h.at.IsZero() {
		a.Shares = lower(a.Shares, h.shares)
	}
	return Held{a.Shares, now}
}

func lower(a, b sampling.Parts) sampling.Parts {
	each := func(a, b map[string]float64) map[string]float64 {
		all := maps.Clone(a)
		for name, share := range b {
			if now, ok := all[name]; ok {
				all[name] = min(now, share)
			}
		}
		return all
	}
	return sampling.Parts{Mesh: min(a.Mesh, b.Mesh), Classes: each(a.Classes, b.Classes), Services: each(a.Services, b.Services)}
}

// At is what it has at now: what it was told last, or alone, the share of a collector that is told nothing.
func (h Held) At(now time.Time, alone float64) sampling.Parts {
	if h.at.IsZero() {
		return sampling.Parts{Mesh: alone}
	}
	old := min(max(float64(now.Sub(h.at)-Freeze)/float64(Decay), 0), 1)
	each := func(of map[string]float64) map[string]float64 {
		all := make(map[string]float64, len(of))
		for name, share := range of {
			all[name] = toward(alone, share, old)
		}
		return all
	}
	return sampling.Parts{Mesh: toward(alone, h.shares.Mesh, old), Classes: each(h.shares.Classes), Services: each(h.shares.Services)}
}

// toward is the part old, 0 to 1, of the way from a share to another, in equal factors.
func toward(to, from, old float64) float64 { return math.Pow(from, 1-old) * math.Pow(to, old) }
