package serve

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	streams                           *prometheus.GaugeVec
	refused                           prometheus.Gauge
	responses, resources, acks, nacks *prometheus.CounterVec
	ackSeconds                        prometheus.Histogram
}

func newMetrics() *metrics {
	byType := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
	}
	return &metrics{
		streams:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_xds_streams", Help: "Connected discovery streams, by protocol."}, []string{"protocol"}),
		refused:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_xds_refused_resources", Help: "Resources withdrawn because a proxy refused them."}),
		responses: byType("weir_xds_responses_total", "Responses sent."),
		resources: byType("weir_xds_resources_sent_total", "Resources sent."),
		acks:      byType("weir_xds_acks_total", "Responses accepted by proxies."),
		nacks:     byType("weir_xds_nacks_total", "Responses refused by proxies."),
		ackSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_xds_ack_seconds", Help: "Time from sending a response to its answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.streams, m.refused, m.responses, m.resources, m.acks, m.nacks, m.ackSeconds}
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

// short is the last word of a type URL.
func short(kind string) string { return kind[strings.LastIndexByte(kind, '.')+1:] }
