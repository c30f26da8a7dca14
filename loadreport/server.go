package loadreport

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatssvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/internal/h2"
)

const (
	// resting is how often a proxy says that it has nothing to tell, once it is asked about nothing any more.
	resting = time.Hour
	// seldom is how often each of very many proxies reports.
	seldom = 5 * Interval
	// often is how many reports a second are enough. Each has the proxy's node in it, with all that it was built of, which
	// is 61 KB of an Envoy 1.40.
	often = 200
	// maxAsked is how often a proxy is asked that reports nothing in between.
	maxAsked = 1000
)

// Server takes load reports. It has the calls of the load reporting service, and is a prometheus.Collector. Use [New].
type Server struct {
	log     *slog.Logger
	reports *prometheus.CounterVec

	mu      sync.Mutex // guards everything below
	asked   []string   // sorted; never changed, but replaced
	totals  map[string]Counts
	streams map[*stream]bool
}

// New gives a server that asks about nothing yet.
func New(log *slog.Logger) *Server {
	s := &Server{
		log: log, totals: make(map[string]Counts), streams: make(map[*stream]bool),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_load_reports_total", Help: "What proxies reported of a cluster: good, stale (of a time long over) or impossible; only good ones count.",
		}, []string{"result"}),
	}
	for _, v := range []verdict{good, stale, impossible} {
		s.reports.WithLabelValues(string(v))
	}
	return s
}

// Begin implements [h2.Calls].
func (s *Server) Begin(path string, call *h2.Call) h2.Receiver {
	if path != loadstatssvcv3.LoadReportingService_StreamLoadStats_FullMethodName {
		return nil
	}
	st := &stream{server: s, call: call}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = true
	return st
}

// Ask has proxies report of these clusters from now on, and of no others. Of one that is not asked about any more the
// total is forgotten.
func (s *Server) Ask(clusters []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sorted := slices.Compact(slices.Sorted(slices.Values(clusters)))
	if slices.Equal(sorted, s.asked) {
		return
	}
	s.asked = sorted
	maps.DeleteFunc(s.totals, func(cluster string, _ Counts) bool { return !s.asksLocked(cluster) })
	for st := range s.streams {
		if st.here {
			st.askLocked()
			st.call.Flush()
		}
	}
}

func (s *Server) asksLocked(cluster string) bool {
	_, ok := slices.BinarySearch(s.asked, cluster)
	return ok
}

// Totals gives what has been reported of each cluster since it is asked about; of those of which nothing has been, there
// is nothing. Totals only grow while a cluster is asked about.
func (s *Server) Totals() map[string]Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.totals)
}

// Reporting gives how many proxies could report, and how many have reported of any of the clusters within the last few
// intervals before now.
func (s *Server) Reporting(now time.Time) (connected, reporting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if now.Sub(st.reported) < 3*seldom {
			reporting++
		}
	}
	return len(s.streams), reporting
}

// stream is one proxy's. It has no goroutine: what the proxy says is taken by the one that reads its connection.
type stream struct {
	server *Server
	call   *h2.Call

	// The server's mu guards everything below.
	here     bool      // it has said something, so that it can be asked
	has      []string  // what it was asked about last
	asked    int       // how often, since it reported last
	reported time.Time // zero: never
}

// Receive implements [h2.Receiver]. A proxy is told what it is asked about when it comes, if that is anything, and whenever
// that changes.
func (st *stream) Receive(message []byte) error {
	all, err := reports(message)
	if err != nil {
		st.Done()
		return status.Error(codes.Internal, "the report can't be read: "+err.Error())
	}
	st.server.mu.Lock()
	defer st.server.mu.Unlock()
	st.here = true
	st.takeLocked(all)
	st.askLocked()
	return nil
}

// Done implements [h2.Receiver].
func (st *stream) Done() {
	st.server.mu.Lock()
	defer st.server.mu.Unlock()
	delete(st.server.streams, st)
}

// askLocked tells the proxy what it is asked about, unless it knows.
func (st *stream) askLocked() {
	want, every := st.server.wantsLocked()
	if slices.Equal(want, st.has) {
		return
	}
	if st.asked++; st.asked > maxAsked {
		delete(st.server.streams, st)
		st.call.End(errDeaf)
		return
	}
	st.has = want
	message, err := proto.Marshal(&loadstatssvcv3.LoadStatsResponse{Clusters: want, LoadReportingInterval: durationpb.New(every)})
	if err != nil { // a name that is no UTF-8, which documents can't have
		st.server.log.Error("ask a proxy for load reports", "error", err)
		return
	}
	st.call.Send(message)
}

var errDeaf = status.Error(codes.ResourceExhausted, "asked again and again, you have reported nothing")

// wantsLocked gives which clusters proxies are to report of, and how often.
func (s *Server) wantsLocked() (clusters []string, every time.Duration) {
	if len(s.asked) == 0 {
		return nil, resting
	}
	return s.asked, min(seldom, max(Interval, time.Duration(len(s.streams))*time.Second/often))
}

// takeLocked adds what a proxy reports to the totals.
func (st *stream) takeLocked(all []*endpointv3.ClusterStats) {
	s := st.server
	for _, of := range all {
		if !s.asksLocked(of.GetClusterName()) {
			continue // it was asked about a moment ago
		}
		c, v := read(of)
		s.reports.WithLabelValues(string(v)).Inc()
		if v == good {
			s.totals[of.GetClusterName()] = s.totals[of.GetClusterName()].Add(c)
			st.reported, st.asked = time.Now(), 0
		}
	}
}

var (
	streamsDesc  = prometheus.NewDesc("weir_load_report_streams", "Proxies that report, or would if they were asked.", nil, nil)
	clustersDesc = prometheus.NewDesc("weir_load_report_clusters", "Clusters that proxies are asked to report of.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	out <- streamsDesc
	out <- clustersDesc
	s.reports.Describe(out)
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	streams, clusters := len(s.streams), len(s.asked)
	s.mu.Unlock()
	out <- prometheus.MustNewConstMetric(streamsDesc, prometheus.GaugeValue, float64(streams))
	out <- prometheus.MustNewConstMetric(clustersDesc, prometheus.GaugeValue, float64(clusters))
	s.reports.Collect(out)
}
