package loadreport_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatssvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/loadreport"
)

// start gives a server, and what dials it.
func start(tb testing.TB) (*loadreport.Server, func() *proxy) {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := loadreport.New(slog.New(slog.DiscardHandler))
	g := &h2.Server{Calls: s, Handler: http.NotFoundHandler()}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	tb.Cleanup(func() {
		g.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	})
	return s, func() *proxy {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			tb.Fatal(err)
		}
		ctx, cancel := context.WithCancel(tb.Context())
		tb.Cleanup(func() { cancel(); _ = conn.Close() })
		stream, err := loadstatssvcv3.NewLoadReportingServiceClient(conn).StreamLoadStats(ctx)
		if err != nil {
			tb.Fatal(err)
		}
		p := &proxy{tb: tb, stream: stream, gone: cancel, asked: make(chan *loadstatssvcv3.LoadStatsResponse, 16)}
		go func() { // ends with the stream
			for {
				r, err := stream.Recv()
				if err != nil {
					close(p.asked)
					return
				}
				p.asked <- r
			}
		}()
		p.report()
		return p
	}
}

// proxy is the other side of a stream.
type proxy struct {
	tb     testing.TB
	stream grpc.BidiStreamingClient[loadstatssvcv3.LoadStatsRequest, loadstatssvcv3.LoadStatsResponse]
	gone   context.CancelFunc
	asked  chan *loadstatssvcv3.LoadStatsResponse
}

// report sends reports, each with the proxy's node, as Envoy does.
func (p *proxy) report(all ...*endpointv3.ClusterStats) {
	p.tb.Helper()
	node := &corev3.Node{Id: "gateway~edge~1", Extensions: []*corev3.Extension{{Name: "envoy.filters.http.router"}}}
	if err := p.stream.Send(&loadstatssvcv3.LoadStatsRequest{Node: node, ClusterStats: all}); err != nil {
		p.tb.Fatal(err)
	}
}

// wants is what the proxy is asked next.
func (p *proxy) wants(every time.Duration, clusters ...string) {
	p.tb.Helper()
	select {
	case r := <-p.asked:
		if !slices.Equal(r.GetClusters(), clusters) || r.GetLoadReportingInterval().AsDuration() != every || r.GetSendAllClusters() {
			p.tb.Errorf("asked %v, want %v every %s", r, clusters, every)
		}
	case <-time.After(20 * time.Second):
		p.tb.Fatalf("not asked about %v", clusters)
	}
}

// stats is a report of one cluster, in two localities.
func stats(cluster string, over time.Duration, succeeded, failed, dropped, active uint64) *endpointv3.ClusterStats {
	return &endpointv3.ClusterStats{
		ClusterName: cluster, LoadReportInterval: durationpb.New(over), TotalDroppedRequests: dropped,
		UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{
			{TotalSuccessfulRequests: succeeded, TotalIssuedRequests: succeeded},
			{TotalErrorRequests: failed, TotalIssuedRequests: failed, TotalRequestsInProgress: active},
		},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestAsking: proxies are asked about nothing until something is wanted, then about that, whenever they come; and at last
// about nothing again.
func TestAsking(t *testing.T) {
	s, dial := start(t)
	first := dial()
	eventually(t, "the first is there", func() bool { n, _ := s.Reporting(time.Now()); return n == 1 })
	s.Ask([]string{"b", "a", "b"})
	first.wants(time.Second, "a", "b")
	second := dial()
	second.wants(time.Second, "a", "b")
	s.Ask([]string{"a", "b"}) // nothing new
	s.Ask([]string{"b"})
	first.wants(time.Second, "b")
	second.wants(time.Second, "b")
	s.Ask(nil)
	first.wants(time.Hour)
	second.wants(time.Hour)
	second.gone()
	eventually(t, "the second is gone", func() bool { n, _ := s.Reporting(time.Now()); return n == 1 })
}

// TestTotals: what is good is summed up over proxies, what is not changes nothing, and who goes takes nothing along.
func TestTotals(t *testing.T) {
	s, dial := start(t)
	s.Ask([]string{"a", "b"})
	first, second := dial(), dial()
	first.wants(time.Second, "a", "b")
	second.wants(time.Second, "a", "b")
	first.report(stats("a", time.Second, 10, 2, 1, 4), stats("other", time.Second, 99, 99, 99, 99))
	second.report(stats("a", 2*time.Second, 5, 0, 0, 3), stats("b", time.Second, 0, 0, 0, 0))
	want := loadreport.Counts{Issued: 17, Succeeded: 15, Failed: 2, Busy: 4 + 6, Seen: 7}
	eventually(t, "all is summed up", func() bool { return s.Totals()["a"] == want })
	if _, there := s.Totals()["other"]; there {
		t.Error("what nobody asked about is kept")
	}
	second.gone()
	huge := stats("a", time.Second, 1<<40, 0, 0, 0)
	first.report(stats("a", time.Minute, 0, 1000, 0, 0), stats("a", 0, 0, 1000, 0, 0), huge, stats("a", time.Second, 0, 1, 0, 1<<63), stats("b", time.Second, 1, 0, 0, 0))
	eventually(t, "all have come", func() bool { return s.Totals()["b"].Succeeded == 1 })
	if got := s.Totals()["a"]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := want.MeanLatency(); got.Round(time.Millisecond) != 588*time.Millisecond {
		t.Errorf("17 requests that were under way for 10 s took %s each", got)
	}
	if n := testutil.CollectAndCount(s); n != 5 {
		t.Errorf("%d metrics", n)
	}
	s.Ask([]string{"b"})
	s.Ask([]string{"a", "b"})
	if got, there := s.Totals()["a"]; there {
		t.Errorf("asked anew, %+v is there from before", got)
	}
}

// TestManyReportLessOften: the more there are, the less often each reports.
func TestManyReportLessOften(t *testing.T) {
	s, dial := start(t)
	for range 300 {
		dial()
	}
	eventually(t, "all are there", func() bool { n, _ := s.Reporting(time.Now()); return n == 300 })
	last := dial()
	eventually(t, "the last is there", func() bool { n, _ := s.Reporting(time.Now()); return n == 301 })
	s.Ask([]string{"a"})
	last.wants(1505*time.Millisecond, "a")
}

// TestBadProxies: one that can't be understood is told, and one that is asked again and again and reports nothing is cut off.
func TestBadProxies(t *testing.T) {
	s, dial := start(t)
	s.Ask([]string{"a"})
	bad, deaf := dial(), dial()
	deaf.wants(time.Second, "a")
	garbled := &loadstatssvcv3.LoadStatsRequest{}
	garbled.ProtoReflect().SetUnknown([]byte{0x12, 1, 0xff}) // a report that ends within its first field
	if err := bad.stream.Send(garbled); err != nil {
		t.Fatal(err)
	}
	over := func(p *proxy) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			select {
			case _, open := <-p.asked:
				if !open {
					return
				}
			case <-deadline:
				t.Fatal("the stream goes on")
			}
		}
	}
	over(bad)
	for i := range 1001 {
		s.Ask([]string{"a", string(rune('b' + i%2))})
	}
	over(deaf)
	eventually(t, "nobody is there", func() bool { n, _ := s.Reporting(time.Now()); return n == 0 })
}
