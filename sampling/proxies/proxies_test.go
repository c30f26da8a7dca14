package proxies

import (
	"maps"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func accept(t *testing.T, table *Table, collector string, now time.Time, routes ...Route) {
	t.Helper()
	if err := table.Accept(collector, Report{Routes: routes}, now); err != nil {
		t.Fatal(err)
	}
}

func TestSharesAreNeverBelowWhatIsWanted(t *testing.T) {
	for percent := 0.0; percent <= 100; percent += 0.003 {
		got := stepAbove(percent)
		if got < percent || got > max(lowest, percent*math.Sqrt2+0.0101) || got > 100 {
			t.Fatalf("%v gives %v", percent, got)
		}
		if hundredths := got * 100; math.Abs(hundredths-math.Round(hundredths)) > 1e-6 {
			t.Fatalf("%v gives %v, which is no ten-thousandth", percent, got)
		}
	}
}

func TestLittleIsSent(t *testing.T) {
	changes, percent := 0, 100.0
	for i := range 10_000 {
		wanted := 10 * (1 + 0.15*math.Sin(float64(i))) // noise of 15 %
		if n := next(percent, wanted); n != percent {
			percent = n
			changes++
		}
		if percent < wanted {
			t.Fatalf("%v is below %v", percent, wanted)
		}
	}
	if changes > 3 {
		t.Errorf("noise has changed the share %d times", changes)
	}
	if got := next(percent, 1); got > 1.5 {
		t.Errorf("it goes down to %v, not to what is wanted", got)
	}
	if got := next(1, 100); got != 100 {
		t.Errorf("it goes up to %v only", got)
	}
}

func TestTheHighestOfAllCollectors(t *testing.T) {
	table := NewTable(Freeze, Decay)
	accept(t, table, "a", start, Route{"x", 1}, Route{"y", 100})
	accept(t, table, "b", start.Add(time.Second), Route{"x", 20})
	now := start.Add(2 * time.Second)
	if got := table.Shares(now); len(got) != 1 || got["x"] != 25 {
		t.Errorf("got %v", got)
	}
	// b dies: after a while, what a wants is what holds.
	now = now.Add(Stale + 2*time.Second)
	accept(t, table, "a", now, Route{"x", 1})
	if got := table.Shares(now); got["x"] > 1.5 {
		t.Errorf("a dead collector holds up the others: %v", got)
	}
	accept(t, table, "a", now)
	accept(t, table, "b", now)
	if got := table.Shares(now); len(got) != 0 {
		t.Errorf("what nobody wants to be cut is: %v", got)
	}
}

// TestTheLoopIsCut: shares stay for Freeze, then go up, never down, and are everything after Decay.
func TestTheLoopIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Freeze, Decay)
		accept(t, table, "a", time.Now(), Route{"x", 0.4})
		first := table.Shares(time.Now())
		time.Sleep(Freeze)
		if got := table.Shares(time.Now()); !maps.Equal(got, first) || got["x"] == 0 {
			t.Fatalf("frozen: %v is not %v", got, first)
		}
		before, steps := first["x"], 0
		for range int(Decay / time.Second) {
			time.Sleep(time.Second)
			got, ok := table.Shares(time.Now())["x"]
			if !ok {
				got = 100
			}
			if got < before {
				t.Fatalf("it goes down again, from %v to %v", before, got)
			}
			if got > before {
				steps++
			}
			before = got
		}
		if before != 100 || steps < 10 || steps > 20 {
			t.Errorf("after %s it is %v, in %d steps", Freeze+Decay, before, steps)
		}
		if len(table.seen) != 0 {
			time.Sleep(time.Second)
			table.Shares(time.Now())
		}
		if s := table.Status(); len(s.Collectors)+len(s.Routes) != 0 {
			t.Errorf("it remembers %+v", s)
		}
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	table := NewTable(Freeze, Decay)
	for _, r := range []Route{{"", 1}, {"x", -1}, {"x", 101}, {"x", math.NaN()}} {
		if err := table.Accept("a", Report{Routes: []Route{r}}, start); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
	for i := range maxCollectors {
		accept(t, table, string(rune(1000+i)), start)
	}
	if err := table.Accept("one more", Report{}, start); err == nil {
		t.Error("collectors without end are taken")
	}
}
