package policy

import (
	"slices"
	"strings"
	"time"
)

// Ends is when the load test is over by its document; the zero time is never.
func (l *LoadTest) Ends() time.Time {
	if l.Until == nil {
		return time.Time{}
	}
	return time.Time(*l.Until)
}

// Written tells the load test as its rule is written from the same one before an edit of that rule: a hash of what the
// rule says, without its layout and comments, which later versions of Weir give too.
func (l *LoadTest) Written() uint64 { return l.written }

// reported is how often proxies tell how requests fare: no window is shorter than a few times of that.
const reported = time.Second

func (s *StopWhen) defaults() {
	orNew(&s.Window, Duration(10*time.Second))
	orNew(&s.MinRequests, 100)
}

func (s *StopWhen) check(c *checker, path string) {
	if s.Errors == nil && s.MeanLatency == nil {
		c.problem(path, "", "nothing says what real requests may suffer: give errors, meanLatency or both")
	}
	if e := s.Errors; e != nil && !(*e >= 0 && *e < 100) {
		c.problem(path+".errors", "", "want a percentage from 0 to less than 100, got %v", *e)
	}
	if s.MeanLatency != nil {
		c.duration(path+".meanLatency", *s.MeanLatency, false)
	}
	if w := s.Window; w != nil && (time.Duration(*w) < 3*reported || time.Duration(*w) > 10*time.Minute) {
		c.problem(path+".window", "", "want a duration from 3s to 10m, got %s", w.Text())
	}
	if n := s.MinRequests; n != nil {
		c.between(path+".minRequests", *n, 1, 1_000_000_000)
	}
}

// checkReal refuses load tests that watch real requests where there are none.
func (s *RouteSpec) checkReal(c *checker) {
	someReal := slices.ContainsFunc(s.Rules, func(r Rule) bool { return r.LoadTest == nil && r.Answers() == "" })
	for i := range s.Rules {
		if l := s.Rules[i].LoadTest; l != nil && l.StopWhen != nil && !someReal {
			c.problem(item("spec.rules", i)+".loadTest.stopWhen", "", "there are no real requests that could suffer: no other rule of this Route sends any on")
		}
	}
}

func (r *Rule) checkLoadTest(c *checker, path string) {
	l := r.LoadTest
	if l == nil {
		return
	}
	if l.Until == nil && l.Requests == 0 {
		c.problem(path+".loadTest", "", "a load test ends by itself: give until, requests or both")
	}
	c.between(path+".loadTest.requests", l.Requests, 0, 1_000_000_000)
	if l.StopWhen != nil {
		l.StopWhen.check(c, path+".loadTest.stopWhen")
	}
	if m := r.Match; len(m.Headers)+len(m.Query)+len(m.Cookies) == 0 {
		c.problem(path+".loadTest", "", "nothing tells the load from real requests: give the rule a match with a header, a query parameter or a cookie that marks it")
	}
	if r.RateLimit != nil && r.RateLimit.Scope == "local" {
		c.problem(path+".rateLimit.scope", "", "a load test's limit is global")
	}
	for word, changes := range map[string]map[string]string{"add": r.RequestHeaders.Add, "set": r.RequestHeaders.Set} {
		for name := range changes {
			c.notBaggage(path+".requestHeaders."+word+"."+name, name)
		}
	}
	for _, name := range r.RequestHeaders.Remove {
		c.notBaggage(path+".requestHeaders.remove", name)
	}
}

func (c *checker) notBaggage(path, name string) {
	if strings.EqualFold(name, "baggage") {
		c.problem(path, "", "a load test writes its mark into this header by itself: leave it alone")
	}
}
