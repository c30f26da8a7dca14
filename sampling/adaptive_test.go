package sampling

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/machinenativeops/weir/policy"
)

func budget(spans float64, more func(*policy.Adaptive)) *Rates {
	least, most := 0.1, 100.0
	a := &policy.Adaptive{SpansPerSecond: spans, Min: &least, Max: &most, Window: policy.Duration(10 * time.Second)}
	if more != nil {
		more(a)
	}
	return NewRates(&policy.SamplingSpec{Adaptive: a, Classes: map[string]float64{"default": 20, "api": 30}, Operations: []policy.OperationRate{
		{Service: "shop/checkout", Operation: "POST /pay", Percent: 100},
	}}, services(), 1, nil)
}

// load has operations of one service come at so many spans a second for a time, in steps of tick, and gives how many were
// kept of each.
type load struct {
	rates  *Rates
	random *rand.Rand
	now    int64
}

func newLoad(r *Rates) *load {
	return &load{r, rand.New(rand.NewPCG(1, 2)), 1e18}
}

func (l *load) run(during, tick time.Duration, spans map[string]float64) map[string]float64 {
	kept := make(map[string]float64)
	service := l.rates.Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "")
	for end := l.now + int64(during); l.now < end; {
		l.now += int64(tick)
		var all int64
		for _, name := range slices.Sorted(maps.Keys(spans)) { // the same every time
			rate, o := spans[name], service.Operation(name)
			p := o.Threshold().Probability()
			for range poisson(l.random, rate*tick.Seconds()) {
				keep := l.random.Float64() < p
				o.Came(1, 1)
				if keep {
					kept[name]++
					all++
				}
			}
		}
		l.rates.Kept(all, l.now)
	}
	return kept
}

// poisson draws from its distribution, by the normal one where that is close.
func poisson(r *rand.Rand, mean float64) int {
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	n, p := 0, r.Float64()
	for limit := math.Exp(-mean); p > limit; n++ {
		p *= r.Float64()
	}
	return n
}

func sum(m map[string]float64) (total float64) {
	for _, v := range m {
		total += v
	}
	return total
}

// TestBudgetIsShared: the rare ones keep all they have, and floods share what is left.
func TestBudgetIsShared(t *testing.T) {
	l := newLoad(budget(1000, nil))
	spans := map[string]float64{"flood": 20_000, "busy": 2000, "some": 100, "rare": 1}
	if first := l.run(50*time.Millisecond, 10*time.Millisecond, map[string]float64{"new": 1000}); first["new"] == 0 {
		t.Error("nothing is kept of what is new")
	}
	l.run(time.Minute, 100*time.Millisecond, spans)
	kept := l.run(time.Minute, 100*time.Millisecond, spans)
	if total := sum(kept) / 60; math.Abs(total-1000) > 20 {
		t.Errorf("%.0f spans a second are kept, want 1000", total)
	}
	for name, want := range map[string]float64{"flood": 450, "busy": 450, "some": 100, "rare": 1} {
		if got := kept[name] / 60; math.Abs(got-want) > 0.05*want+0.5 {
			t.Errorf("%s: %.1f a second, want %.0f", name, got, want)
		}
	}
}

// TestAllIsAll: who may keep everything has the threshold of everything, and not one that is next to it.
func TestAllIsAll(t *testing.T) {
	r := budget(1e6, nil)
	service, now := r.Service(policy.Ref{Name: "checkout"}, ""), int64(1e18)
	r.Step(now)
	for i := range 100 {
		service.Operation(fmt.Sprint(i)).Came(i+1, float64(i+1))
	}
	r.Step(now + int64(time.Second)/3)
	for i := range 100 {
		if got := service.Operation(fmt.Sprint(i)).Threshold(); got != Always {
			t.Errorf("%d spans: %014x", i+1, uint64(got))
		}
	}
}

// TestRatesOfDocumentsStay within the budget, which the others have the rest of.
func TestRatesOfDocumentsStay(t *testing.T) {
	l := newLoad(budget(1000, nil))
	spans := map[string]float64{"POST /pay": 300, "flood": 20_000}
	l.run(time.Minute, 100*time.Millisecond, spans)
	kept := l.run(time.Minute, 100*time.Millisecond, spans)
	if pay, flood := kept["POST /pay"]/60, kept["flood"]/60; math.Abs(pay-300) > 10 || math.Abs(flood-700) > 35 {
		t.Errorf("pay %.0f, flood %.0f", pay, flood)
	}
}

