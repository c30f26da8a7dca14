package loadtest

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

func stopWhen(errors float64, mean, window time.Duration, least int) *policy.StopWhen {
	w := &policy.StopWhen{Window: (*policy.Duration)(&window), MinRequests: &least}
	if errors >= 0 {
		w.Errors = &errors
	}
	if mean > 0 {
		w.MeanLatency = (*policy.Duration)(&mean)
	}
	return w
}

func TestJudge(t *testing.T) {
	counts := func(succeeded, failed uint64, busy float64) loadreport.Counts {
		return loadreport.Counts{Issued: succeeded + failed, Succeeded: succeeded, Failed: failed, Busy: busy, Seen: uint64(busy)}
	}
	for _, c := range []struct {
		when *policy.StopWhen
		real loadreport.Counts
		want string
	}{
		{stopWhen(5, 0, 10*time.Second, 100), counts(95, 5, 0), ""}, // as many as may
		{stopWhen(5, 0, 10*time.Second, 100), counts(94, 6, 0), "6.0 % of 100 real requests failed within 10s, and more than 5 % stops it"},
		{stopWhen(5, 0, 10*time.Second, 101), counts(0, 100, 0), ""}, // too few to judge
		{stopWhen(0, 0, time.Minute, 1000), counts(999, 1, 0), "0.1 % of 1000 real requests failed within 1m, and more than 0 % stops it"},
		{stopWhen(0.5, 0, 10*time.Second, 1), loadreport.Counts{}, ""},
		{stopWhen(99, 0, 10*time.Second, 1), counts(0, 1, 0), "100.0 % of 1 real requests failed within 10s, and more than 99 % stops it"},
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100), counts(0, 1000, 100), ""}, // failures are not looked at
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100), counts(1000, 0, 100), ""}, // as slow as may be
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100), counts(1000, 0, 140), ""}, // which may be chance
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100), counts(1000, 0, 200), "1000 real requests took some 200ms on average within 10s, and more than 100ms stops it"},
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100), counts(100, 0, 15), ""}, // seen too seldom
		{stopWhen(-1, 100*time.Millisecond, 10*time.Second, 1001), counts(1000, 0, 5000), ""},
		{stopWhen(-1, time.Second, 10*time.Second, 1), counts(9, 0, 5000), ""}, // many looks at few requests
		// All hang: nothing has an outcome.
		{stopWhen(5, time.Second, 10*time.Second, 50), loadreport.Counts{Issued: 100, Busy: 500, Seen: 500}, "100 real requests took some 5s on average within 10s, and more than 1s stops it"},
	} {
		if got := judge(c.when, c.real); got != c.want {
			t.Errorf("%+v: %q, want %q", c.real, got, c.want)
		}
	}
}

// TestChanceStopsNothing: of real requests that take as long as they may, looks at what is under way that vary as chance
// has it stop few load tests.
func TestChanceStopsNothing(t *testing.T) {
	stops := 0
	r := rand.New(rand.NewPCG(1, 2))
	const tests = 1000
	for range tests {
		var w window
		var total loadreport.Counts
		rate := 10 + r.IntN(200) // a second
		when := stopWhen(-1, 100*time.Millisecond, 10*time.Second, 100)
		for second := range 360 { // ten windows
			// Each is under way for a tenth of the second, so that one of ten is seen, give or take.
			mean := float64(rate) / 10
			seen := max(0, math.Round(mean+r.NormFloat64()*math.Sqrt(mean)))
			total = total.Add(loadreport.Counts{Issued: uint64(rate), Succeeded: uint64(rate), Busy: seen, Seen: uint64(seen)})
			if judge(when, w.add(time.Unix(int64(second), 0), 10*time.Second, total)) != "" {
				stops++
				break
			}
		}
	}
	if stops > tests/100 {
		t.Errorf("%d of %d stopped", stops, tests)
	}
	t.Logf("%d of %d stopped", stops, tests)
}

func TestWindow(t *testing.T) {
	var w window
	at := time.Unix(1000, 0)
	for i, c := range []struct {
		after  time.Duration
		total  uint64
		within uint64
	}{
		{0, 5, 0}, // what was before the first look is not known
		{time.Second, 7, 2},
		{time.Second, 8, 3},
		{time.Second, 8, 3},                            // as long as the window
		{time.Second, 10, 3},                           // 10 - 7
		{500 * time.Millisecond, 11, 4},                // longer than the window, rather than shorter
		{time.Hour, 12, 1},                             // since the last look
		{3 * time.Second, 12, 0},                       // silence
		{time.Second, 100, 88},                         //
		{2 * time.Second, 100, 88},                     //
		{2900 * time.Millisecond, 100, 0},              //
		{100 * time.Millisecond, 1 << 60, 1<<60 - 100}, // as large as may be
	} {
		at = at.Add(c.after)
		if got := w.add(at, 3*time.Second, loadreport.Counts{Succeeded: c.total}); got.Succeeded != c.within {
			t.Errorf("look %d: %d within the window, want %d", i, got.Succeeded, c.within)
		}
	}
	if len(w.looks) > 3 {
		t.Errorf("%d looks are kept", len(w.looks))
	}
}

// TestUnknownStopsNothing: whatever else proxies do, come, go, be silent or report of other clusters, only real requests
// that failed within the window stop a load test.
func TestUnknownStopsNothing(t *testing.T) {
	id := mesh.LoadTestID{Route: policy.Ref{Name: "r"}, Written: 1}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		var g Guard
		now := time.Unix(1e9, 0)
		totals := map[string]loadreport.Counts{"v1": {Issued: 1e6, Failed: 1e6}} // of before the load test
		watched := []string{"v1", "v2"}
		for range 300 {
			now = now.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
			switch r.IntN(6) {
			case 0:
				watched = [][]string{{"v1"}, {"v2"}, {"v1", "v2"}}[r.IntN(3)]
			case 1:
				totals["load"] = totals["load"].Add(loadreport.Counts{Failed: 1e6, Issued: 1e6, Busy: 1e6, Seen: 1e6})
			case 2:
				n := r.Uint64N(1000)
				totals[watched[0]] = totals[watched[0]].Add(loadreport.Counts{Issued: n, Succeeded: n})
			}
			g.Follow([]mesh.LoadTest{{ID: id, Real: watched, StopWhen: stopWhen(1, time.Second, 10*time.Second, 1)}, {ID: mesh.LoadTestID{Written: 2}, Real: []string{"load"}}})
			if stops := g.Look(now, totals); len(stops) > 0 {
				t.Fatalf("seed %d: %+v", seed, stops)
			}
		}
		g.Follow([]mesh.LoadTest{{ID: id, Rule: "load", Real: watched, StopWhen: stopWhen(1, 0, 10*time.Second, 1)}})
		g.Look(now, totals)
		totals[watched[0]] = totals[watched[0]].Add(loadreport.Counts{Issued: 1e9, Failed: 1e9})
		if stops := g.Look(now, totals); len(stops) != 1 || stops[0].ID != id || stops[0].Rule != "load" || !strings.Contains(stops[0].Why, "real requests failed") {
			t.Fatalf("seed %d: %+v", seed, stops)
		}
	}
}
