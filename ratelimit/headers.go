package ratelimit

import (
	"math"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// The headers of an answer, on refusals and on what passes. RateLimit and RateLimit-Policy are those of
// draft-ietf-httpapi-ratelimit-headers-09, structured fields with one item a limit; x-ratelimit-* are made by Envoy
// from the statuses, if its filter is told so. Shadow limits show nowhere.
const (
	retryHeader  = "retry-after"
	limitHeader  = "ratelimit"
	policyHeader = "ratelimit-policy"
)

// maxInteger is the largest integer of structured fields: RFC 9651, section 3.3.1.
const maxInteger = 999_999_999_999_999

// headers tells of the limits that were asked: all of them as policy, and of the tightest where it stands.
func (q *question) headers(allowed bool) []*corev3.HeaderValue {
	tightest, policy := q.tightest()
	if tightest == nil {
		return nil
	}
	d := &tightest.hit.Decision
	wait := d.Reset
	headers := make([]*corev3.HeaderValue, 0, 3)
	if !allowed {
		// The draft wants t to be the same instant as Retry-After where there are both.
		wait = d.RetryAfter
		headers = append(headers, &corev3.HeaderValue{Key: retryHeader, Value: strconv.FormatUint(max(seconds(wait), 1), 10)})
		wait = max(wait, time.Second)
	}
	return append(headers, &corev3.HeaderValue{Key: limitHeader, Value: limitItem(tightest.limit.name, d.Remaining, wait)}, policy)
}

// tightest is, of the limits that refuse, the one that does so for longest, or if none does, the one with the least
// remaining; nil if there is none that may refuse. Beside it is what they are.
func (q *question) tightest() (tightest *asked, policy *corev3.HeaderValue) {
	for i := range q.asked {
		a := &q.asked[i]
		if a.limit == nil || a.limit.Shadow {
			continue
		}
		if tightest == nil {
			tightest, policy = a, a.limit.policy
			continue
		}
		policy = &corev3.HeaderValue{Key: policyHeader, Value: policy.Value + ", " + a.limit.policy.Value}
		if tighter(&a.hit.Decision, &tightest.hit.Decision) {
			tightest = a
		}
	}
	return tightest, policy
}

func tighter(a, b *Decision) bool {
	if a.Allowed && b.Allowed {
		return a.Remaining < b.Remaining
	}
	return a.RetryAfter > b.RetryAfter
}

// policyItem names what the limit allows: q in w seconds, and at once another number if it is another.
func (l *limit) policyItem() string {
	b := append([]byte(l.name), ";q="...)
	b = strconv.AppendUint(b, min(l.Requests, maxInteger), 10)
	b = append(b, ";w="...)
	b = strconv.AppendUint(b, seconds(l.Per), 10)
	if l.Burst != l.Requests {
		b = append(b, ";weir-burst="...)
		b = strconv.AppendUint(b, min(l.Burst, maxInteger), 10)
	}
	return string(b)
}

func limitItem(name string, remaining uint64, wait time.Duration) string {
	b := append(make([]byte, 0, len(name)+40), name...)
	b = append(b, ";r="...)
	b = strconv.AppendUint(b, min(remaining, maxInteger), 10)
	b = append(b, ";t="...)
	b = strconv.AppendUint(b, seconds(wait), 10)
	return string(b)
}

// seconds rounds up.
func seconds(d time.Duration) uint64 {
	s := uint64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}

// quote writes a string of structured fields, RFC 9651, section 3.3.3; what they can't hold becomes an underscore.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r > 0x7e:
			b.WriteByte('_')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// narrow is n, or the most that 32 bits hold.
func narrow(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
