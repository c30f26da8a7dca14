package mesh

import (
	"iter"
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
func NextEnd(set *policy.Set, now time.Time) time.Time {
	return nextEnd(slices.Values(set.Routes), now)
}

func nextEnd(routes iter.Seq[*policy.Document[policy.RouteSpec]], now time.Time) (next time.Time) {
	for d := range routes {
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
func AnyEnded(set *policy.Set, now time.Time) bool { return anyEnded(slices.Values(set.Routes), now) }

func anyEnded(routes iter.Seq[*policy.Document[policy.RouteSpec]], now time.Time) bool {
	for d := range routes {
		if slices.ContainsFunc(d.Spec.Rules, func(r policy.Rule) bool { return ended(&r, now) }) {
			return true
		}
	}
	return false
}

// LoadTestID tells a load test from every other one, and from itself before an edit of its rule.
type LoadTestID struct {
	Route   policy.Ref
	Written uint64 // what [policy.LoadTest.Written] gives
}

// LoadTest is a load test that runs.
type LoadTest struct {
	ID       LoadTestID
	Rule     string
	Until    time.Time        // zero: no time is set
	LimitID  string           // of the limit that counts its requests; "": none does
	StopWhen *policy.StopWhen // nil: nothing stops it
	Real     []string         // the subsets, in order, that the Route's other rules send real requests to
}

// LoadTests gives the load tests that are not over at now, in the order of the set.
func LoadTests(set *policy.Set, now time.Time) (all []LoadTest) {
	for _, d := range set.Routes {
		for i := range d.Spec.Rules {
			if r := &d.Spec.Rules[i]; r.LoadTest != nil && !ended(r, now) {
				t := LoadTest{ID: idOf(d, r), Rule: r.Name, Until: r.LoadTest.Ends(), StopWhen: r.LoadTest.StopWhen, Real: realSubsets(d)}
				if r.LoadTest.Requests > 0 {
					t.LimitID = loadTestLimit(d.Ref(), r.Name)
				}
				all = append(all, t)
			}
		}
	}
	return all
}

func idOf(d *policy.Document[policy.RouteSpec], r *policy.Rule) LoadTestID {
	return LoadTestID{Route: d.Ref(), Written: r.LoadTest.Written()}
}

func realSubsets(d *policy.Document[policy.RouteSpec]) []string {
	var all []string
	for i := range d.Spec.Rules {
		r := &d.Spec.Rules[i]
		if r.LoadTest != nil {
			continue
		}
		for _, to := range r.To {
			all = append(all, SubsetName(to.Service, to.Version))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// HasLoadTest says whether the load test is in the set as it is, and whether its Route is in it at all.
func HasLoadTest(set *policy.Set, id LoadTestID) (has, route bool) {
	i := slices.IndexFunc(set.Routes, func(d *policy.Document[policy.RouteSpec]) bool { return d.Ref() == id.Route })
	if i < 0 {
		return false, false
	}
	d := set.Routes[i]
	return slices.ContainsFunc(d.Spec.Rules, func(r policy.Rule) bool { return r.LoadTest != nil && idOf(d, &r) == id }), true
}

// stopped is the rule of a load test that has stopped: marked requests would go on to real versions without it, just
// when those suffer.
func stopped(r *policy.Rule) *policy.Rule {
	return &policy.Rule{
		Name: r.Name, Match: r.Match, LoadTest: &policy.LoadTest{Until: r.LoadTest.Until},
		DirectResponse: &policy.DirectResponse{
			Status: 429, ContentType: "text/plain", Body: "the load test has stopped: real requests suffered\n",
		},
	}
}

func loadTestLimit(route policy.Ref, rule string) string {
	return "loadtest/" + route.String() + "/" + rule
}

// loadTest counts a load test's requests, if they are bounded. A load test that nobody counts must not go on, so that it
// is refused where the limit can't be asked.
func (b *builder) loadTest(r *Rule) {
	if r.LoadTest == nil || r.LoadTest.Requests == 0 {
		return
	}
	n := uint64(r.LoadTest.Requests)
	limit := &Limit{ID: loadTestLimit(r.Source.Ref(), r.Name), Source: r.Source, Requests: n, Per: Ever, Burst: n, DenyOnError: true}
	b.limitsOf = append(b.limitsOf, limit)
	r.Global = append(r.Global, GlobalLimit{Limit: limit})
}
