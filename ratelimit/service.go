package ratelimit

import (
	"context"
	"errors"
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

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/mesh"
)

// Service answers Envoys over gRPC. It is a prometheus.Collector too.
type Service struct {
	ratelimitsvcv3.UnimplementedRateLimitServiceServer

	log     *slog.Logger
	store   Store
	prompt  Prompt    // the same, if it is one and not in memory
	started time.Time // with its monotonic part: now does not jump when the wall clock is set
	compat  Compat
	metrics *metrics
	refused *hitters
	used    *hitters
	noting  sampler

	applying  sync.Mutex // guards what is configured, of which limits is made
	policy    []*mesh.Limit
	domains   []*Domain
	limits    atomic.Pointer[table]
	questions sync.Pool // of *question
}

// Options of a [Service]; the zero value is good.
type Options struct {
	Keys  int   // how many keys the store in memory is made for; 0 is [DefaultKeys]
	Store Store // nil: a [Memory]

	Compat Compat
}

// New gives a service without any limits: it refuses nobody until [Service.Apply]. It starts nothing.
func New(log *slog.Logger, o Options) *Service {
	s := &Service{log: log, store: o.Store, compat: o.Compat, started: time.Now(), metrics: newMetrics(), refused: newHitters(), used: newHitters()}
	if s.store == nil {
		s.store = NewMemory(o.Keys)
	}
	if _, ok := s.store.(*Memory); !ok {
		s.prompt, _ = s.store.(Prompt)
	}
	s.limits.Store(newTable(nil, nil, new(table)))
	s.questions.New = func() any { return new(question) }
	return s
}

// Register puts the service on a server.
func (s *Service) Register(server *grpc.Server) {
	ratelimitsvcv3.RegisterRateLimitServiceServer(server, s)
}

// Apply puts limits in force, at once for every request that comes after, and instead of all before. A limit that
// keeps its ID keeps what has been used of it, also when its rate changes; see [Rate.Decide]. The limits must not be
// changed afterwards: those that are there again, sorted by ID as a model has them, are not looked at.
func (s *Service) Apply(limits []*mesh.Limit) {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.policy = limits
	s.apply()
}

// ApplyDomains puts domains in force, beside the limits of [Service.Apply], as that does; none may have the name
// [mesh.LimitDomain].
func (s *Service) ApplyDomains(domains []*Domain) {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.domains = domains
	s.apply()
}

func (s *Service) apply() {
	t := newTable(s.policy, s.domains, s.limits.Load())
	s.limits.Store(t)
	s.log.Debug("rate limits in force", "limits", len(t.sorted))
}

func (s *Service) now() int64 { return s.started.UnixNano() + int64(time.Since(s.started)) }

// question is one request while it is decided, reused for the next.
type question struct {
	message message // of what came over the wire

	asked []asked // one for each descriptor
	hits  []Hit   // one for each descriptor with a limit; their keys' memory is reused as well

	scratch  []byte // a key
	noDomain bool   // the domain is not known

	overdraws bool // see [Hit.overdraws]
	charges   []Hit

	// Of one that has to wait for its answer:
	service *Service
	start   int64
	later   h2.Later
	out     []byte
}

// asked is one descriptor. All are nil if its limit isn't known.
type asked struct {
	limit      *limit
	hit        *Hit // nil: the limit is unlimited
	counts     *counts
	descriptor *commonratelimitv3.RateLimitDescriptor // only while it is answered
}

// ShouldRateLimit implements the service of Envoy: it refuses if any limit does that is not a shadow, and counts the
// request at all limits or at none.
func (s *Service) ShouldRateLimit(ctx context.Context, r *ratelimitsvcv3.RateLimitRequest) (*ratelimitsvcv3.RateLimitResponse, error) {
	q := s.questions.Get().(*question)
	defer s.done(q)
	b, err := s.answer(ctx, q, r, nil)
	if err != nil {
		return nil, err
	}
	out := new(ratelimitsvcv3.RateLimitResponse)
	return out, proto.Unmarshal(b, out)
}

// done keeps the memory of a question for the next.
func (s *Service) done(q *question) {
	clear(q.asked)
	s.questions.Put(q)
}

// answer appends the encoded answer to a request.
func (s *Service) answer(ctx context.Context, q *question, r *ratelimitsvcv3.RateLimitRequest, out []byte) ([]byte, error) {
	q.start = s.now()
	if err := s.read(q, r); err != nil {
		return out, err
	}
	allowed := true
	var err error
	if len(q.hits) > 0 {
		allowed, err = s.store.Take(ctx, q.start, q.hits)
	}
	if err == nil && q.overdraws {
		s.overdraw(ctx, q.start, q)
	}
	return s.tell(q, allowed, err, out)
}

