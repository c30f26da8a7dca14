package ratelimit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
)

// Service answers Envoys over gRPC. It is a prometheus.Collector too.
type Service struct {
	ratelimitsvcv3.UnimplementedRateLimitServiceServer

	log     *slog.Logger
	store   Store
	started time.Time // with its monotonic part: now does not jump when the wall clock is set
	metrics *metrics

	applying  sync.Mutex // of one Apply with another
	limits    atomic.Pointer[table]
	questions sync.Pool // of *question
}

// Options of a [Service]; the zero value is good.
type Options struct {
	Keys  int   // how many keys the store in memory is made for; 0 is [DefaultKeys]
	Store Store // nil: a [Memory]
}

// New gives a service without any limits: it refuses nobody until [Service.Apply]. It starts nothing.
func New(log *slog.Logger, o Options) *Service {
	s := &Service{log: log, store: o.Store, started: time.Now(), metrics: newMetrics()}
	if s.store == nil {
		s.store = NewMemory(o.Keys)
	}
	s.limits.Store(newTable(nil, new(table)))
	s.questions.New = func() any { return new(question) }
	return s
}

// Register puts the service on a server.
func (s *Service) Register(server *grpc.Server) {
	ratelimitsvcv3.RegisterRateLimitServiceServer(server, s)
}

// Apply puts limits in force, at once for every request that comes after, and instead of all before. A limit that
// keeps its ID keeps what has been used of it, also when its rate changes; see [Rate.Decide]. The limits are copied.
func (s *Service) Apply(limits []*mesh.Limit) {
	s.applying.Lock()
	defer s.applying.Unlock()
	t := newTable(limits, s.limits.Load())
	s.limits.Store(t)
	s.log.Debug("rate limits in force", "limits", len(t.sorted))
}

func (s *Service) now() int64 { return s.started.UnixNano() + int64(time.Since(s.started)) }

// question is one request while it is decided, reused for the next.
type question struct {
	asked []asked // one for each descriptor
	hits  []Hit   // one for each descriptor with a limit; their keys' memory is reused as well
}

// asked is one descriptor. Both are nil if its limit isn't known.
type asked struct {
	limit *limit
	hit   *Hit
}

// ShouldRateLimit implements the service of Envoy: it refuses if any limit does that is not a shadow, and counts the
// request at all limits or at none.
func (s *Service) ShouldRateLimit(ctx context.Context, r *ratelimitsvcv3.RateLimitRequest) (*ratelimitsvcv3.RateLimitResponse, error) {
	b, err := s.answer(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	out := new(ratelimitsvcv3.RateLimitResponse)
	return out, proto.Unmarshal(b, out)
}

// answer appends the encoded answer to a question. It keeps nothing of the question.
func (s *Service) answer(ctx context.Context, r *ratelimitsvcv3.RateLimitRequest, out []byte) ([]byte, error) {
	start := s.now()
	q := s.questions.Get().(*question)
	defer s.questions.Put(q)
	if err := q.read(r, s.limits.Load()); err != nil {
		s.metrics.errors.Add(1)
		return out, status.Error(codes.InvalidArgument, err.Error())
	}
	allowed := true
	if len(q.hits) > 0 {
		var err error
		if allowed, err = s.store.Take(ctx, start, q.hits); err != nil {
			s.metrics.errors.Add(1)
			s.log.Error("ask the store of rate limits", "error", err)
			return out, status.Error(codes.Unavailable, "the store of rate limits can't be asked")
		}
	}
	s.metrics.count(r, q, allowed)
	out = q.appendAnswer(out, allowed)
	s.metrics.duration.Observe(time.Duration(s.now() - start).Seconds())
	return out, nil
}

// read finds the limits of a request and makes its hits.
func (q *question) read(r *ratelimitsvcv3.RateLimitRequest, t *table) error {
	q.asked, q.hits = q.asked[:0], q.hits[:0]
	known := r.GetDomain() == mesh.LimitDomain
	for _, d := range r.GetDescriptors() {
		var l *limit
		if known {
			l = t.limit(d)
		}
		if l != nil {
			n, err := hitsOf(r, d)
			if err != nil {
				return err
			}
			q.add(l, d, n)
		}
		q.asked = append(q.asked, asked{limit: l})
	}
	next := 0
	for i := range q.asked {
		if q.asked[i].limit != nil {
			q.asked[i].hit = &q.hits[next]
			next++
		}
	}
	return nil
}

// add appends a hit, in the memory of an earlier question's.
func (q *question) add(l *limit, d *commonratelimitv3.RateLimitDescriptor, n uint64) {
	if len(q.hits) < cap(q.hits) {
		q.hits = q.hits[:len(q.hits)+1]
	} else {
		q.hits = append(q.hits, Hit{})
	}
	h := &q.hits[len(q.hits)-1]
	*h = Hit{Key: l.appendKey(h.Key[:0], d.GetEntries()[1:]), Rate: &l.rate, N: n, Shadow: l.Shadow}
}

// limit is the one a descriptor asks about, or nil.
func (t *table) limit(d *commonratelimitv3.RateLimitDescriptor) *limit {
	if e := d.GetEntries(); len(e) > 0 && e[0].GetKey() == mesh.LimitKey {
		return t.byID[e[0].GetValue()]
	}
	return nil
}

// appendKey appends the key of the limit's counter for the values that a request has.
func (l *limit) appendKey(key []byte, entries []*commonratelimitv3.RateLimitDescriptor_Entry) []byte {
	key = AppendKey(key, l.ID)
	for _, e := range entries {
		if e.GetKey() == notKey && l.markers {
			continue
		}
		key = AppendKey(AppendKey(key, e.GetKey()), e.GetValue())
	}
	return key
}

// unsupported is what Envoy can ask for and Weir's routes never do.
type unsupported string

func (u unsupported) Error() string { return string(u) + " is not supported" }

// hitsOf is how many requests a descriptor stands for; its own number comes before the request's, and none is 1.
func hitsOf(r *ratelimitsvcv3.RateLimitRequest, d *commonratelimitv3.RateLimitDescriptor) (uint64, error) {
	switch {
	case d.GetIsNegativeHits():
		return 0, unsupported("is_negative_hits")
	case d.GetLimit() != nil:
		return 0, unsupported("a limit override")
	case d.GetHitsAddend() != nil:
		return d.GetHitsAddend().GetValue(), nil
	}
	return uint64(max(r.GetHitsAddend(), 1)), nil
}
