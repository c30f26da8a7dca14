package ratelimit

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
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

// appendHeaders tells of the limits that were asked: all of them as policy, and of the tightest where it stands.
func (q *question) appendHeaders(out []byte, allowed bool) []byte {
	if !allowed {
		if a := q.tightest(hidesRetry); a != nil && !a.hit.Decision.Allowed {
			var h header
			out, h = beginHeader(out, retryHeader)
			out = h.end(strconv.AppendUint(out, seconds(max(a.hit.Decision.RetryAfter, time.Second)), 10))
		}
	}
	tightest := q.tightest(hidesLimit)
	if tightest == nil {
		return out
	}
	d := &tightest.hit.Decision
	wait := d.Reset
	if !d.Allowed {
		// The draft wants t to be the same instant as Retry-After where there are both.
		wait = max(d.RetryAfter, time.Second)
	}
	out, h := beginHeader(out, limitHeader)
	out = h.end(appendLimitItem(out, tightest.limit.name, d.Remaining, wait))
	out, h = beginHeader(out, policyHeader)
	return h.end(q.appendPolicies(out))
}

// header is one that is being written: where it and its value begin.
type header struct{ start, value int }

func beginHeader(out []byte, key string) ([]byte, header) {
	var h header
	out, h.start = begin(out, headersToAdd)
	out, key0 := begin(out, headerKey)
	out, h.value = begin(end(append(out, key...), key0), headerValue)
	return out, h
}

func (h header) end(out []byte) []byte { return end(end(out, h.value), h.start) }

// appendPolicies names each limit that was asked, once.
func (q *question) appendPolicies(out []byte) []byte {
	start := len(out)
	for i := range q.asked {
		l := q.asked[i].limit
		if l == nil || l.Shadow || l.compat || l.Hide.RateLimit || slices.ContainsFunc(q.asked[:i], func(a asked) bool { return a.limit == l }) {
			continue
		}
		if len(out) > start {
			out = append(out, ", "...)
		}
		out = append(out, l.policy...)
	}
	return out
}

// tightest is, of the limits that refuse, the one that does so for longest, or if none does, the one with the least
// remaining; nil if there is none that may refuse. Those that hide are left out.
func (q *question) tightest(hides func(*limit) bool) (tightest *asked) {
	for i := range q.asked {
		a := &q.asked[i]
		if a.limit == nil || a.limit.Shadow || a.limit.compat || hides(a.limit) {
			continue
		}
		if tightest == nil || tighter(&a.hit.Decision, &tightest.hit.Decision) {
			tightest = a
		}
	}
	return tightest
}

func hidesRetry(l *limit) bool { return l.Hide.RetryAfter }

func hidesLimit(l *limit) bool { return l.Hide.RateLimit }

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
	if l.Months == 0 { // no two months are of one length
		b = append(b, ";w="...)
		b = strconv.AppendUint(b, seconds(l.Per), 10)
	}
	if l.rate.algorithm == GCRA && l.Burst != l.Requests {
		b = append(b, ";weir-burst="...)
		b = strconv.AppendUint(b, min(l.Burst, maxInteger), 10)
	}
	return string(b)
}

func appendLimitItem(b []byte, name string, remaining uint64, wait time.Duration) []byte {
	b = append(append(b, name...), ";r="...)
	b = strconv.AppendUint(b, min(remaining, maxInteger), 10)
	return strconv.AppendUint(append(b, ";t="...), seconds(wait), 10)
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
