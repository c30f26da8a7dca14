package quota

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	rate_limit_quotasvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
)

// proxy is one end of a stream.
type proxy struct {
	ctx     context.Context
	cancel  context.CancelFunc
	reports chan *rate_limit_quotasvcv3.RateLimitQuotaUsageReports
	told    chan *rate_limit_quotasvcv3.RateLimitQuotaResponse
	ended   chan error
}

func (p *proxy) Recv() (*rate_limit_quotasvcv3.RateLimitQuotaUsageReports, error) {
	select {
	case r := <-p.reports:
		return r, nil
	case <-p.ctx.Done():
		return nil, status.FromContextError(p.ctx.Err()).Err()
	}
}

func (p *proxy) Send(r *rate_limit_quotasvcv3.RateLimitQuotaResponse) error { p.told <- r; return nil }

func (p *proxy) Context() context.Context     { return p.ctx }
func (p *proxy) SetHeader(metadata.MD) error  { return nil }
func (p *proxy) SendHeader(metadata.MD) error { return nil }
func (p *proxy) SetTrailer(metadata.MD)       {}
func (p *proxy) SendMsg(any) error            { panic("not called") }
func (p *proxy) RecvMsg(any) error            { panic("not called") }

var _ grpc.BidiStreamingServer[rate_limit_quotasvcv3.RateLimitQuotaUsageReports, rate_limit_quotasvcv3.RateLimitQuotaResponse] = (*proxy)(nil)

func connect(t *testing.T, s *Server, host string) *proxy {
	p := &proxy{
		reports: make(chan *rate_limit_quotasvcv3.RateLimitQuotaUsageReports), told: make(chan *rate_limit_quotasvcv3.RateLimitQuotaResponse, 1000), ended: make(chan error, 1),
	}
	p.ctx, p.cancel = context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(host), Port: 1}}))
	t.Cleanup(p.cancel)
	go func() { p.ended <- s.StreamRateLimitQuotas(p) }()
	return p
}

func (p *proxy) report(allowed, denied uint64, id ...string) {
	b := &rate_limit_quotasvcv3.BucketId{Bucket: map[string]string{}}
	for i := 0; i < len(id); i += 2 {
		b.Bucket[id[i]] = id[i+1]
	}
	p.reports <- &rate_limit_quotasvcv3.RateLimitQuotaUsageReports{Domain: mesh.LimitDomain, BucketQuotaUsages: []*rate_limit_quotasvcv3.RateLimitQuotaUsageReports_BucketQuotaUsage{{
		BucketId: b, TimeElapsed: durationpb.New(time.Second), NumRequestsAllowed: allowed, NumRequestsDenied: denied,
	}}}
	synctest.Wait()
}

// last is what it was told last, in words; "" is nothing new.
func (p *proxy) last() (said string) {
	synctest.Wait()
	for {
		select {
		case r := <-p.told:
			for _, a := range r.GetBucketAction() {
				q := a.GetQuotaAssignmentAction()
				switch s := q.GetRateLimitStrategy(); {
				case q == nil:
					said = "abandon"
				case s.GetTokenBucket() == nil:
					said = s.GetBlanketRule().String()
				default:
					b := s.GetTokenBucket()
					said = fmt.Sprintf("%.4g/s at once %d for %s", float64(b.GetTokensPerFill().GetValue())/b.GetFillInterval().AsDuration().Seconds(), b.GetMaxTokens(), q.GetAssignmentTimeToLive().AsDuration())
				}
			}
		default:
			return said
		}
	}
}

func start() (*Server, *ratelimit.Service) {
	log := slog.New(slog.DiscardHandler)
	limits := ratelimit.New(log, ratelimit.Options{Keys: 1000})
	limits.Apply([]*mesh.Limit{
		{ID: "a", Requests: 100, Per: time.Second, Burst: 40, By: []policy.LimitBy{{Header: "k"}}},
		{ID: "none", Requests: 0, Per: time.Second, Burst: 1},
		{ID: "shadow", Requests: 1, Per: time.Second, Burst: 1, Shadow: true},
		{ID: "month", Requests: 2 * 31 * 24 * 3600, Months: 1, Algorithm: policy.FixedWindow},
	})
	return New(log, limits), limits
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := start()
		one := connect(t, s, "10.0.0.1")
		one.report(1, 0, "limit", "a", "k", "v")
		want(t, "alone", one.last(), "100/s at once 40 for 15s")
		time.Sleep(3 * time.Second)
		want(t, "while nothing changes", one.last(), "")
		time.Sleep(3 * time.Second)
		want(t, "in time before it ends", one.last(), "100/s at once 40 for 15s")

		for _, c := range []struct{ limit, want string }{
			{"none", "DENY_ALL"}, {"shadow", "ALLOW_ALL"}, {"unknown", "ALLOW_ALL"}, {"month", "1/s at once 2678400 for 15s"},
		} {
			one.report(1, 0, "limit", c.limit)
			want(t, c.limit, one.last(), c.want)
		}

		// Another one waits until the first has been told that it has less.
		two := connect(t, s, "10.0.0.2")
		two.report(90, 0, "limit", "a", "k", "v")
		want(t, "at first there is nothing for it", two.last(), "")
		time.Sleep(2 * time.Second)
		got := one.last()
		if !strings.HasPrefix(got, "5.") || !strings.Contains(got, "at once 2 ") {
			t.Errorf("who needs little has %q", got)
		}
		if got = two.last(); !strings.HasPrefix(got, "94.") {
			t.Errorf("who needs much has %q", got)
		}

		// Who has gone keeps what it was promised until that ends; who comes back from there has it at once.
		two.cancel()
		if err := <-two.ended; status.Code(err) != codes.Canceled && err != context.Canceled { //nolint:errorlint // the stream's own
			t.Error(err)
		}
		three := connect(t, s, "10.0.0.3")
		three.report(90, 0, "limit", "a", "k", "v")
		time.Sleep(2 * time.Second)
		if got = three.last(); strings.HasPrefix(got, "9") {
			t.Errorf("what another one may still use is given away: %q", got)
		}
		again := connect(t, s, "10.0.0.2")
		again.report(90, 0, "limit", "a", "k", "v")
		if got = again.last(); got == "" {
			t.Error("who comes back waits")
		}
		again.cancel()
		time.Sleep(20 * time.Second)
		three.report(90, 0, "limit", "a", "k", "v")
		time.Sleep(2 * time.Second)
		if got = three.last(); !strings.HasPrefix(got, "94.") && !strings.HasPrefix(got, "95.") {
			t.Errorf("when that is over, the others have %q", got)
		}

		// An edit of the limit is told, and so is its end.
		limits.Apply([]*mesh.Limit{{ID: "a", Requests: 10, Per: time.Second, Burst: 10}})
		time.Sleep(2 * time.Second)
		if got = three.last(); !strings.HasPrefix(got, "9") {
			t.Errorf("after an edit: %q", got)
		}
		limits.Apply(nil)
		time.Sleep(time.Second)
		want(t, "without a limit", three.last(), "ALLOW_ALL")

		// What nobody uses for long is given up.
		limits.Apply([]*mesh.Limit{{ID: "a", Requests: 10, Per: time.Second, Burst: 10}})
		three.report(0, 0, "limit", "a", "k", "v")
		time.Sleep(10 * time.Minute)
		want(t, "what is not used", three.last(), "abandon")
		if n := len(s.buckets); n != 0 {
			t.Errorf("%d buckets are left", n)
		}
		one.cancel()
		three.cancel()
		synctest.Wait()
	})
}

