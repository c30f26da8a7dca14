package adaptivesampling

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/machinenativeops/weir/policy"
)

// TestDayWithBursts replays a day of whole traces in virtual time, an hour of it in a minute: whatever comes, each minute
// keeps within 5 % of the budget, if there is as much and was before, and every trace that failed or was slow is kept.
func TestDayWithBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 300.0
		d := newDay(t, budget)
		bursts := rand.New(rand.NewPCG(3, 4))
		minutes, enough, worst := 24, 0, 0.0
		if raceDetector {
			minutes = 4
		}
		for minute := range minutes {
			demand := 1 + 0.9*math.Sin(2*math.Pi*float64(minute)/24)
			before := d.keptYet()
			if minute%3 == 2 { // a hundred times as much of one, within a moment
				d.burst = bursts.IntN(dayOperations)
				d.run(demand, 2*time.Second)
				d.burst = -1
				d.run(demand, 58*time.Second)
			} else {
				d.run(demand, time.Minute)
			}
			if enough++; 1440*demand < 1.2*budget {
				enough = 0
			}
			if enough < 3 { // half a window's budget that was not used may be used later
				continue
			}
			off := float64(d.keptYet()-before)/60/budget - 1
			if math.Abs(off) > math.Abs(worst) {
				worst = off
			}
			if math.Abs(off) > 0.05 {
				t.Errorf("minute %d: %.1f %% off the budget", minute, 100*off)
			}
		}
		d.end()
		for id := range d.matter {
			t.Errorf("trace %s is not whole: %d spans are missing", id, d.matter[id])
		}
		t.Logf("the worst minute is %.1f %% off; all of %d traces that failed or were slow are kept", 100*worst, d.mattered)
	})
}

const (
	dayOperations = 20
	daySpans      = 3 // of a trace
)

// day has traces come to a sampler, and counts what is kept.
type day struct {
	t       *testing.T
	sampler *sampler
	random  *rand.Rand
	burst   int // the operation, or -1

	mu       sync.Mutex // guards what follows
	kept     int
	matter   map[pcommon.TraceID]int // spans that are to be kept and have not come out yet
	mattered int
}

func newDay(t *testing.T, budget float64) *day {
	t.Helper()
	d := &day{t: t, random: rand.New(rand.NewPCG(1, 2)), burst: -1, matter: map[pcommon.TraceID]int{}}
	next, err := consumer.NewTraces(func(_ context.Context, td ptrace.Traces) error { d.take(td); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if d.sampler, err = newSampler(componenttest.NewNopTelemetrySettings(), defaultConfig().(*Config), next); err != nil {
		t.Fatal(err)
	}
	least, most := 0.1, 100.0
	set := &policy.Set{Sampling: &policy.Document[policy.SamplingSpec]{Spec: policy.SamplingSpec{
		Classes:  map[string]float64{"default": 20},
		Adaptive: &policy.Adaptive{SpansPerSecond: budget, Min: &least, Max: &most, Window: policy.Duration(10 * time.Second)},
		Keep:     &policy.Keep{Errors: true, SlowerThan: policy.Duration(time.Second)},
		Wait:     policy.Duration(5 * time.Second),
	}}}
	if err := d.sampler.apply(set); err != nil {
		t.Fatal(err)
	}
	if err := d.sampler.whole.start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// take is the next component.
func (d *day) take(td ptrace.Traces) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				d.kept++
				if left, ok := d.matter[span.TraceID()]; ok && left > 1 {
					d.matter[span.TraceID()]--
				} else {
					delete(d.matter, span.TraceID())
				}
			}
		}
	}
}

func (d *day) keptYet() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept
}

// run has traces come for so long, at so many times the usual rate.
func (d *day) run(demand float64, during time.Duration) {
	tick := 100 * time.Millisecond
	if d.burst >= 0 {
		tick = 10 * time.Millisecond
	}
	for range during / tick {
		td := ptrace.NewTraces()
		roots, children := resource(td, "checkout", ""), resource(td, "cart", "")
		for i := range dayOperations {
			rate := demand * 400 / daySpans / float64(i+1) // traces a second
			if i == d.burst {
				rate *= 100
			}
			for range poisson(d.random, rate*tick.Seconds()) {
				d.trace(roots, children, fmt.Sprintf("op-%d", i))
			}
		}
		if _, err := d.sampler.process(d.t.Context(), td); !errors.Is(err, processorhelper.ErrSkipProcessingData) {
			d.t.Fatal(err)
		}
		time.Sleep(tick)
	}
}

// trace makes one; each hundredth fails or is slow.
func (d *day) trace(roots, children ptrace.SpanSlice, operation string) {
	var id pcommon.TraceID
	binary.BigEndian.PutUint64(id[:8], d.random.Uint64())
	binary.BigEndian.PutUint64(id[8:], d.random.Uint64())
	fate := d.random.IntN(200)
	for i := range daySpans {
		var span ptrace.Span
		if i == 0 {
			span = roots.AppendEmpty()
			span.SetName(operation)
		} else {
			span = children.AppendEmpty()
			span.SetName([]string{"authorize", "query"}[i-1])
			span.SetParentSpanID(pcommon.SpanID{1})
		}
		span.SetTraceID(id)
		span.SetStartTimestamp(1e9)
		span.SetEndTimestamp(1e9 + 1e6)
		switch {
		case i == daySpans-1 && fate == 0:
			span.Status().SetCode(ptrace.StatusCodeError)
		case i == 0 && fate == 1:
			span.SetEndTimestamp(3e9)
		}
	}
	if fate <= 1 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.matter[id] = daySpans
		d.mattered++
	}
}

// end has what is held judged, and ends the sampler.
func (d *day) end() {
	if err := d.sampler.whole.shutdown(d.t.Context()); err != nil {
		d.t.Error(err)
	}
	d.sampler.shutdown()
}

// poisson draws from its distribution.
func poisson(r *rand.Rand, mean float64) (n int) {
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	for limit, p := math.Exp(-mean), r.Float64(); p > limit; n++ {
		p *= r.Float64()
	}
	return n
}
