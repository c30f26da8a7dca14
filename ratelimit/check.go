package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/machinenativeops/weir/policy"
)

// Standing is where a key stands at a limit.
type Standing struct {
	Limit      string     `json:"limit"`
	Source     policy.Key `json:"source,omitzero"`
	Requests   uint64     `json:"requests"`
	Per        string     `json:"per"`
	Algorithm  string     `json:"algorithm"`
	Shadow     bool       `json:"shadow"`
	Allowed    bool       `json:"allowed"`    // whether one more request would be
	Remaining  uint64     `json:"remaining"`  // single requests that would pass at once
	RetryAfter string     `json:"retryAfter"` // when one more would be allowed
	Reset      string     `json:"reset"`      // until it is as if never used
}

// ErrNoLimit says that no limit is for what was asked.
var ErrNoLimit = errors.New("no limit in force is for this descriptor")

// Check tells where the key of a descriptor stands, and counts nothing.
func (s *Service) Check(ctx context.Context, domain string, d *commonratelimitv3.RateLimitDescriptor) (Standing, error) {
	q := new(question)
	if err := q.read(&ratelimitsvcv3.RateLimitRequest{Domain: domain, Descriptors: []*commonratelimitv3.RateLimitDescriptor{d}}, s.limits.Load()); err != nil {
		return Standing{}, err
	}
	a := &q.asked[0]
	if a.limit == nil {
		return Standing{}, ErrNoLimit
	}
	l := a.limit
	if wants, ok := l.fits(d.GetEntries()); !ok {
		return Standing{}, fmt.Errorf("%w: %s is by %s", ErrNoLimit, l.ID, wants)
	}
	out := Standing{Limit: l.ID, Source: l.Source, Requests: l.Requests, Per: perName(l), Algorithm: l.rate.Algorithm().String(), Shadow: l.Shadow, Allowed: true, RetryAfter: "0s", Reset: "0s"}
	if a.hit == nil { // unlimited
		out.Remaining = l.rate.Limit()
		return out, nil
	}
	a.hit.Kind, a.hit.N = Take, 0
	if _, err := s.store.Take(ctx, s.now(), q.hits); err != nil {
		return Standing{}, fmt.Errorf("ask the store of rate limits: %w", err)
	}
	found := a.hit.Decision
	out.Allowed, out.Remaining, out.RetryAfter, out.Reset = found.Allowed, found.Remaining, wholeMillis(found.RetryAfter), wholeMillis(found.Reset)
	return out, nil
}

// wholeMillis is for people, and rounds up: what is told to wait for is enough.
func wholeMillis(d time.Duration) string {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond).String()
}

// fits says whether a request at a limit of a document can have these entries, and what they have to be.
func (l *limit) fits(entries []*commonratelimitv3.RateLimitDescriptor_Entry) (wants string, ok bool) {
	if l.compat {
		return "", true
	}
	entries, ok = entries[1:], true
	var all []string
	take := func(key, value string, optional bool) {
		all = append(all, key+"="+cmp.Or(value, "VALUE"))
		switch {
		case len(entries) > 0 && entries[0].GetKey() == key && (value == "" || entries[0].GetValue() == value):
			entries = entries[1:]
		case !optional:
			ok = false
		}
	}
	for _, by := range l.By {
		switch {
		case by.RemoteAddress:
			take("remote_address", "", false)
		case by.Any():
			take(by.Header, "", true) // requests without the header share a counter
		default:
			take(by.Header, by.Form(), false)
			if by.Exact == "" && !by.Share {
				take(by.Header, "", false)
			}
		}
	}
	entries = slices.DeleteFunc(slices.Clone(entries), func(e *commonratelimitv3.RateLimitDescriptor_Entry) bool { return l.markers && e.GetKey() == notKey })
	return cmp.Or(strings.Join(all, " "), "nothing: all requests share one counter"), ok && len(entries) == 0
}

// ParseDescriptor reads domain=DOMAIN KEY=VALUE KEY=VALUE…; a value with a space in it is in double quotes.
func ParseDescriptor(text string) (domain string, d *commonratelimitv3.RateLimitDescriptor, err error) {
	d = new(commonratelimitv3.RateLimitDescriptor)
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || key == "" || strings.ContainsAny(key, " \t\"") {
			return "", nil, fmt.Errorf("want domain=DOMAIN KEY=VALUE…, got %q", rest)
		}
		var value string
		if strings.HasPrefix(after, `"`) {
			end := strings.IndexByte(after[1:], '"')
			if end < 0 {
				return "", nil, fmt.Errorf("%s: the closing quote is missing", key)
			}
			value, rest = after[1:1+end], after[2+end:]
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		if domain == "" {
			if key != "domain" || value == "" {
				return "", nil, fmt.Errorf("want domain=DOMAIN first, got %q", text)
			}
			domain = value
			continue
		}
		d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	if len(d.GetEntries()) == 0 {
		return "", nil, fmt.Errorf("want domain=DOMAIN and a KEY=VALUE at least, got %q", text)
	}
	return domain, d, nil
}
