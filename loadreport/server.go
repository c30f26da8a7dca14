package loadreport

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatssvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// resting is how often a proxy says that it has nothing to tell, once it is asked about nothing any more.
	resting = time.Hour
	// seldom is how often each of very many proxies reports.
	seldom = 5 * Interval
	// often is how many reports a second are enough. Each has the proxy's node in it, with all that it was built of, which
	// is 61 KB of an Envoy 1.40.
	often = 200
)

// Server takes load reports. It is a prometheus.Collector too. Use [New].
type Server struct {
	loadstatssvcv3.UnimplementedLoadReportingServiceServer
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

// Register puts the service on a server.
func (s *Server) Register(g *grpc.Server) { loadstatssvcv3.RegisterLoadReportingServiceServer(g, s) }

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
		st.asking.Go(st.ask) // a proxy that does not read holds up nobody else
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

// stream is one proxy's.
type stream struct {
	server *Server
	wire   grpc.BidiStreamingServer[loadstatssvcv3.LoadStatsRequest, loadstatssvcv3.LoadStatsResponse]
	asking sync.WaitGroup // added to with the server's lock only, while the stream is among its streams

	reported time.Time // the server's lock guards it; zero: never

	mu  sync.Mutex // guards everything below, and the sending
	has []string   // what the proxy was asked about last
}

// StreamLoadStats implements the service of Envoy. A proxy is told what it is asked about when it comes, if that is
// anything, and whenever that changes.
func (s *Server) StreamLoadStats(wire loadstatssvcv3.LoadReportingService_StreamLoadStatsServer) error {
	st := &stream{server: s, wire: wire}
	s.add(st)
	defer s.remove(st)
	for {
		reports, err := receive(wire)
		switch {
		case errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled:
			return nil
		case err != nil:
			return err
		}
		s.take(st, reports)
	}
}

func (s *Server) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = true
	st.asking.Go(st.ask)
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	s.mu.Unlock()
	st.asking.Wait() // the stream is over, so that no sending takes long
}

// ask tells the proxy what it is asked about, unless it knows.
func (st *stream) ask() {
	st.mu.Lock()
	defer st.mu.Unlock()
	want, every := st.server.wants()
	if slices.Equal(want, st.has) {
		return
	}
	st.has = want
	if err := st.wire.Send(&loadstatssvcv3.LoadStatsResponse{Clusters: want, LoadReportingInterval: durationpb.New(every)}); err != nil {
		st.server.log.Debug("ask a proxy for load reports", "error", err) // the stream is over, and the proxy comes back
	}
}

// wants gives which clusters proxies are to report of, and how often.
func (s *Server) wants() (clusters []string, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) == 0 {
		return nil, resting
	}
	return s.asked, min(seldom, max(Interval, time.Duration(len(s.streams))*time.Second/often))
}

// take adds what a proxy reports to the totals.
func (s *Server) take(st *stream, reports []*endpointv3.ClusterStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range reports {
		if !s.asksLocked(of.GetClusterName()) {
			continue // it was asked about a moment ago
		}
		c, v := read(of)
		s.reports.WithLabelValues(string(v)).Inc()
		if v == good {
			s.totals[of.GetClusterName()] = s.totals[of.GetClusterName()].Add(c)
			st.reported = time.Now()
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
