package redis

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what is counted of the way to Redis.
type metrics struct {
	calls, asked, local, ahead, alone, errors, refused, leases, returns atomic.Uint64

	batch    prometheus.Histogram
	duration prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_ratelimit_redis_batch_size", Help: "Questions that went to Redis together.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_ratelimit_redis_call_seconds", Help: "Time until Redis answered what went together.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 12),
		}),
	}
}

func (m *metrics) sent(scripts, questions, answers int, took int64) {
	m.calls.Add(uint64(scripts))
	m.asked.Add(uint64(answers))
	m.batch.Observe(float64(questions))
	m.duration.Observe(float64(took) / 1e9)
}

var (
	callsDesc   = prometheus.NewDesc("weir_ratelimit_redis_calls_total", "Scripts that Redis ran, and keys that it was to write.", nil, nil)
	answersDesc = prometheus.NewDesc("weir_ratelimit_redis_answers_total",
		"Questions by what answered them: redis, local (a lease, or a key that is known to be used up), ahead (of a key of which little is used, before Redis is told), alone (this replica's share, while Redis can't be asked), or none (onError decides).", []string{"by"}, nil)
	failsDesc    = prometheus.NewDesc("weir_ratelimit_redis_errors_total", "Calls of Redis that failed.", nil, nil)
	upDesc       = prometheus.NewDesc("weir_ratelimit_redis_up", "1 while Redis is asked, 0 while it is left alone.", nil, nil)
	replicasDesc = prometheus.NewDesc("weir_ratelimit_redis_replicas", "Replicas that share the limits.", nil, nil)
	leasedDesc   = prometheus.NewDesc("weir_ratelimit_redis_leases_total", "Leases of a key: granted, and returned of which something was left.", []string{"what"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Store) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsDesc, answersDesc, failsDesc, upDesc, replicasDesc, leasedDesc} {
		out <- d
	}
	s.metrics.batch.Describe(out)
	s.metrics.duration.Describe(out)
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	m := s.metrics
	count(callsDesc, m.calls.Load())
	count(answersDesc, m.asked.Load(), "redis")
	count(answersDesc, m.local.Load(), "local")
	count(answersDesc, m.ahead.Load(), "ahead")
	count(answersDesc, m.alone.Load(), "alone")
	count(answersDesc, m.refused.Load(), "none")
	count(failsDesc, m.errors.Load())
	count(leasedDesc, m.leases.Load(), "granted")
	count(leasedDesc, m.returns.Load(), "returned")
	up := 1.0
	if s.down() {
		up = 0
	}
	out <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up)
	out <- prometheus.MustNewConstMetric(replicasDesc, prometheus.GaugeValue, float64(s.replicas.Load()))
	m.batch.Collect(out)
	m.duration.Collect(out)
}