func (s *Service) read(q *question, r *ratelimitsvcv3.RateLimitRequest) error {
	err := q.read(r, s.limits.Load())
	if err != nil {
		s.metrics.errors.Add(1)
		err = status.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

// tell appends the encoded answer to a question that is decided, or is not for an error.
func (s *Service) tell(q *question, allowed bool, err error, out []byte) ([]byte, error) {
	if err != nil {
		s.metrics.errors.Add(1)
		return out, s.unavailable(err)
	}
	s.metrics.count(q, allowed)
	s.note(q, q.start, allowed)
	out = q.appendAnswer(out, allowed || s.compat.Shadow, s.compat.Headers)
	s.metrics.duration.Observe(time.Duration(s.now() - q.start).Seconds())
	return out, nil
}

// unavailable is what Envoy is told, which then does as the policy's onError says.
func (s *Service) unavailable(err error) error {
	if !errors.Is(err, ErrUnavailable) {
		s.log.Error("ask the store of rate limits", "error", err)
	}
	return status.Error(codes.Unavailable, ErrUnavailable.Error())
}

var (
	errNoDomain      = errors.New("the question has no domain")
	errNoDescriptors = errors.New("the question has no descriptors")
)

// read finds the limits of a request and makes its hits.
func (q *question) read(r *ratelimitsvcv3.RateLimitRequest, t *table) error {
	q.asked, q.hits, q.noDomain, q.overdraws = q.asked[:0], q.hits[:0], false, false
	switch {
	case r.GetDomain() == "":
		return errNoDomain
	case len(r.GetDescriptors()) == 0:
		return errNoDescriptors
	case r.GetDomain() == mesh.LimitDomain:
		for _, d := range r.GetDescriptors() {
			q.ask(r, d, t.limit(d))
		}
	default:
		if d := t.domains[r.GetDomain()]; d != nil {
			q.readDomain(r, d, t)
		} else {
			q.noDomain = true
			q.asked = append(q.asked, make([]asked, len(r.GetDescriptors()))...)
		}
	}
	next := 0
	for i := range q.asked {
		if a := &q.asked[i]; a.limit != nil && !a.limit.unlimited {
			a.hit = &q.hits[next]
			next++
		}
	}
	return nil
}

// ask asks one of the limits that policy documents have.
func (q *question) ask(r *ratelimitsvcv3.RateLimitRequest, d *commonratelimitv3.RateLimitDescriptor, l *limit) {
	if l == nil {
		q.asked = append(q.asked, asked{})
		return
	}
	q.asked = append(q.asked, asked{limit: l, counts: l.counts, descriptor: d})
	h := q.hit(r, d, l)
	h.Key = l.appendKey(h.Key, d.GetEntries()[1:])
	if d.GetEntries()[0].GetKey() == mesh.ChargeKey && h.Kind == Take {
		h.Kind = Charge
	}
}

// readDomain asks the limits of a domain, but for those that others replace.
func (q *question) readDomain(r *ratelimitsvcv3.RateLimitRequest, in *domain, t *table) {
	var replaced []string
	for _, d := range r.GetDescriptors() {
		if n, _ := in.find(q.scratch[:0], d); n != nil && d.GetLimit() == nil {
			replaced = append(replaced, n.limit.replaces...)
		}
	}
	for _, d := range r.GetDescriptors() {
		a := asked{descriptor: d}
		if d.GetLimit() != nil {
			a.limit, q.scratch = in.own(q.scratch[:0], d)
			a.counts = a.limit.counts
		} else {
			var n *node
			if n, q.scratch = in.find(q.scratch[:0], d); n != nil && !n.limit.replacedBy(replaced) {
				a.limit, a.counts = n.limit, n.limit.counts
				if n.apart {
					a.counts = t.detailsOf(in, n, d)
				}
			}
		}
		q.asked = append(q.asked, a)
		if a.limit != nil && !a.limit.unlimited {
			h := q.hit(r, d, a.limit)
			h.Key = append(h.Key, q.scratch...)
			q.overdraws = q.overdraws || h.overdraws()
		}
	}
}

// hit appends one, in the memory of an earlier question's.
func (q *question) hit(r *ratelimitsvcv3.RateLimitRequest, d *commonratelimitv3.RateLimitDescriptor, l *limit) *Hit {
	if len(q.hits) < cap(q.hits) {
		q.hits = q.hits[:len(q.hits)+1]
	} else {
		q.hits = append(q.hits, Hit{})
	}
	h := &q.hits[len(q.hits)-1]
	*h = Hit{Key: h.Key[:0], Rate: &l.rate, N: hitsOf(r, d), Shadow: l.Shadow, Quota: l.quota, Strict: l.DenyOnError}
	if d.GetIsNegativeHits() {
		h.Kind = Refund
	}
	return h
}

// limit is the one a descriptor asks about, or nil. One that the question brings with it counts by the same algorithm.
func (t *table) limit(d *commonratelimitv3.RateLimitDescriptor) *limit {
	e := d.GetEntries()
	if len(e) == 0 || e[0].GetKey() != mesh.LimitKey && e[0].GetKey() != mesh.ChargeKey {
		return nil
	}
	l := t.byID[e[0].GetValue()]
	if l == nil || l.compat || d.GetLimit() == nil {
		return l
	}
	m := windowOf(d.GetLimit().GetRequestsPerUnit(), ratelimitsvcv3.RateLimitResponse_RateLimit_Unit(d.GetLimit().GetUnit()))
	m.ID, m.Source, m.By, m.Algorithm, m.Burst, m.Shadow = l.ID, l.Source, l.By, l.Algorithm, m.Requests, l.Shadow
	return newLimit(m, l.counts)
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

// hitsOf is how many requests a descriptor stands for; its own number comes before the request's, and none is 1.
func hitsOf(r *ratelimitsvcv3.RateLimitRequest, d *commonratelimitv3.RateLimitDescriptor) uint64 {
	if d.GetHitsAddend() != nil {
		return d.GetHitsAddend().GetValue()
	}
	return uint64(max(r.GetHitsAddend(), 1))
}
