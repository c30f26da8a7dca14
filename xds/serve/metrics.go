package serve

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	streams, refused                  prometheus.Gauge
	responses, resources, acks, nacks *prometheus.CounterVec
	ackSeconds                        prometheus.Histogram
}

func newMetrics() *metrics {
	byType := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
	}
	return &metrics{
		streams:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_xds_streams", Help: "Connected discovery streams."}),
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

func (m *metrics) describe(c chan<- *prometheus.Desc) {
	for _, one := range m.all() {
		one.Describe(c)
	}
}

func (m *metrics) collect(c chan<- prometheus.Metric) {
	for _, one := range m.all() {
		one.Collect(c)
	}
}

// short is the last word of a type URL.
func short(kind string) string { return kind[strings.LastIndexByte(kind, '.')+1:] }
