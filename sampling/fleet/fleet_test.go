package fleet

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/machinenativeops/weir/sampling"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func mesh(needs float64) Report { return Report{Needs: sampling.Parts{Mesh: needs}} }

func take(t *testing.T, table *Table, collector string, r Report, now time.Time) Answer {
	t.Helper()
	a, err := table.Take(collector, r, now)
	if err == nil {
		err = a.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// TestSharesFollowNeeds: where there is enough, each has what it needs, and where there is not, each has the same part of it.
func TestSharesFollowNeeds(t *testing.T) {
	table := NewTable()
	for range 2 {
		sum := 0.0
		for name, needs := range map[string]float64{"a": 600, "b": 300, "c": 100} {
			sum += take(t, table, name, mesh(needs), start).Shares.Mesh
		}
		if !near(sum, 1) { // the first time, not all are known yet
			for name, want := range map[string]float64{"a": 0.6, "b": 0.3, "c": 0.1} {
				if got := take(t, table, name, mesh(1000*want), start).Shares.Mesh; !near(got, want) {
					t.Errorf("%s has %v, want %v", name, got, want)
				}
			}
		}
	}
	// Who needs nothing has something to begin with, and the others have the rest.
	take(t, table, "c", mesh(0), start)
	idle, busy := take(t, table, "c", mesh(0), start).Shares.Mesh, take(t, table, "a", mesh(600), start).Shares.Mesh
	if idle <= 0.01 || idle > 0.04 || !near(idle+busy+take(t, table, "b", mesh(300), start).Shares.Mesh, 1) {
		t.Errorf("the idle one has %v, a busy one %v", idle, busy)
	}
}

// TestAFleetComesUp: when nobody's needs are known, all have the same; who is new among others has as much as the others on
// average, and they give way at their next report.
func TestAFleetComesUp(t *testing.T) {
	table := NewTable()
	unknown := Report{New: true}
	for i, want := range []float64{1, 0.5, 1.0 / 3} {
		if a := take(t, table, fmt.Sprint(i), unknown, start); !near(a.Shares.Mesh, want) || !a.Settling {
			t.Errorf("the %d. is told %+v", i+1, a)
		}
	}
	now := start.Add(2 * time.Second)
	for i := range 3 {
		take(t, table, fmt.Sprint(i), mesh(float64(100*(i+1))), now)
	}
	if got := take(t, table, "new", unknown, now).Shares.Mesh; !near(got, 0.25) {
		t.Errorf("the new one has %v", got)
	}
	if got := take(t, table, "2", mesh(300), now).Shares.Mesh; !near(got, 300.0/800) {
		t.Errorf("another has %v beside it", got)
	}
}

// TestTheDead: the share of a collector that is not heard of is the others' after Stale, and that of one that leaves at once.
func TestTheDead(t *testing.T) {
	table := NewTable()
	take(t, table, "dies", mesh(100), start)
	take(t, table, "leaves", mesh(100), start)
	for after, want := range map[time.Duration]float64{0: 1.0 / 3, Stale: 1.0 / 3} {
		if got := take(t, table, "stays", mesh(100), start.Add(after)).Shares.Mesh; !near(got, want) {
			t.Errorf("after %s it has %v, want %v", after, got, want)
		}
	}
	table.Leave("leaves")
	if got := take(t, table, "stays", mesh(100), start.Add(Stale)).Shares.Mesh; !near(got, 0.5) {
		t.Errorf("after the other has left, it has %v", got)
	}
	now := start.Add(Stale + 1)
	if got := take(t, table, "stays", mesh(100), now); !near(got.Shares.Mesh, 1) || got.Settling {
		t.Errorf("after the other has died, it is told %+v", got)
	}
	if all := table.Status(now); len(all) != 1 || all[0] != (Collector{"stays", 100, 1}) {
		t.Errorf("there are %v", all)
	}
}

// TestBudgetsThatNest are shared by those that need them, whoever needs how much of the mesh's.
func TestBudgetsThatNest(t *testing.T) {
	table := NewTable()
	needs := func(mesh, class, service float64) Report {
		return Report{Needs: sampling.Parts{Mesh: mesh, Classes: map[string]float64{"api": class}, Services: map[string]float64{"shop/a": service}}}
	}
	take(t, table, "a", needs(900, 10, 30), start)
	b := take(t, table, "b", needs(100, 90, 10), start).Shares
	if !near(b.Mesh, 0.1) || !near(b.Classes["api"], 0.9) || !near(b.Services["shop/a"], 0.25) {
		t.Errorf("got %+v", b)
	}
}

// TestWeirRestarts: a table that has heard of some collectors only gives none of them more than it has, and to those that
// are new no more than to the others.
func TestWeirRestarts(t *testing.T) {
	before := NewTable()
	needs := []float64{600, 300, 100}
	held := make([]Held, len(needs))
	for range 2 {
		for i, n := range needs {
			held[i] = held[i].Told(take(t, before, fmt.Sprint(i), mesh(n), start), start)
		}
		start := start.Add(Stale)
		for i, n := range needs {
			held[i] = held[i].Told(take(t, before, fmt.Sprint(i), mesh(n), start), start)
		}
	}
	after := NewTable()
	for round := range 20 {
		now := start.Add(time.Hour + time.Duration(round)*2*time.Second)
		sum := 0.0
		for i, n := range needs {
			held[i] = held[i].Told(take(t, after, fmt.Sprint(i), mesh(n), now), now)
			sum += held[i].At(now, 1).Mesh
		}
		if !near(sum, 1) {
			t.Fatalf("in round %d, the shares are %v of the budget", round, sum)
		}
	}
}

// TestWeirIsAway: what was told last holds, and then goes to what a collector has that is told nothing.
func TestWeirIsAway(t *testing.T) {
	var h Held
	if got := h.At(start, 0.25).Mesh; got != 0.25 {
		t.Errorf("before it is told anything, it has %v", got)
	}
	h = h.Told(Answer{Shares: sampling.Parts{Mesh: 0.01, Classes: map[string]float64{"api": 0.5}}}, start)
	before := 0.0
	for age := time.Duration(0); age <= 2*(Freeze+Decay); age += time.Second {
		got := h.At(start.Add(age), 0.25)
		switch {
		case age <= Freeze && (!near(got.Mesh, 0.01) || !near(got.Classes["api"], 0.5)),
			age >= Freeze+Decay && (!near(got.Mesh, 0.25) || !near(got.Classes["api"], 0.25)),
			got.Mesh < before:
			t.Fatalf("after %s it has %+v, before %v", age, got, before)
		}
		before = got.Mesh
	}
}

// TestReplicasOfWeir: the lowest of what several say is right as long as one of them hears of all collectors.
func TestReplicasOfWeir(t *testing.T) {
	all, cut := NewTable(), NewTable()
	reports := map[string]Report{"a": mesh(600), "b": mesh(300), "c": mesh(100)}
	now := start
	for range 3 {
		now = now.Add(Stale / 2)
		for name, r := range reports {
			take(t, all, name, r, now)
		}
	}
	sum := 0.0
	for name, r := range reports {
		answer := take(t, all, name, r, now)
		if name != "b" { // which the other does not hear of
			other := take(t, cut, name, r, now)
			if !other.Settling || other.Shares.Mesh <= answer.Shares.Mesh {
				t.Errorf("%s is told %+v by the one that is cut off, and %+v by the other", name, other, answer)
			}
			answer = other.Lowest(answer)
		}
		if answer.Settling {
			t.Error("the one that has heard of all says nothing for sure")
		}
		sum += answer.Shares.Mesh
	}
	if !near(sum, 1) {
		t.Errorf("together they have %v", sum)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	table := NewTable()
	many := map[string]float64{}
	for i := range maxBudgets + 1 {
		many[fmt.Sprint(i)] = 1
	}
	for _, p := range []sampling.Parts{{Mesh: -1}, {Mesh: math.NaN()}, {Mesh: math.Inf(1)}, {Classes: map[string]float64{"x": -1}}, {Services: many}} {
		if _, err := table.Take("a", Report{Needs: p}, start); err == nil {
			t.Errorf("%v is taken", p.Mesh)
		}
	}
	for _, p := range []sampling.Parts{{}, {Mesh: 1.1}, {Mesh: math.NaN()}, {Mesh: 1, Services: map[string]float64{"x": 0}}} {
		if err := (&Answer{Shares: p}).Validate(); err == nil {
			t.Errorf("%v is a good answer", p)
		}
	}
	for i := range maxCollectors {
		take(t, table, fmt.Sprint(i), Report{}, start)
	}
	if _, err := table.Take("one more", Report{}, start); err == nil {
		t.Error("collectors without end are taken")
	}
}
