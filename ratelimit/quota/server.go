package quota

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rate_limit_quotasvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/ratelimit"
)

// maxBuckets is how many a stream may have: their ids are made of what clients send.
const maxBuckets = 10_000

// Server streams quotas. It is a prometheus.Collector too.
type Server struct {
	rate_limit_quotasvcv3.UnimplementedRateLimitQuotaServiceServer

	log    *slog.Logger
	limits *ratelimit.Service

	streams, assignments, turnedAway atomic.Int64

	mu      sync.Mutex // guards everything declared below
	buckets map[string]*bucket
}

// New gives a server of quotas of the limits that are in force. It starts nothing.
func New(log *slog.Logger, limits *ratelimit.Service) *Server {
	return &Server{log: log, limits: limits, buckets: make(map[string]*bucket)}
}

// Register puts the service on a server.
func (s *Server) Register(g *grpc.Server) {
	rate_limit_quotasvcv3.RegisterRateLimitQuotaServiceServer(g, s)
}

// stream is one proxy's, for one goroutine.
type stream struct {
	*Server
	host   string
	domain string
	mine   map[string]*held
}

// held is a bucket that a proxy reports on.
type held struct {
	id     *rate_limit_quotasvcv3.BucketId
	bucket *bucket
	part   *part
	free   time.Time // of what no limit is for: until when the proxy knows
}

// StreamRateLimitQuotas implements the service of Envoy.
func (s *Server) StreamRateLimitQuotas(g grpc.BidiStreamingServer[rate_limit_quotasvcv3.RateLimitQuotaUsageReports, rate_limit_quotasvcv3.RateLimitQuotaResponse]) error {
	st := &stream{Server: s, host: hostOf(g.Context()), mine: make(map[string]*held)}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	defer st.leave()
	reports, ended := make(chan *rate_limit_quotasvcv3.RateLimitQuotaUsageReports), make(chan error, 1)
	go func() { // ends with the stream, which ends when this method returns
		for {
			r, err := g.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case reports <- r:
			case <-g.Context().Done():
				return
			}
		}
	}()
	tick := time.NewTicker(round)
	defer tick.Stop()
	for {
		var out *rate_limit_quotasvcv3.RateLimitQuotaResponse
		select {
		case err := <-ended:
			if g.Context().Err() == nil && status.Code(err) != codes.Canceled {
				return nil // the proxy has closed its side
			}
			return err
		case <-g.Context().Done():
			return g.Context().Err()
		case r := <-reports:
			var err error
			if out, err = st.take(g.Context(), r); err != nil {
				return err
			}
		case <-tick.C:
			out = &rate_limit_quotasvcv3.RateLimitQuotaResponse{}
		}
		if st.renew(out); len(out.BucketAction) == 0 {
			continue
		}
		if err := g.Send(out); err != nil {
			return err
		}
	}
}

func hostOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// take takes a proxy's reports in.
func (st *stream) take(ctx context.Context, r *rate_limit_quotasvcv3.RateLimitQuotaUsageReports) (*rate_limit_quotasvcv3.RateLimitQuotaResponse, error) {
	if st.domain == "" {
		st.domain = r.GetDomain()
	}
	if st.domain == "" || r.GetDomain() != "" && r.GetDomain() != st.domain {
		return nil, status.Error(codes.InvalidArgument, "the first report of a stream names its domain, and later ones no other")
	}
	out := &rate_limit_quotasvcv3.RateLimitQuotaResponse{}
	now := time.Now()
	for _, u := range r.GetBucketQuotaUsages() {
		key := keyOf(u.GetBucketId())
		h := st.mine[key]
		if h == nil {
			if len(st.mine) >= maxBuckets {
				st.turnedAway.Add(1)
				out.BucketAction = append(out.BucketAction, abandon(u.GetBucketId()))
				continue
			}
			h = &held{id: u.GetBucketId()}
			st.mine[key] = h
		}
		q := st.follow(h, key, now)
		if h.part != nil {
			h.bucket.report(h.part, u.GetTimeElapsed().AsDuration(), u.GetNumRequestsAllowed()+u.GetNumRequestsDenied(), now)
		}
		if err := st.limits.Report(ctx, &q, u.GetNumRequestsAllowed(), u.GetNumRequestsDenied()); err != nil {
			st.log.Error("take in a report of use", "limit", u.GetBucketId().GetBucket()["limit"], "error", err)
		}
	}
	return out, nil
}

// follow looks up which limit a bucket is of now.
func (st *stream) follow(h *held, key string, now time.Time) ratelimit.Quota {
	q := st.limits.Quota(st.domain, h.id.GetBucket())
	switch {
	case q.Key == "" || q.Shadow:
		st.release(h, key, true, now)
	case h.part == nil:
		h.bucket, h.part = st.join(st.domain+"\x00"+key, st.host, now)
		h.free = time.Time{}
		h.bucket.set(q)
	default:
		h.bucket.set(q)
	}
	return q
}

