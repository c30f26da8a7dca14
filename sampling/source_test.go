package sampling

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/machinenativeops/weir/policy"
)

func TestWhatSourcesAreTold(t *testing.T) {
	spec := policy.SamplingSpec{
		AtSource: "auto", Classes: map[string]float64{"api": 30, "background": 5, "default": 20},
		Operations: []policy.OperationRate{
			{Service: "shop/checkout", Operation: "POST /pay", Percent: 100},
			{Service: "shop/checkout", Operation: "POST /pay/*", Percent: 60},
			{Operation: "GET /healthz*", Percent: 1},
		},
	}
	r := NewRates(&spec, services(), 1, nil)
	jobs := r.Service(policy.Ref{Namespace: "shop", Name: "jobs"}, "")
	jobs.Threshold("GET /healthz/live")
	jobs.Threshold("run")
	source := r.Source()
	for _, tt := range []struct {
		service   string
		rest      float64
		operation string
		share     float64
	}{
		{"checkout", 0.6, "POST /pay", 1}, // what the second pattern may match is kept at 60 %
		{"shop/checkout", 0.6, "POST /pay", 1},
		{"jobs", 0.05, "GET /healthz/live", 0.01},
		{"jobs", 0.05, "run", 0.05},
		{"else/checkout", 1, "", 1},
		{"unknown", 1, "", 1},
	} {
		s := Told(tt.service, source)
		if !near(s.Default, tt.rest) || !near(shareOf(s, tt.operation), tt.share) {
			t.Errorf("%s: %+v, want %v, and %q %v", tt.service, s, tt.rest, tt.operation, tt.share)
		}
	}
	spec.Classes["background"] = 8
	if s := Told("jobs", NewRates(&spec, services(), 1, r).Source()); !near(s.Default, 0.08) {
		t.Errorf("new documents: %+v", s)
	}
	// The same name elsewhere: the highest of both.
	r.Service(policy.Ref{Namespace: "other", Name: "jobs"}, "").Threshold("run")
	if s := Told("jobs", r.Source()); !near(shareOf(s, "run"), 0.2) || !near(shareOf(s, "GET /healthz/live"), 0.2) {
		t.Errorf("two services of one name: %+v", s)
	}
}

func TestNothingIsThinnedThatRulesChooseFrom(t *testing.T) {
	for _, tt := range []struct {
		atSource string
		keep     *policy.Keep
		want     float64
	}{
		{"auto", nil, 0.05},
		{"auto", &policy.Keep{}, 1},
		{"auto", &policy.Keep{Errors: true}, 1},
		{"auto", &policy.Keep{Marked: []string{"debug"}}, 1},
		{"always", &policy.Keep{Errors: true}, 0.05},
		{"off", nil, 1},
	} {
		r := NewRates(&policy.SamplingSpec{Classes: map[string]float64{"background": 5}, AtSource: tt.atSource, Keep: tt.keep}, services(), 1, nil)
		if s := Told("jobs", r.Source()); !near(s.Default, tt.want) {
			t.Errorf("%s with %+v: %+v, want %v", tt.atSource, tt.keep, s, tt.want)
		}
	}
}

