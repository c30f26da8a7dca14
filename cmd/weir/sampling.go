package main

import (
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/sampling/fleet"
	"github.com/machinenativeops/weir/sampling/proxies"
)

const (
	maxReport  = 4 << 20     // bytes
	feelEach   = time.Second // how often it is seen that reports are missing
	settleEach = time.Second // proxies are told of other shares once in so long at most
)

// feedback is what collectors find worth making, on its way to the proxies.
type feedback struct {
	*proxies.Table
	fleet   *fleet.Table
	came    chan struct{} // a report, or several
	reports *prometheus.CounterVec
	thinned prometheus.Gauge
	changes prometheus.Counter
}

func newFeedback(registry prometheus.Registerer, table *proxies.Table) *feedback {
	f := &feedback{
		Table: table, fleet: fleet.NewTable(), came: make(chan struct{}, 1),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_sampling_reports_total", Help: "Reports of collectors on what is worth making, by whether they were taken.",
		}, []string{"taken"}),
		thinned: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_sampling_thinned_routes", Help: "Routes of which proxies make fewer traces than the documents say.",
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_sampling_changes_total", Help: "Times that proxies were told to make another share of traces.",
		}),
	}
	registry.MustRegister(f.reports, f.thinned, f.changes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_sampling_collectors", Help: "Collectors that share the budget of the documents.",
	}, func() float64 { return float64(len(f.fleet.Status(time.Now()))) }))
	return f
}

// serveHTTP takes a collector's report. No page of a browser can send one unasked, since it is a PUT of JSON.
func (f *feedback) serveHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		f.reports.WithLabelValues("false").Inc()
		writeText(w, status, text+"\n")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(http.StatusUnsupportedMediaType, "want application/json")
		return
	}
	var report proxies.Report
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReport)).Decode(&report); err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	answer, err := f.take(r.PathValue("collector"), report, time.Now())
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	f.reports.WithLabelValues("true").Inc()
	select {
	case f.came <- struct{}{}:
	default: // somebody is about to look
	}
	w.Header().Set("Content-Type", "application/json")
	_ = writeJSON(w, answer) // a collector that went away needs no answer
}

// take takes a collector's report, and answers it.
func (f *feedback) take(collector string, report proxies.Report, now time.Time) (answer proxies.Answer, err error) {
	if err := f.Accept(collector, report, now); err != nil {
		return answer, err
	}
	if report.Budget == nil {
		f.fleet.Leave(collector)
		return answer, nil
	}
	budget, err := f.fleet.Take(collector, *report.Budget, now)
	return proxies.Answer{Budget: &budget}, err
}

// wanted is what collectors want of the model's proxies: per cent by route.
func (p *plane) wanted(m *mesh.Model, now time.Time) map[string]float64 {
	shares := p.feedback.Shares(now)
	if !m.Thinned {
		return nil
	}
	return shares
}

// settle puts what collectors want at now in force, where that is another share for some route.
func (p *plane) settle(now time.Time) {
	if p.model == nil {
		return
	}
	shares := p.wanted(p.model, now)
	if maps.Equal(shares, p.shares) {
		return
	}
	snapshot, err := p.translator.Translate(p.overlay.Over(p.model, shares))
	if err != nil {
		// No report should lead here; what is in force stays.
		p.log.Error("translate what collectors want", "error", err)
		return
	}
	p.streams.Apply(snapshot)
	p.shares = shares
	p.feedback.thinned.Set(float64(len(shares)))
	p.feedback.changes.Inc()
	p.log.Info("proxies make other shares of traces", "thinned", len(shares))
}