func TestBudgetsNest(t *testing.T) {
	for name, set := range map[string]func(*policy.Adaptive){
		"class":   func(a *policy.Adaptive) { a.Classes = map[string]float64{"api": 200} },
		"service": func(a *policy.Adaptive) { a.Services = map[string]float64{"shop/checkout": 200} },
	} {
		l := newLoad(budget(1000, set))
		spans := map[string]float64{"a": 5000, "b": 50}
		l.run(time.Minute, 100*time.Millisecond, spans)
		kept := l.run(time.Minute, 100*time.Millisecond, spans)
		if total, b := sum(kept)/60, kept["b"]/60; math.Abs(total-200) > 10 || math.Abs(b-50) > 5 {
			t.Errorf("%s: %.0f spans a second, %.0f of them the rare ones", name, total, b)
		}
	}
}

func TestNobodyStarves(t *testing.T) {
	l := newLoad(budget(1, nil))
	spans := map[string]float64{"a": 20_000, "b": 10_000}
	l.run(20*time.Second, 100*time.Millisecond, spans)
	kept := l.run(time.Minute, 100*time.Millisecond, spans)
	for name, want := range map[string]float64{"a": 20, "b": 10} {
		if got := kept[name] / 60; math.Abs(got-want) > 0.2*want {
			t.Errorf("%s: %.1f a second, want %.0f, the least there is", name, got, want)
		}
	}
}

// TestDayWithBursts replays one: whatever comes, each minute keeps within 5 % of the budget, if there is as much.
func TestDayWithBursts(t *testing.T) {
	const want = 500.0
	l := newLoad(budget(want, nil))
	r := rand.New(rand.NewPCG(3, 4))
	worst := 0.0
	minutes := 24 * 60
	if raceDetector {
		minutes /= 8
	}
	for minute := range minutes {
		day := 1 + 0.9*math.Sin(2*math.Pi*float64(minute)/(24*60))
		spans := make(map[string]float64)
		for i := range 20 {
			spans[fmt.Sprintf("op-%d", i)] = day * 700 / float64(i+1)
		}
		var kept float64
		if minute > 0 && r.IntN(60) == 0 { // a hundred times as much of one, within a moment
			burst := maps.Clone(spans)
			burst[fmt.Sprintf("op-%d", r.IntN(20))] = 50_000
			kept += sum(l.run(2*time.Second, 5*time.Millisecond, burst))
			kept += sum(l.run(58*time.Second, 500*time.Millisecond, spans))
		} else {
			kept += sum(l.run(time.Minute, 500*time.Millisecond, spans))
		}
		if demand := sum(spans); demand < 1.2*want || minute < 2 {
			continue
		}
		off := kept/60/want - 1
		if math.Abs(off) > math.Abs(worst) {
			worst = off
		}
		if math.Abs(off) > 0.05 {
			t.Errorf("minute %d: %.1f %% off the budget", minute, 100*off)
		}
	}
	t.Logf("the worst minute is %.1f %% off", 100*worst)
}

// TestRatesOutliveDocuments: an edit elsewhere changes no rate.
func TestRatesOutliveDocuments(t *testing.T) {
	r := budget(100, nil)
	l := newLoad(r)
	l.run(time.Minute, 100*time.Millisecond, map[string]float64{"a": 5000})
	ref := policy.Ref{Namespace: "shop", Name: "checkout"}
	before := r.Service(ref, "").Operation("a").Threshold()
	a := r.adaptive.spec
	edited := NewRates(&policy.SamplingSpec{Adaptive: &a}, services(), 1, r)
	if after := edited.Service(ref, "").Operation("a").Threshold(); after != before {
		t.Errorf("%s became %s", before, after)
	}
	l.rates = edited
	if kept := sum(l.run(time.Minute, 100*time.Millisecond, map[string]float64{"a": 5000})) / 60; math.Abs(kept-100) > 5 {
		t.Errorf("%.0f spans a second, want 100", kept)
	}
}

