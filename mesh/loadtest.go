package mesh

import (
	"slices"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// BaggageHeader is where the mark of a load test travels on, as a member of W3C baggage. Applications that hand on
// baggage, as OpenTelemetry's do, take it along to the services that they call.
const BaggageHeader = "baggage"

// LoadTestMember is the mark of a load test.
const LoadTestMember = "weir.load-test=1"

// baggageMark matches baggage with the mark among its members.
const baggageMark = `(.*,)?[ \t]*weir\.load-test[ \t]*=[ \t]*1[ \t]*([;,].*)?`

// Ever is the per of limits that hold in all: the store can't count for longer. What it gives back on the way is a
// request of twenty thousand a day.
const Ever = 70 * 365 * 24 * time.Hour

// Marked gives what matches requests that an earlier load test has marked: the mark in the place of those parts of the
// rule's match that tell load from real requests, which are headers, query and cookies.
func (r *Rule) Marked() policy.Match {
	mark := baggageMark
	return policy.Match{
		Path: r.Match.Path, Methods: r.Match.Methods, GRPC: r.Match.GRPC,
		Headers: []policy.NamedMatch{{Name: BaggageHeader, Regex: &mark}},
	}
}

// ended says whether a rule is a load test's that is over at now.
func ended(r *policy.Rule, now time.Time) bool {
	if r.LoadTest == nil {
		return false
	}
	ends := r.LoadTest.Ends()
	return !ends.IsZero() && !now.Before(ends)
}

// NextEnd gives when the first of the load tests that run at now is over; the zero time is never. Until then, [At] gives
// the same.
func NextEnd(set *policy.Set, now time.Time) (next time.Time) {
	for _, d := range set.Routes {
		for i := range d.Spec.Rules {
			r := &d.Spec.Rules[i]
			if r.LoadTest == nil || ended(r, now) {
				continue
			}
			if ends := r.LoadTest.Ends(); !ends.IsZero() && (next.IsZero() || ends.Before(next)) {
				next = ends
			}
		}
	}
	return next
}

// AnyEnded says whether the set has load tests that are over at now, which [At] leaves out.
func AnyEnded(set *policy.Set, now time.Time) bool {
	return slices.ContainsFunc(set.Routes, func(d *policy.Document[policy.RouteSpec]) bool {
		return slices.ContainsFunc(d.Spec.Rules, func(r policy.Rule) bool { return ended(&r, now) })
	})
}

// loadTest counts a load test's requests, if they are bounded. A load test that nobody counts must not go on, so that it
// is refused where the limit can't be asked.
func (b *builder) loadTest(r *Rule) {
	if r.LoadTest == nil || r.LoadTest.Requests == 0 {
		return
	}
	n := uint64(r.LoadTest.Requests)
	limit := &Limit{ID: "loadtest/" + r.Source.Ref().String() + "/" + r.Name, Source: r.Source, Requests: n, Per: Ever, Burst: n}
	b.limitsOf = append(b.limitsOf, limit)
	r.Global = append(r.Global, GlobalLimit{Limit: limit, DenyOnError: true})
}