func (s *Server) join(key, host string, now time.Time) (*bucket, *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[key]
	if b == nil {
		b = &bucket{parts: make(map[*part]struct{})}
		s.buckets[key] = b
	}
	return b, b.join(host, now)
}

// release ends a proxy's part in a bucket.
func (st *stream) release(h *held, key string, givenUp bool, now time.Time) {
	if h.part == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if h.bucket.leave(h.part, givenUp, now) {
		delete(st.buckets, st.domain+"\x00"+key)
	}
	h.part, h.bucket = nil, nil
}

// leave is for a proxy that can't be reached any more. What it was promised is kept in mind until it expires.
func (st *stream) leave() {
	now := time.Now()
	for key, h := range st.mine {
		st.release(h, key, false, now)
	}
	st.sweep(now)
}

// sweep forgets the buckets of proxies that have gone, when what they were promised is over.
func (s *Server) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, b := range s.buckets {
		b.mu.Lock()
		b.expire(now)
		if len(b.parts) == 0 {
			delete(s.buckets, key)
		}
		b.mu.Unlock()
	}
}

// renew appends what has changed, or is due, of all that a proxy has.
func (st *stream) renew(out *rate_limit_quotasvcv3.RateLimitQuotaResponse) {
	now := time.Now()
	for key, h := range st.mine {
		st.follow(h, key, now)
		if h.part == nil {
			if h.free.Sub(now) < maxLifeTime/3 {
				h.free = now.Add(maxLifeTime)
				out.BucketAction = append(out.BucketAction, assignment(h.id, maxLifeTime, blanket(typev3.RateLimitStrategy_ALLOW_ALL)))
			}
			continue
		}
		if h.bucket.idle(h.part, now) {
			st.release(h, key, true, now)
			delete(st.mine, key)
			out.BucketAction = append(out.BucketAction, abandon(h.id))
			continue
		}
		perSecond, burst, tell := h.bucket.assign(h.part, now)
		if tell {
			st.assignments.Add(1)
			out.BucketAction = append(out.BucketAction, assignment(h.id, h.bucket.life(h.part), strategy(perSecond, burst)))
		}
	}
}

func abandon(id *rate_limit_quotasvcv3.BucketId) *rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction {
	return &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction{BucketId: id, BucketAction: &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction_AbandonAction_{
		AbandonAction: &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction_AbandonAction{},
	}}
}

func assignment(id *rate_limit_quotasvcv3.BucketId, life time.Duration, s *typev3.RateLimitStrategy) *rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction {
	return &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction{BucketId: id, BucketAction: &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction_{
		QuotaAssignmentAction: &rate_limit_quotasvcv3.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction{
			AssignmentTimeToLive: durationpb.New(life), RateLimitStrategy: s,
		},
	}}
}

// keyOf is the same for the same id, and another for another.
func keyOf(id *rate_limit_quotasvcv3.BucketId) string {
	var key []byte
	for _, name := range slices.Sorted(maps.Keys(id.GetBucket())) {
		key = ratelimit.AppendKey(ratelimit.AppendKey(key, name), id.GetBucket()[name])
	}
	return string(key)
}

var (
	streamsDesc     = prometheus.NewDesc("weir_ratelimit_quota_streams", "Proxies that decide by quotas.", nil, nil)
	bucketsDesc     = prometheus.NewDesc("weir_ratelimit_quota_buckets", "Keys that are divided among proxies.", nil, nil)
	assignmentsDesc = prometheus.NewDesc("weir_ratelimit_quota_assignments_total", "Shares that proxies were told.", nil, nil)
	awayDesc        = prometheus.NewDesc("weir_ratelimit_quota_turned_away_total", fmt.Sprintf("Reports of a key that got no share, since the proxy has %d already.", maxBuckets), nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{streamsDesc, bucketsDesc, assignmentsDesc, awayDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	n := len(s.buckets)
	s.mu.Unlock()
	out <- prometheus.MustNewConstMetric(streamsDesc, prometheus.GaugeValue, float64(s.streams.Load()))
	out <- prometheus.MustNewConstMetric(bucketsDesc, prometheus.GaugeValue, float64(n))
	out <- prometheus.MustNewConstMetric(assignmentsDesc, prometheus.CounterValue, float64(s.assignments.Load()))
	out <- prometheus.MustNewConstMetric(awayDesc, prometheus.CounterValue, float64(s.turnedAway.Load()))
}