// TestWhatIsReported: it counts at the limit, and against its counter.
func TestWhatIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := start()
		p := connect(t, s, "10.0.0.1")
		p.report(39, 7, "limit", "a", "k", "v")
		l := limits.Status().Limits[0]
		if l.ID != "a" || l.Allowed != 39 || l.Refused != 7 {
			t.Errorf("%+v", l)
		}
		p.report(1, 0, "limit", "shadow")
		p.report(3, 0, "limit", "shadow")
		if l := limits.Status().Limits[3]; l.ID != "shadow" || l.Allowed != 1 || l.ShadowRefused != 3 {
			t.Errorf("%+v", l)
		}
		_, d, err := ratelimit.ParseDescriptor("domain=weir limit=a k=v")
		if err != nil {
			t.Fatal(err)
		}
		st, err := limits.Check(t.Context(), mesh.LimitDomain, d)
		if err != nil || st.Remaining != 1 {
			t.Errorf("%+v %v, want 1 left of 40", st, err)
		}
	})
}

func TestStreamsAreHeldToTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start()
		p := connect(t, s, "10.0.0.1")
		p.reports <- &rate_limit_quotasvcv3.RateLimitQuotaUsageReports{}
		if err := <-p.ended; status.Code(err) != codes.InvalidArgument {
			t.Errorf("without a domain: %v", err)
		}
		p = connect(t, s, "10.0.0.1")
		p.report(1, 0, "limit", "a")
		p.reports <- &rate_limit_quotasvcv3.RateLimitQuotaUsageReports{Domain: "other"}
		if err := <-p.ended; status.Code(err) != codes.InvalidArgument {
			t.Errorf("with another domain: %v", err)
		}
		p = connect(t, s, "10.0.0.1")
		r := &rate_limit_quotasvcv3.RateLimitQuotaUsageReports{Domain: mesh.LimitDomain}
		for i := range maxBuckets + 3 {
			r.BucketQuotaUsages = append(r.BucketQuotaUsages, &rate_limit_quotasvcv3.RateLimitQuotaUsageReports_BucketQuotaUsage{
				BucketId: &rate_limit_quotasvcv3.BucketId{Bucket: map[string]string{"limit": "a", "k": fmt.Sprint(i)}},
			})
		}
		p.reports <- r
		synctest.Wait()
		gone := 0
		for _, a := range (<-p.told).GetBucketAction() {
			if a.GetAbandonAction() != nil {
				gone++
			}
		}
		if gone != 3 || s.turnedAway.Load() != 3 || len(s.buckets) > maxBuckets+2 {
			t.Errorf("%d are turned away, %d are there", gone, len(s.buckets))
		}
	})
}

// BenchmarkReport is a proxy's report on one of a thousand keys, with the shares that are due.
func BenchmarkReport(b *testing.B) {
	s, _ := start()
	st := &stream{Server: s, host: "h", mine: make(map[string]*held)}
	var reports []*rate_limit_quotasvcv3.RateLimitQuotaUsageReports
	for i := range 1000 {
		reports = append(reports, &rate_limit_quotasvcv3.RateLimitQuotaUsageReports{Domain: mesh.LimitDomain, BucketQuotaUsages: []*rate_limit_quotasvcv3.RateLimitQuotaUsageReports_BucketQuotaUsage{{
			BucketId: &rate_limit_quotasvcv3.BucketId{Bucket: map[string]string{"limit": "a", "k": fmt.Sprint(i)}}, TimeElapsed: durationpb.New(time.Second), NumRequestsAllowed: 1,
		}}})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := st.take(b.Context(), reports[i%1000]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
