package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Period is what a limit's requests are per: a unit, or a duration such as 30s, 5m or 7d.
type Period string

var periods = map[Period]time.Duration{
	"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour,
}

var periodMonths = map[Period]int{"month": 1, "year": 12}

const (
	minPeriod = time.Second
	maxPeriod = 366 * 24 * time.Hour
)

func (p Period) check(c *checker, path string) {
	if p.Duration() > 0 || p.Months() > 0 {
		return
	}
	words := map[string]bool{"second": true, "minute": true, "hour": true, "day": true, "week": true, "month": true, "year": true}
	c.problem(path, closest(string(p), words),
		"want second, minute, hour, day, week, month, year, or a duration of whole seconds from 1s to 366d such as 30s, got %q", string(p))
}

// Duration is how long the period is; 0 for those of the calendar.
func (p Period) Duration() time.Duration {
	if d, ok := periods[p]; ok {
		return d
	}
	var d Duration
	if d.parse(string(p)) != nil || time.Duration(d) < minPeriod || time.Duration(d) > maxPeriod || time.Duration(d)%time.Second != 0 {
		return 0
	}
	return time.Duration(d)
}

// Months is how many months of the calendar the period is, in UTC; 0 for those that are no such.
func (p Period) Months() int { return periodMonths[p] }

// The algorithms of limits.
const (
	GCRA          = "gcra"
	SlidingWindow = "sliding_window"
	FixedWindow   = "fixed_window"
)

var algorithms = []string{GCRA, SlidingWindow, FixedWindow}

// algorithm is the limit's, or the default.
func (l *Limit) algorithm() string {
	switch {
	case l.Algorithm != "":
		return l.Algorithm
	case l.Per.Months() > 0:
		return FixedWindow
	default:
		return GCRA
	}
}

func (h *LimitHeaders) defaults(scope string) {
	if scope == "quota" {
		return // there are none
	}
	if scope != "local" { // else there are none
		orNew(&h.RateLimit, true)
	}
	orNew(&h.XRateLimit, true)
	orNew(&h.RetryAfter, true)
}

func (l *Limit) defaults() {
	l.Algorithm = l.algorithm()
	or(&l.Burst, l.Requests)
}

// Charged says whether requests are charged when their answers are complete.
func (k *Cost) Charged() bool {
	return k != nil && (k.ResponseHeader != "" || k.RequestBytes || k.ResponseBytes)
}

// Text is it in words; "" is one.
func (k *Cost) Text() string {
	switch {
	case k == nil:
		return ""
	case k.RequestHeader != "":
		return "what its " + k.RequestHeader + " says"
	case k.ResponseHeader != "":
		return "what its answer's " + k.ResponseHeader + " says"
	case k.RequestBytes:
		return "the bytes of its body"
	case k.ResponseBytes:
		return "the bytes of its answer's body"
	default:
		return strconv.Itoa(k.Number)
	}
}

// maxCost is Envoy's bound.
const maxCost = 1_000_000_000

func (l *Limit) check(c *checker, path, scope string) {
	c.between(path+".requests", l.Requests, 0, 1_000_000_000)
	c.between(path+".burst", l.Burst, 0, 1_000_000_000)
	c.notZero(path + ".burst")
	l.Per.check(c, path+".per")
	l.checkAlgorithm(c, path, scope)
	for i, by := range l.By {
		by.check(c, item(path+".by", i))
	}
	if l.Cost != nil {
		l.Cost.check(c, path+".cost", scope)
		if scope == "quota" {
			c.problem(path+".cost", "", "a proxy that decides by a quota counts each request as one: want scope: global, or no cost")
		}
	}
	for _, f := range []givenField{{"perConnection", l.PerConnection}, {"fairShare", l.FairShare}} {
		if f.given && scope != "local" {
			c.problem(path+"."+f.name, "", "this is of limits that each Envoy holds by itself: want scope: local, or no %s", f.name)
		}
	}
	if l.PerConnection && l.FairShare {
		c.problem(path+".fairShare", "", "a connection is of one proxy: want perConnection or fairShare")
	}
}