// TestSourcesMakeWhatTheBudgetKeeps: a flood is thinned to what is kept of it, with room, and nothing else is. When it is
// over, everything is to be made at once, although little of it comes by then.
func TestSourcesMakeWhatTheBudgetKeeps(t *testing.T) {
	r, s := thinned(100, 10*time.Second)
	now := int64(1)
	second := func(flood int, adjusted float64) {
		for range flood {
			s.Operation("flood").Came(1, adjusted)
		}
		s.Operation("rare").Came(1, 1)
		now += int64(time.Second)
		r.Step(now)
	}
	r.Step(now)
	for range 60 {
		second(1000, 1)
	}
	told := Told("checkout", r.Source())
	if share := shareOf(told, "flood"); math.Abs(share-Headroom*0.099) > 0.01 {
		t.Errorf("of the flood %v is to be made", share)
	}
	if share := shareOf(told, "rare"); share != 1 || told.Default != 1 {
		t.Errorf("of what is rare %v is to be made, and of what is new %v", share, told.Default)
	}
	// Thinned to a tenth, each span stands for ten: nothing changes.
	for range 60 {
		second(100, 10)
	}
	if share := shareOf(Told("checkout", r.Source()), "flood"); math.Abs(share-Headroom*0.099) > 0.01 {
		t.Errorf("when it is thinned, %v of the flood is to be made", share)
	}
	for range 100 {
		second(1, 10)
	}
	if share := shareOf(Told("checkout", r.Source()), "flood"); share != 1 {
		t.Errorf("when the flood is over, %v is to be made", share)
	}
}

// TestBatchesAreNoFlood: what a proxy sends of a quiet operation comes five spans at a time, in one step of ten a window.
func TestBatchesAreNoFlood(t *testing.T) {
	r, s := thinned(20, time.Second)
	now := int64(1)
	r.Step(now)
	for step := range 300 {
		for range 100 {
			s.Operation("flood").Came(1, 1)
		}
		if step%15 == 0 { // 3.3 a second of a budget of 20
			for range 5 {
				s.Operation("quiet").Came(1, 1)
			}
		}
		now += int64(100 * time.Millisecond)
		r.Step(now)
		told := Told("checkout", r.Source())
		if share := shareOf(told, "quiet"); share != 1 {
			t.Fatalf("at step %d, of what is quiet %v is to be made", step, share)
		}
		if share := shareOf(told, "flood"); step > 30 && (share > Headroom*0.02 || share < 0.01) {
			t.Fatalf("at step %d, of the flood %v is to be made", step, share)
		}
	}
}

// TestRoutesHaveTheHighestOfTheirOperations: what is rare is not lost beside a flood that comes by the same route, for SDKs tell
// operations apart and proxies only routes; a flood that has a route of its own is thinned there.
func TestRoutesHaveTheHighestOfTheirOperations(t *testing.T) {
	r, s := thinned(100, time.Second)
	now := int64(1)
	r.Step(now)
	for range 30 {
		for name, spans := range map[string]int{"flood": 1000, "other flood": 1000, "rare": 1} {
			for range spans {
				s.Operation(name).Came(1, 1)
			}
		}
		now += int64(time.Second)
		r.Step(now)
	}
	s.Operation("flood").Placed("shop/checkout/default")
	s.Operation("rare").Placed("shop/checkout/default")
	s.Operation("other flood").Placed("shop/checkout/flooded")
	source := r.Source()
	told, routes := Told("checkout", source), source.Routes()
	if flood, rare := shareOf(told, "flood"), shareOf(told, "rare"); flood > 0.1 || rare != 1 {
		t.Errorf("an SDK is to make %v of the flood and %v of what is rare", flood, rare)
	}
	if routes["shop/checkout/default"] != 1 || routes["shop/checkout/flooded"] > 0.1 || len(routes) != 2 {
		t.Errorf("proxies are to make %v", routes)
	}
}

// thinned gives rates that hold a budget, from 0.1 to 100 %, also at the source, and a service of theirs.
func thinned(spansPerSecond float64, window time.Duration) (*Rates, *Service) {
	lowest, highest := 0.1, 100.0
	spec := policy.SamplingSpec{AtSource: "auto", Adaptive: &policy.Adaptive{
		SpansPerSecond: spansPerSecond, Min: &lowest, Max: &highest, Window: policy.Duration(window),
	}}
	r := NewRates(&spec, services(), 1, nil)
	return r, r.Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "")
}

func shareOf(s Strategy, operation string) float64 {
	i := slices.IndexFunc(s.Operations, func(o Share) bool { return o.Operation == operation })
	if i < 0 {
		return s.Default
	}
	return s.Operations[i].Share
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-4 }
