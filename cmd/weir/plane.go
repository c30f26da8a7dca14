package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/loadtest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/sampling/fleet"
	"github.com/machinenativeops/weir/sampling/proxies"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// plane carries a set of documents to all who act on it, and knows how that went.
type plane struct {
	log      *slog.Logger
	limits   *ratelimit.Service
	streams  *serve.Server
	reports  *loadreport.Server
	started  time.Time
	feedback *feedback
	// These are run's.
	resolver   mesh.Resolver
	written    mesh.Resolver // with load tests that are over or have stopped
	checker    lint.Checker
	overlay    mesh.Overlay
	translator *xds.Translator
	model      *mesh.Model        // in force, without what collectors have learnt; nil until the first
	shares     map[string]float64 // what collectors have learnt: per cent by route
	guard      loadtest.Guard
	stops      *loadtest.Stops

	policy    atomic.Pointer[policyStatus] // nil until the first set is in force
	loadTests atomic.Pointer[[]loadTestStatus]

	problems  prometheus.Gauge
	warnings  *prometheus.GaugeVec
	documents *prometheus.GaugeVec
	applied   prometheus.Counter
	duration  prometheus.Histogram
	tests     *prometheus.GaugeVec
	stopped   prometheus.Counter
}

// services are those that act on documents.
type services struct {
	limits   *ratelimit.Service
	streams  *serve.Server
	reports  *loadreport.Server
	stops    *loadtest.Stops
	feedback *feedback
}

// policyStatus is what is in force and what was refused.
type policyStatus struct {
	Applied   time.Time        `json:"applied"`
	Took      string           `json:"took"` // from seeing the change to serving it
	Documents map[string]int   `json:"documents"`
	Problems  []policy.Problem `json:"problems"`
	Warnings  []lint.Warning   `json:"warnings"`
}

func newPlane(log *slog.Logger, registry prometheus.Registerer, s services, o xds.Options) *plane {
	p := &plane{
		log: log, limits: s.limits, streams: s.streams, reports: s.reports, stops: s.stops, feedback: s.feedback,
		translator: xds.NewTranslator(o), started: time.Now(),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_policy_problems", Help: "Mistakes in the documents as they are now; their documents are refused.",
		}),
		warnings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_policy_warnings", Help: "Warnings about the documents in force, by the name of the warning.",
		}, []string{"warning"}),
		documents: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_policy_documents", Help: "Documents in force, by kind.",
		}, []string{"kind"}),
		applied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_policy_applied_total", Help: "Sets of documents put in force.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_policy_apply_seconds", Help: "Time from seeing a change of documents to serving it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		tests: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_load_tests", Help: "Load tests in force, by their state: running, stopped (since real requests suffered) or over.",
		}, []string{"state"}),
		stopped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_load_test_stops_total", Help: "Load tests that stopped because real requests suffered.",
		}),
	}
	registry.MustRegister(p.problems, p.warnings, p.documents, p.applied, p.duration, p.tests, p.stopped)
	return p
}

// run puts updates in force as they come, and the last one again each time that a load test of it is over or stops;
// and what collectors learn.
func (p *plane) run(ctx context.Context, updates <-chan source.Update) error {
	var last source.Update
	over := time.NewTimer(0)
	over.Stop()
	defer over.Stop()
	looks := time.NewTicker(loadreport.Interval)
	looks.Stop()
	defer looks.Stop()
	settle, reported := time.NewTimer(feelEach), false
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case last = <-updates:
			p.tell(last.Problems)
			p.stops.Forget(last.Set)
		case <-over.C:
			p.log.Info("a load test is over")
			last.Read = time.Now()
		case <-looks.C:
			if !p.look(last.Set, time.Now()) {
				continue
			}
			last.Read = time.Now()
		case <-p.feedback.came:
			if !reported { // with all that come meanwhile
				reported = true
				settle.Reset(settleEach)
			}
			continue
		case now := <-settle.C:
			reported = false
			settle.Reset(feelEach)
			p.settle(now)
			continue
		}
		now := time.Now()
		p.resolver.Stopped = p.stops.IDs()
		p.apply(last, now)
		p.stops.Keep()
		over.Stop()
		if next := p.resolver.NextEnd(now); !next.IsZero() {
			over.Reset(next.Sub(now))
		}
		if looks.Stop(); p.watch(last.Set, now) {
			looks.Reset(loadreport.Interval)
		}
	}
}

func (p *plane) tell(problems []policy.Problem) {
	for _, problem := range problems {
		p.log.Error("policy refused", "problem", problem.String())
	}
	p.problems.Set(float64(len(problems)))
}

