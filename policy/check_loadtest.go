package policy

import (
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

func (r *Rule) checkLoadTest(c *checker, path string) {
	l := r.LoadTest
	if l == nil {
		return
	}
	if l.Until == nil && l.Requests == 0 {
		c.problem(path+".loadTest", "", "a load test ends by itself: give until, requests or both")
	}
	c.between(path+".loadTest.requests", l.Requests, 0, 1_000_000_000)
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