func (l *Limit) checkAlgorithm(c *checker, path, scope string) {
	if l.Algorithm != "" {
		c.oneOf(path+".algorithm", l.Algorithm, algorithms)
	}
	algorithm := l.algorithm()
	if !slices.Contains(algorithms, algorithm) {
		return
	}
	switch {
	case l.Per.Months() > 0 && algorithm != FixedWindow:
		c.problem(path+".per", "", "a %s of the calendar is a fixed window: want algorithm: fixed_window, or a duration such as 30d", l.Per)
	case scope == "local" && l.Per.Months() > 0:
		c.problem(path+".per", "", "Envoy's own buckets know no calendar: want scope: global, or a duration such as 30d")
	case scope == "local" && algorithm != GCRA:
		c.problem(path+".algorithm", "", "Envoy's own buckets fill evenly, as with gcra: want scope: global for %s", algorithm)
	}
	if l.Burst != 0 && algorithm != GCRA && l.Burst != l.Requests {
		c.problem(path+".burst", "", "a %s has no burst beside its requests: want algorithm: gcra, or no burst", algorithm)
	}
}

func (by LimitBy) check(c *checker, path string) {
	if (by.Header == "") == !by.RemoteAddress {
		c.problem(path, "", "want exactly one of header and remoteAddress: true")
	}
	if by.Header != "" {
		c.headerName(path+".header", by.Header)
	}
	given := 0
	for _, f := range []struct{ name, value string }{{"exact", by.Exact}, {"prefix", by.Prefix}, {"suffix", by.Suffix}, {"regex", by.Regex}} {
		if f.value == "" {
			continue
		}
		given++
		if by.Header == "" {
			c.problem(path+"."+f.name, "", "%s goes with header", f.name)
		}
		if f.name == "regex" {
			c.regex(path+".regex", f.value)
		}
	}
	if given > 1 {
		c.problem(path, "", "want at most one of exact, prefix, suffix and regex")
	}
	if by.Share && !by.Pattern() {
		c.problem(path+".share", "", "share goes with prefix, suffix or regex")
	}
}

// Pattern says whether it is for values of some form.
func (by LimitBy) Pattern() bool { return by.Prefix != "" || by.Suffix != "" || by.Regex != "" }

// Any says whether it counts each value of the header apart, whatever it is.
func (by LimitBy) Any() bool { return by.Header != "" && by.Exact == "" && !by.Pattern() }

// Form stands for all values that it is for: gold, gold-*, *-ci or a regular expression.
func (by LimitBy) Form() string {
	switch {
	case by.Prefix != "":
		return by.Prefix + "*"
	case by.Suffix != "":
		return "*" + by.Suffix
	case by.Regex != "":
		return by.Regex
	default:
		return by.Exact
	}
}

// Text is it in words: x-tenant, x-tenant = "gold", x-tenant = "gold-"*.
func (by LimitBy) Text() string {
	switch {
	case by.RemoteAddress:
		return "remote address"
	case by.Exact != "":
		return fmt.Sprintf("%s = %q", by.Header, by.Exact)
	case by.Prefix != "":
		return fmt.Sprintf("%s = %q*", by.Header, by.Prefix)
	case by.Suffix != "":
		return fmt.Sprintf("%s = *%q", by.Header, by.Suffix)
	case by.Regex != "":
		return fmt.Sprintf("%s ~ %q", by.Header, by.Regex)
	default:
		return by.Header
	}
}

// costHeader are the names that Envoy can be asked for within an expression.
var costHeader = regexp.MustCompile(`^[-_.0-9A-Za-z]+$`)

func (k *Cost) check(c *checker, path, scope string) {
	if count(k.Number != 0, k.RequestHeader != "", k.ResponseHeader != "", k.RequestBytes, k.ResponseBytes) != 1 {
		c.problem(path, "", "want exactly one of number, requestHeader, responseHeader, requestBytes: true and responseBytes: true")
		return
	}
	if k.Number != 0 {
		c.between(path+".number", k.Number, 1, maxCost)
	}
	for name, header := range map[string]string{"requestHeader": k.RequestHeader, "responseHeader": k.ResponseHeader} {
		if header != "" && !costHeader.MatchString(header) {
			c.problem(path+"."+name, "", "want a header's name of letters, digits, -, _ and ., got %q", header)
		}
	}
	if k.Charged() && scope == "local" {
		c.problem(path, "", "Envoy's own buckets are asked before a request is sent on, and charged nothing after it: want number, requestHeader, or scope: global")
	}
}