// apply puts an update in force as it holds at now.
func (p *plane) apply(u source.Update, now time.Time) {
	model := p.resolver.At(u.Set, now)
	shares := p.wanted(model, now)
	snapshot, err := p.translator.Translate(p.overlay.Over(model, shares))
	if err != nil {
		// Nothing a user writes should lead here; what is in force stays.
		p.log.Error("translate policy", "error", err)
		return
	}
	// Limits first: a route that asks about a limit must not come before the limit.
	p.limits.Apply(model.Limits)
	p.streams.Apply(snapshot)
	p.model, p.shares = model, shares
	written := model
	if p.resolver.AnyEnded(now) || len(p.resolver.Stopped) > 0 {
		written = p.written.At(u.Set, time.Time{})
	}
	p.record(u, time.Since(u.Read), p.warn(p.checker.Check(u.Set, written, len(u.Problems) == 0)))
}

// warn counts warnings, and logs those that the last change did not have, so that each is told once.
func (p *plane) warn(warnings []lint.Warning) []lint.Warning {
	known := make(map[lint.Warning]bool)
	if before := p.policy.Load(); before != nil {
		for _, w := range before.Warnings {
			known[unplaced(w)] = true
		}
	}
	counts := make(map[string]int)
	for _, w := range warnings {
		counts[w.Name]++
		if !known[unplaced(w)] {
			p.log.Warn("policy warning", "warning", w.String())
		}
	}
	for _, name := range lint.Names() {
		p.warnings.WithLabelValues(name).Set(float64(counts[name]))
	}
	return warnings
}

// unplaced is a warning wherever it is written: lines above it come and go.
func unplaced(w lint.Warning) lint.Warning {
	w.File, w.Line, w.Column = "", 0, 0
	return w
}

func (p *plane) record(u source.Update, took time.Duration, warnings []lint.Warning) {
	documents := documentCounts(u.Set)
	for kind, n := range documents {
		p.documents.WithLabelValues(kind).Set(float64(n))
	}
	p.applied.Inc()
	p.duration.Observe(took.Seconds())
	p.policy.Store(&policyStatus{
		Applied: time.Now(), Took: took.Round(time.Microsecond).String(), Documents: documents,
		Problems: listed(u.Problems), Warnings: listed(warnings),
	})
	if isEmpty(u.Set) {
		p.log.Warn("there are no documents: no proxy is served anything until there are")
	}
	p.log.Info("policy in force", "took", took.String(), "services", len(u.Set.Services), "problems", len(u.Problems), "warnings", len(warnings))
}

func documentCounts(s *policy.Set) map[string]int {
	return map[string]int{
		"Gateway": len(s.Gateways), "Service": len(s.Services), "Route": len(s.Routes), "RateLimit": len(s.RateLimits),
	}
}

// statusReport is the answer of /api/v1/status.
type statusReport struct {
	Version   string           `json:"version"`
	Started   time.Time        `json:"started"`
	Policy    *policyStatus    `json:"policy"` // null until the first set is in force
	LoadTests []loadTestStatus `json:"loadTests"`
	XDS       *serve.Status    `json:"xds,omitempty"` // nil: of weir ratelimit
	RateLimit ratelimit.Status `json:"rateLimit"`
	Sampling  samplingStatus   `json:"sampling"`
}

// samplingStatus is what collectors report, and what comes of it.
type samplingStatus struct {
	proxies.Status
	Budget []fleet.Collector `json:"budget"` // who shares it
}

func (p *plane) status() statusReport {
	streams := p.streams.Status()
	r := statusReport{
		Version: version(), Started: p.started, Policy: p.policy.Load(), LoadTests: []loadTestStatus{},
		XDS: &streams, RateLimit: p.limits.Status(), Sampling: samplingStatus{p.feedback.Status(), p.feedback.fleet.Status(time.Now())},
	}
	if tests := p.loadTests.Load(); tests != nil {
		r.LoadTests = counted(*tests, r.RateLimit.Limits)
	}
	return r
}

func (p *plane) handler(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", p.ready)
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := writeJSON(w, p.status()); err != nil {
			p.log.Debug("write status", "error", err)
		}
	})
	mux.HandleFunc("PUT /api/v1/sampling/collectors/{collector}", p.feedback.serveHTTP)
	limitsAPI(mux, p.limits)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	// The address is a loopback one, as listen made sure.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func (p *plane) ready(w http.ResponseWriter, _ *http.Request) {
	if p.policy.Load() == nil {
		writeText(w, http.StatusServiceUnavailable, "no policy is in force yet\n")
		return
	}
	writeText(w, http.StatusOK, "ready\n")
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that went away needs no answer
}
