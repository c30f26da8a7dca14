package serve

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	streams    *prometheus.GaugeVec
	refused    prometheus.Gauge
	counters   [4]*prometheus.CounterVec
	of         [kinds]counters // parts of those
	ackSeconds prometheus.Histogram
}

// counters are of one type.
type counters struct{ responses, resources, acks, nacks prometheus.Counter }

func newMetrics() *metrics {
	byType := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
	}
	m := &metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_xds_streams", Help: "Connected discovery streams, by protocol."}, []string{"protocol"}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_xds_refused_resources", Help: "Resources withdrawn because a proxy refused them."}),
		counters: [...]*prometheus.CounterVec{
			byType("weir_xds_responses_total", "Responses sent."),
			byType("weir_xds_resources_sent_total", "Resources sent."),
			byType("weir_xds_acks_total", "Responses accepted by proxies."),
			byType("weir_xds_nacks_total", "Responses refused by proxies."),
		},
		ackSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_xds_ack_seconds", Help: "Time from sending a response to its answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
	for k := range m.of {
		of := func(n int) prometheus.Counter { return m.counters[n].WithLabelValues(kind(k).short()) }
		m.of[k] = counters{of(0), of(1), of(2), of(3)}
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	all := []prometheus.Collector{m.streams, m.refused, m.ackSeconds}
	for _, c := range m.counters {
		all = append(all, c)
	}
	return all
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(c chan<- *prometheus.Desc) {
	for _, one := range s.metrics.all() {
		one.Describe(c)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(c chan<- prometheus.Metric) {
	s.countStreams()
	for _, one := range s.metrics.all() {
		one.Collect(c)
	}
}

func (s *Server) countStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{delta: 0, sotw: 0}
	for st := range s.streams {
		counts[st.protocol]++
	}
	for protocol, n := range counts {
		s.metrics.streams.WithLabelValues(protocol).Set(float64(n))
	}
	s.metrics.refused.Set(float64(len(s.refused)))
}
