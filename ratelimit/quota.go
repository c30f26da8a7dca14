package ratelimit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"github.com/machinenativeops/weir/mesh"
)

// Quota is a limit on a key as package quota shares it out among those who decide by themselves. The zero value is no
// limit.
type Quota struct {
	Key      string        // of the counter; "" where no limit is for what was asked
	Requests uint64        // per Per
	Per      time.Duration // 0 only where there is no limit
	Burst    uint64        // at once, beyond that
	Shadow   bool

	hit    Hit
	counts *counts
}

// Longest periods of the calendar.
const (
	longestMonth = 31 * 24 * time.Hour
	longestYear  = 366 * 24 * time.Hour
)

// Quota finds the limit of a bucket: limit is its ID, and what is there beside it is what the limit is by. Those who decide
// by themselves have token buckets. Of a limit with windows they get half at once and half evenly, so that no more pass in
// any window than it allows.
func (s *Service) Quota(domain string, bucket map[string]string) Quota {
	d := &commonratelimitv3.RateLimitDescriptor{}
	if domain != mesh.LimitDomain || bucket[mesh.LimitKey] == "" {
		return Quota{}
	}
	d.Entries = []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: mesh.LimitKey, Value: bucket[mesh.LimitKey]}}
	l := s.limits.Load().limit(d)
	if l == nil {
		return Quota{}
	}
	// In the order in which a question has them, so that the counter is the same.
	names := slices.Sorted(maps.Keys(bucket))
	place := func(name string) int {
		for i, by := range l.By {
			if by.Header == name || by.RemoteAddress && name == "remote_address" {
				return i
			}
		}
		return len(l.By)
	}
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	for _, name := range names {
		if name != mesh.LimitKey {
			d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: name, Value: mesh.LimitValue(bucket[name])})
		}
	}
	q := Quota{Requests: l.Requests, Per: l.Per, Burst: l.Burst, Shadow: l.Shadow, counts: l.counts}
	if l.rate.algorithm != GCRA {
		q.Requests, q.Burst = l.Requests/2, l.Requests-l.Requests/2
	}
	switch {
	case l.Months >= 12:
		q.Per = time.Duration(l.Months/12) * longestYear
	case l.Months > 0:
		q.Per = time.Duration(l.Months) * longestMonth
	}
	key := l.appendKey(nil, d.GetEntries()[1:])
	q.Key = string(key)
	q.hit = Hit{Key: key, Rate: &l.rate, Kind: Charge, Shadow: l.Shadow}
	return q
}

// Report counts what was decided elsewhere by a quota, also against the counter of those who ask. Of a shadow, which
// refuses nobody, a report that goes beyond the limit counts as one of requests that it would have refused.
func (s *Service) Report(ctx context.Context, q *Quota, allowed, denied uint64) error {
	if q.Key == "" {
		return nil
	}
	q.counts.refused.Add(denied)
	if allowed == 0 {
		return nil
	}
	hits := []Hit{q.hit}
	hits[0].N = allowed
	if _, err := s.store.Take(ctx, s.now(), hits); err != nil {
		return fmt.Errorf("charge what a proxy reports: %w", err)
	}
	if q.Shadow && !hits[0].Decision.Allowed {
		q.counts.shadowRefused.Add(allowed)
	} else {
		q.counts.allowed.Add(allowed)
	}
	return nil
}
