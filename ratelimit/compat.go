package ratelimit

import (
	"context"
	"slices"
	"strconv"
)

// Compat is what envoyproxy/ratelimit has in its environment, for the domains of [Service.ApplyDomains].
type Compat struct {
	Headers HeaderNames // of answers; those without a name are left out
	Shadow  bool        // no question is refused, whatever its statuses say
}

// HeaderNames are those of the headers which tell of the limit that is nearest, or of the last that refuses.
type HeaderNames struct{ Limit, Remaining, Reset string }

// appendCompatHeaders tells of a domain's limit what envoyproxy/ratelimit does.
func (q *question) appendCompatHeaders(out []byte, names HeaderNames) []byte {
	var nearest *asked
	for i := range q.asked {
		a := &q.asked[i]
		if a.hit == nil || !a.limit.compat {
			continue
		}
		d := &a.hit.Decision
		if nearest == nil || d.Remaining < nearest.hit.Decision.Remaining || !d.Allowed && !a.limit.Shadow && !a.limit.quota {
			nearest = a
		}
	}
	if nearest == nil {
		return out
	}
	for _, h := range []struct {
		name  string
		value uint64
	}{
		{names.Limit, nearest.limit.Requests},
		{names.Remaining, uint64(narrow(nearest.hit.Decision.Remaining))},
		{names.Reset, seconds(nearest.hit.Decision.Reset)},
	} {
		if h.name != "" {
			var start header
			out, start = beginHeader(out, h.name)
			out = start.end(strconv.AppendUint(out, h.value, 10))
		}
	}
	return out
}

// overdraws says that the hit is counted even if its own limit refuses it. What a request cost comes after it has
// passed, in one piece, from those who ask like Envoy's AI gateway: were it left out, a limit that has less left than a
// request costs would never be used up.
func (h *Hit) overdraws() bool { return h.Kind == Take && h.N > 1 }

// overdraw counts what their own limits refused.
func (s *Service) overdraw(ctx context.Context, now int64, q *question) {
	q.charges = q.charges[:0]
	for i := range q.hits {
		if h := &q.hits[i]; h.overdraws() && !h.Decision.Allowed {
			h.Decision.Remaining = 0
			charge := Hit{Key: h.Key, Rate: h.Rate, N: h.N, Kind: Charge, Shadow: h.Shadow, Quota: h.Quota}
			q.charges = append(q.charges, charge)
		}
	}
	if len(q.charges) == 0 {
		return
	}
	if _, err := s.store.Take(ctx, now, q.charges); err != nil {
		s.metrics.errors.Add(1)
		_ = s.unavailable(err) // the question is answered all the same
	}
	q.charges = slices.Delete(q.charges, 0, len(q.charges)) // their keys are other hits'
}

// replacedBy says whether one of these names is the limit's. What is unlimited counts nothing, and stays.
func (l *limit) replacedBy(names []string) bool {
	return l.replaceable != "" && !l.unlimited && slices.Contains(names, l.replaceable)
}
