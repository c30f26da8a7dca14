package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/machinenativeops/weir/policy"
)

// LimitDomain is the domain of every question that Envoys ask the rate limit service about a [Limit].
const LimitDomain = "weir"

// LimitKey is the key of a descriptor's first entry; its value is a [Limit]'s ID. The entries after it, in order,
// are what the limit is by: together they name the counter.
const LimitKey = "limit"

// ChargeKey is in the place of [LimitKey] where what a request cost is told after its answer: it is counted against
// the same counter, whether it still fits or not.
const ChargeKey = "charge"

// Limit is one global limit, shared by all replicas of all proxies. xds writes its descriptor into routes, ratelimit
// looks the same one up.
type Limit struct {
	ID          string // unique and stable: of the document and the limit's place in it
	Source      policy.Key
	By          []policy.LimitBy
	Algorithm   string        // gcra (also ""), sliding_window or fixed_window
	Requests    uint64        // per Per; 0 refuses everything
	Per         time.Duration // of windows whole seconds; 0 with Months
	Months      int           // of a fixed window that goes by the calendar: 1 is a month, 12 a year
	Cost        *policy.Cost  // how many requests one counts for; nil: one
	Burst       uint64        // of gcra: how many may pass at once; >= 1 unless Requests is 0
	Shadow      bool          // counted, never refused
	DenyOnError bool          // refused where it can't be asked
	Hide        Hide
}

func (b *builder) ruleLimit(r *Rule, l *policy.RuleLimit) {
	rate := distinct(l.Limit)
	limit := newLimit("route/"+r.Source.Ref().String()+"/"+r.Name, r.Source, rate)
	limit.Hide = hide(l.Headers)
	if l.Scope == "local" {
		r.Local = append(r.Local, LocalLimit{ID: limit.ID, Source: limit.Source, Limit: rate, Hide: limit.Hide})
		return
	}
	b.limitsOf = append(b.limitsOf, limit)
	r.Global = append(r.Global, GlobalLimit{Limit: limit})
}

// limit adds the RateLimit documents of a service: the local ones to the service, the global ones to each of its rules.
func (b *builder) limit(s *Service) {
	for _, d := range b.limits[s.Name] {
		source, all := key("RateLimit", d.Metadata), make([]policy.Limit, len(d.Spec.Limits))
		for i, l := range d.Spec.Limits {
			all[i] = distinct(l)
		}
		for i, l := range all {
			limit, except := newLimit(fmt.Sprintf("limit/%s/%d", source.Ref(), i), source, l), exceptions(all, l)
			limit.Hide, limit.DenyOnError = hide(d.Spec.Headers), d.Spec.OnError == "deny"
			if d.Spec.Scope == "local" {
				s.Local = append(s.Local, LocalLimit{ID: limit.ID, Source: source, Limit: l, Except: except, Hide: limit.Hide})
				continue
			}
			b.limitsOf = append(b.limitsOf, limit)
			if d.Spec.Scope == "quota" {
				s.Quota = append(s.Quota, GlobalLimit{Limit: limit, Except: except})
				continue
			}
			for _, r := range s.Rules {
				if r.Answers() != "" { // Envoy asks none there
					continue
				}
				r.Global = append(r.Global, GlobalLimit{Limit: limit, Except: except})
			}
		}
	}
}

// distinct gives what a limit is by, once each, with headers in lower case as on the wire. A header of which some values
// are taken only is not there without a condition too.
func distinct(l policy.Limit) policy.Limit {
	var all []policy.LimitBy
	for _, by := range l.By {
		by.Header = strings.ToLower(by.Header)
		some := by.Any() && slices.ContainsFunc(l.By, func(other policy.LimitBy) bool {
			return !other.Any() && strings.EqualFold(other.Header, by.Header)
		})
		if !some && !slices.Contains(all, by) {
			all = append(all, by)
		}
	}
	l.By = all
	return l
}

func newLimit(id string, source policy.Key, l policy.Limit) *Limit {
	return &Limit{
		ID: id, Source: source, By: l.By, Algorithm: l.Algorithm, Requests: uint64(l.Requests), Per: l.Per.Duration(),
		Months: l.Per.Months(), Burst: uint64(max(1, l.Burst)), Cost: l.Cost, Shadow: l.Shadow,
	}
}

// exceptions are the requests that a limit leaves to others of its document: those that another one takes which says of a
// header more closely what it is for (one value, or else values of some form, or else any) and of none less so. A
// request is left to another limit only where that one takes it, and never in a circle, so that none escapes them all; and
// to a shadow only by a shadow, which changes nothing that counts.
func exceptions(all []policy.Limit, l policy.Limit) []Exception {
	var found []Exception
	for _, other := range all {
		if other.Shadow && !l.Shadow || !closer(other, l) {
			continue
		}
		var e Exception
		for _, by := range other.By {
			if by.Header != "" && !by.Any() {
				by.Share = false // says nothing of which requests they are
				e = append(e, by)
			}
		}
		slices.SortFunc(e, compareBy)
		found = append(found, slices.Compact(e))
	}
	slices.SortFunc(found, func(a, c Exception) int { return slices.CompareFunc(a, c, compareBy) })
	return slices.CompactFunc(found, slices.Equal)
}

// closer says whether a limit says more closely than another which values of a header it is for, and nothing less so.
func closer(other, l policy.Limit) bool {
	found := false
	for _, by := range l.By {
		if by.Header == "" {
			continue
		}
		a, b := closeness(other, by.Header), closeness(l, by.Header)
		if a < b {
			return false
		}
		found = found || a > b
	}
	return found
}

// closeness is how closely a limit says which values of a header it is for.
func closeness(l policy.Limit, header string) int {
	most := 0
	for _, by := range l.By {
		switch {
		case by.Header != header || by.Any():
		case by.Exact != "":
			most = 2
		default:
			most = max(most, 1)
		}
	}
	return most
}

func compareBy(a, c policy.LimitBy) int {
	return cmp.Or(
		cmp.Compare(a.Header, c.Header), cmp.Compare(a.Exact, c.Exact), cmp.Compare(a.Prefix, c.Prefix),
		cmp.Compare(a.Suffix, c.Suffix), cmp.Compare(a.Regex, c.Regex))
}

// PerName is what the limit is per, as a document has it; "" is ever.
func (l *Limit) PerName() string {
	switch l.Months {
	case 1:
		return "month"
	case 12:
		return "year"
	}
	switch l.Per {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	case 7 * 24 * time.Hour:
		return "week"
	case Ever:
		return ""
	default:
		return policy.Duration(l.Per).Text()
	}
}

// Hide is of which headers answers have none for a limit.
type Hide struct{ RateLimit, XRateLimit, RetryAfter bool }

func hide(h policy.LimitHeaders) Hide {
	if h.XRateLimit == nil {
		return Hide{RateLimit: true, XRateLimit: true, RetryAfter: true} // there are none
	}
	return Hide{RateLimit: h.RateLimit == nil || !*h.RateLimit, XRateLimit: !*h.XRateLimit, RetryAfter: !*h.RetryAfter}
}

// LimitValue is a header's value as it counts. Each byte that is not of UTF-8 text, which a message can't have in a
// string, is written as \xHH: values that differ still do.
func LimitValue(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}