// TestInventedNames: they are bounded, and share what is left to them.
func TestInventedNames(t *testing.T) {
	r := budget(100, nil)
	for i := range 10_000 {
		for range 3 {
			r.Service(policy.Ref{Name: fmt.Sprint(i)}, "").Operation("x").Came(1, 1)
		}
	}
	for i := range 10_000 {
		r.Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "").Operation(fmt.Sprint(i)).Came(1, 1)
	}
	if n := len(r.InForce(1 << 20)); n > maxServices+maxOperations+2 {
		t.Errorf("%d operations are remembered", n)
	}
}

func BenchmarkAdaptive(b *testing.B) {
	r := budget(1000, nil)
	s := r.Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "")
	b.ReportAllocs()
	for i := range b.N {
		o := s.Operation("GET /cart")
		_ = o.Threshold().Keep(Randomness(i))
		o.Came(1, 1)
	}
}

// TestAFleetKeepsTheBudget: of two collectors with shares of it, whose sum is 1, both keep the budget together, and those that
// nest in it; shares stay when documents change.
func TestAFleetKeepsTheBudget(t *testing.T) {
	set := func(a *policy.Adaptive) { a.Classes = map[string]float64{"api": 600} }
	spans := map[string]float64{"a": 5000, "b": 50}
	total := 0.0
	for _, share := range []Parts{{Mesh: 0.25, Classes: map[string]float64{"api": 0.4}}, {Mesh: 0.75, Classes: map[string]float64{"api": 0.6}}} {
		l := newLoad(budget(1000, set))
		l.rates.Share(share)
		spec := policy.SamplingSpec{Adaptive: &l.rates.adaptive.spec}
		l.rates = NewRates(&spec, services(), 1, l.rates)
		if got, _ := l.rates.Budget(); got != 1000*share.Mesh {
			t.Errorf("its budget is %v, with a share of %v", got, share.Mesh)
		}
		l.run(time.Minute, 100*time.Millisecond, spans)
		kept := sum(l.run(time.Minute, 100*time.Millisecond, spans)) / 60
		if want := 600 * share.Classes["api"]; math.Abs(kept-want) > 0.06*want {
			t.Errorf("with %+v, %.0f spans a second are kept, want %.0f", share, kept, want)
		}
		total += kept
	}
	if math.Abs(total-600) > 30 {
		t.Errorf("together they keep %.0f, want 600", total)
	}
}

// TestNeeds are what comes, however little of it is kept, and go away when nothing comes.
func TestNeeds(t *testing.T) {
	l := newLoad(budget(100, func(a *policy.Adaptive) {
		a.Services = map[string]float64{"shop/checkout": 50, "shop/other": 50}
		a.Classes = map[string]float64{"api": 80}
	}))
	spans := map[string]float64{"POST /pay": 300, "flood": 20_000}
	l.run(time.Second, 100*time.Millisecond, spans)
	if _, settled, adaptive := l.rates.Needs(l.now); settled || !adaptive {
		t.Errorf("after a second: settled %v, adaptive %v", settled, adaptive)
	}
	l.run(2*time.Minute, 100*time.Millisecond, spans)
	needs, settled, _ := l.rates.Needs(l.now)
	checkout := needs.Services["shop/checkout"]
	if math.Abs(needs.Mesh-20_300) > 500 || checkout != needs.Mesh || needs.Classes["api"] != needs.Mesh || needs.Services["shop/other"] != 0 || !settled {
		t.Errorf("got %+v, settled %v", needs, settled)
	}
	for range 100 {
		l.now += int64(time.Second)
		l.rates.Needs(l.now)
	}
	if needs, _, _ := l.rates.Needs(l.now); needs.Mesh > 20 {
		t.Errorf("after 100 s without spans it needs %v", needs.Mesh)
	}
	fixed := NewRates(&policy.SamplingSpec{}, services(), 1, nil)
	fixed.Share(Parts{Mesh: 0.5})
	if _, adaptive := fixed.Budget(); adaptive {
		t.Error("without a budget there is one")
	}
	if _, _, adaptive := fixed.Needs(l.now); adaptive {
		t.Error("without a budget there are needs of it")
	}
}
