package ratelimit

import (
	"cmp"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/machinenativeops/weir/policy"
)

// Status is what a [Service] has done.
type Status struct {
	Limits  []LimitStatus `json:"limits"` // by ID
	Store   Stats         `json:"store"`
	Unknown uint64        `json:"unknown"` // descriptors of no limit in force; they refused nobody
}

// LimitStatus is what became of the requests at one limit since it came into force. A request that another limit
// refused is in none of the numbers.
type LimitStatus struct {
	ID            string     `json:"id"`
	Source        policy.Key `json:"source,omitzero"`
	Requests      uint64     `json:"requests"`
	Per           string     `json:"per"`
	Algorithm     string     `json:"algorithm"`
	Burst         uint64     `json:"burst"`
	Shadow        bool       `json:"shadow"`
	Allowed       uint64     `json:"allowed"`
	Refused       uint64     `json:"refused"`
	ShadowRefused uint64     `json:"shadowRefused"` // let through, since the limit was a shadow
	Near          uint64     `json:"near"`          // of those allowed, the ones with which more than 80 % of it was used
}

// Status tells what the service has done. It looks at every key.
func (s *Service) Status() Status {
	t := s.limits.Load()
	st := Status{
		Limits: make([]LimitStatus, 0, len(t.sorted)), Store: s.store.Stats(s.now()),
		Unknown: s.metrics.unknownLimits.Load() + s.metrics.unknownDomains.Load(),
	}
	for _, l := range t.sorted {
		st.Limits = append(st.Limits, LimitStatus{
			ID: l.ID, Source: l.Source, Requests: l.Requests, Per: perName(l), Algorithm: l.rate.Algorithm().String(), Burst: l.Burst, Shadow: l.Shadow,
			Allowed: l.counts.allowed.Load(), Refused: l.counts.refused.Load(), ShadowRefused: l.counts.shadowRefused.Load(), Near: l.counts.near.Load(),
		})
	}
	return st
}

func perName(l *limit) string { return cmp.Or(l.PerName(), "ever") }

// metrics is what is counted beside the limits.
type metrics struct {
	unknownLimits, unknownDomains, errors atomic.Uint64

	duration prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{duration: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "weir_ratelimit_decision_seconds", Help: "Time to answer one request of Envoy, without the network.",
		Buckets: prometheus.ExponentialBuckets(250e-9, 4, 10),
	})}
}

// count counts refusals always, and what was allowed only where the request passed: else it has used nothing.
func (m *metrics) count(q *question, allowed bool) {
	for i := range q.asked {
		switch a := &q.asked[i]; {
		case a.limit == nil && q.noDomain:
			m.unknownDomains.Add(1)
		case a.limit == nil:
			m.unknownLimits.Add(1)
		case a.hit == nil: // unlimited
			a.counts.allowed.Add(1)
		case a.hit.Kind == Charge: // of a request that was counted when it came
		case a.hit.Decision.Allowed && allowed:
			a.counts.allowed.Add(1)
			if float64(a.hit.Decision.Remaining) < (1-nearRatio)*float64(a.limit.rate.limit) {
				a.counts.near.Add(1)
			}
		case !a.hit.Decision.Allowed && a.limit.Shadow:
			a.counts.shadowRefused.Add(1)
		case !a.hit.Decision.Allowed:
			a.counts.refused.Add(1)
		}
	}
}

var (
	decisionsDesc = prometheus.NewDesc("weir_ratelimit_decisions_total",
		"Requests at each limit: allowed, refused, or shadow_refused (let through). Those that another limit refused are left out.", []string{"limit", "result"}, nil)
	nearDesc      = prometheus.NewDesc("weir_ratelimit_near_limit_total", "Requests that were allowed and with which more than 80 % of what a limit lets pass at once was used.", []string{"limit"}, nil)
	unknownDesc   = prometheus.NewDesc("weir_ratelimit_unknown_total", "Descriptors of no limit in force, all let through, by what isn't known.", []string{"what"}, nil)
	errorsDesc    = prometheus.NewDesc("weir_ratelimit_errors_total", "Requests that could not be decided; Envoy does as the policy's onError says.", nil, nil)
	limitsDesc    = prometheus.NewDesc("weir_ratelimit_limits", "Limits in force.", nil, nil)
	keysDesc      = prometheus.NewDesc("weir_ratelimit_keys", "Keys that have used some of their limit.", nil, nil)
	capacityDesc  = prometheus.NewDesc("weir_ratelimit_keys_capacity", "Keys that the store has slots for.", nil, nil)
	evictionsDesc = prometheus.NewDesc("weir_ratelimit_evictions_total", "Keys forgotten while in use, because the store was full.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Service) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{decisionsDesc, nearDesc, unknownDesc, errorsDesc, limitsDesc, keysDesc, capacityDesc, evictionsDesc} {
		out <- d
	}
	s.metrics.duration.Describe(out)
}

// Collect implements prometheus.Collector. It looks at every key.
func (s *Service) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	t := s.limits.Load()
	decisions := func(id string, c *counts) {
		count(decisionsDesc, c.allowed.Load(), id, "allowed")
		count(decisionsDesc, c.refused.Load(), id, "refused")
		count(decisionsDesc, c.shadowRefused.Load(), id, "shadow_refused")
	}
	for _, l := range t.sorted {
		decisions(l.ID, l.counts)
		count(nearDesc, l.counts.near.Load(), l.ID)
	}
	t.details.mu.RLock()
	for id, c := range t.details.counts {
		if t.byID[id] == nil { // a limit of that name may have come since
			decisions(id, c)
			count(nearDesc, c.near.Load(), id)
		}
	}
	t.details.mu.RUnlock()
	count(unknownDesc, s.metrics.unknownLimits.Load(), "limit")
	count(unknownDesc, s.metrics.unknownDomains.Load(), "domain")
	count(errorsDesc, s.metrics.errors.Load())
	gauge(limitsDesc, uint64(len(t.sorted)))
	stats := s.store.Stats(s.now())
	gauge(keysDesc, stats.Keys)
	gauge(capacityDesc, stats.Capacity)
	count(evictionsDesc, stats.Evictions)
	s.metrics.duration.Collect(out)
}
