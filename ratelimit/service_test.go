package ratelimit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const (
	ok   = ratelimitsvcv3.RateLimitResponse_OK
	over = ratelimitsvcv3.RateLimitResponse_OVER_LIMIT
)

// descriptor is {limit, id} and then the pairs.
func descriptor(id string, pairs ...string) *commonratelimitv3.RateLimitDescriptor {
	d := &commonratelimitv3.RateLimitDescriptor{}
	pairs = append([]string{mesh.LimitKey, id}, pairs...)
	for i := 0; i < len(pairs); i += 2 {
		d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: pairs[i], Value: pairs[i+1]})
	}
	return d
}

func request(ds ...*commonratelimitv3.RateLimitDescriptor) *ratelimitsvcv3.RateLimitRequest {
	return &ratelimitsvcv3.RateLimitRequest{Domain: mesh.LimitDomain, Descriptors: ds}
}

func service(limits ...*mesh.Limit) *Service {
	s := New(slog.New(slog.DiscardHandler), Options{Keys: 10_000})
	s.Apply(limits)
	return s
}

func ask(t *testing.T, s *Service, r *ratelimitsvcv3.RateLimitRequest) *ratelimitsvcv3.RateLimitResponse {
	t.Helper()
	out, err := s.ShouldRateLimit(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, out.GetStatuses(), len(r.GetDescriptors()))
	return out
}

// passes is how many of at most 100 requests pass in a row.
func passes(t *testing.T, s *Service, ds ...*commonratelimitv3.RateLimitDescriptor) int {
	t.Helper()
	for n := range 100 {
		if ask(t, s, request(ds...)).GetOverallCode() == over {
			return n
		}
	}
	return 100
}

func headers(hs []*corev3.HeaderValue) string {
	var lines []string
	for _, h := range hs {
		lines = append(lines, h.GetKey()+": "+h.GetValue())
	}
	return strings.Join(lines, "\n")
}

func TestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service(&mesh.Limit{ID: `shop/"a"#0`, Requests: 2, Per: time.Minute, Burst: 2})
		d := descriptor(`shop/"a"#0`, "x-tenant", "acme")

		out := ask(t, s, request(d))
		assert.Equal(t, ok, out.GetOverallCode())
		st := out.GetStatuses()[0]
		assert.Equal(t, ok, st.GetCode())
		assert.EqualValues(t, 2, st.GetCurrentLimit().GetRequestsPerUnit())
		assert.Equal(t, ratelimitsvcv3.RateLimitResponse_RateLimit_MINUTE, st.GetCurrentLimit().GetUnit())
		assert.EqualValues(t, 1, st.GetLimitRemaining())
		assert.Equal(t, 30*time.Second, st.GetDurationUntilReset().AsDuration())
		assert.Equal(t, `ratelimit: "shop/\"a\"#0";r=1;t=30`+"\n"+`ratelimit-policy: "shop/\"a\"#0";q=2;w=60`, headers(out.GetResponseHeadersToAdd()))

		ask(t, s, request(d))
		time.Sleep(100 * time.Millisecond)
		out = ask(t, s, request(d))
		assert.Equal(t, over, out.GetOverallCode())
		assert.Equal(t, over, out.GetStatuses()[0].GetCode())
		assert.Zero(t, out.GetStatuses()[0].GetLimitRemaining())
		assert.Equal(t, "retry-after: 30\n"+`ratelimit: "shop/\"a\"#0";r=0;t=30`+"\n"+`ratelimit-policy: "shop/\"a\"#0";q=2;w=60`, headers(out.GetResponseHeadersToAdd()))

		time.Sleep(30*time.Second - 100*time.Millisecond - time.Nanosecond)
		out = ask(t, s, request(d))
		assert.Equal(t, over, out.GetOverallCode())
		assert.Contains(t, headers(out.GetResponseHeadersToAdd()), "retry-after: 1\n", "a nanosecond, rounded up")
		time.Sleep(time.Nanosecond)
		assert.Equal(t, ok, ask(t, s, request(d)).GetOverallCode())
		assert.Equal(t, over, ask(t, s, request(d)).GetOverallCode())
	})
}

func TestRateOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service(&mesh.Limit{ID: "a", Requests: 7, Per: time.Second, Burst: 3})
		passed := 0
		for range 100_001 {
			if ask(t, s, request(descriptor("a"))).GetOverallCode() == ok {
				passed++
			}
			time.Sleep(time.Millisecond)
		}
		assert.Equal(t, 3+700, passed, "the burst and 100 s")
	})
}

func TestRequestsMissingWhatByNamesShareAKey(t *testing.T) {
	s := service(&mesh.Limit{ID: "a", Requests: 3, Per: 24 * time.Hour, Burst: 3, By: []policy.LimitBy{{Header: "x-tenant"}}})
	assert.Equal(t, 3, passes(t, s, descriptor("a")))
	assert.Equal(t, 0, passes(t, s, descriptor("a")))
	assert.Equal(t, 3, passes(t, s, descriptor("a", "x-tenant", "acme")))
	assert.Equal(t, 0, passes(t, s, descriptor("a", "x-tenant", "acme")))
	assert.Equal(t, 3, passes(t, s, descriptor("a", "x-tenant", "")), "an empty header is one")
}

func TestKeysDoNotCollide(t *testing.T) {
	limits := []*mesh.Limit{}
	for _, id := range []string{"a", "b", "a_x", ""} {
		limits = append(limits, &mesh.Limit{ID: id, Requests: 1, Per: 24 * time.Hour, Burst: 1})
	}
	s := service(limits...)
	for _, d := range []*commonratelimitv3.RateLimitDescriptor{
		descriptor("a"),
		descriptor("b"),
		descriptor("a", "tenant", "acme_user_bob"),
		descriptor("a", "tenant", "acme", "user", "bob"),
		descriptor("a", "tenant", "acmeuser", "bob", ""),
		descriptor("a", "user", "bob", "tenant", "acme"),
		descriptor("a", "tenant", "acme"),
		descriptor("b", "tenant", "acme"),
		descriptor("a", "tenant_acme", ""),
		descriptor("a", "", "tenant_acme"),
		descriptor("a", "", ""),
		descriptor("a", "", "", "", ""),
		descriptor("a_x", "y", "z"),
		descriptor("a", "x_y", "z"),
		descriptor("", "a", ""),
		descriptor(""),
		descriptor("a", "tenant", "acme\x04user\x03bob"),
	} {
		assert.Equal(t, 1, passes(t, s, d), "%v", d)
	}
}

func TestMarkersAreNoPartOfTheKey(t *testing.T) {
	s := service(
		&mesh.Limit{ID: "a", Requests: 3, Per: 24 * time.Hour, Burst: 3},
		&mesh.Limit{ID: "odd", Requests: 3, Per: 24 * time.Hour, Burst: 3, By: []policy.LimitBy{{Header: "not"}}},
	)
	assert.Equal(t, 3, passes(t, s, descriptor("a", "not", "1", "x-tenant", "acme")))
	assert.Equal(t, 0, passes(t, s, descriptor("a", "x-tenant", "acme", "not", "2")))
	assert.Equal(t, 3, passes(t, s, descriptor("odd", "not", "1")))
	assert.Equal(t, 3, passes(t, s, descriptor("odd", "not", "2")), "here it is a header")
}

func TestUnknownLimitsRefuseNobody(t *testing.T) {
	s := service(&mesh.Limit{ID: "none", Per: time.Second})
	for _, r := range []*ratelimitsvcv3.RateLimitRequest{
		request(descriptor("other")),
		{Domain: "else", Descriptors: []*commonratelimitv3.RateLimitDescriptor{descriptor("none")}},
		request(&commonratelimitv3.RateLimitDescriptor{}),
		request(&commonratelimitv3.RateLimitDescriptor{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: "none", Value: "none"}}}),
	} {
		out := ask(t, s, r)
		assert.Equal(t, ok, out.GetOverallCode(), "%v", r)
		assert.Empty(t, out.GetResponseHeadersToAdd())
		for _, st := range out.GetStatuses() {
			assert.Equal(t, ok, st.GetCode())
			assert.Nil(t, st.GetCurrentLimit())
		}
	}
	assert.EqualValues(t, 4, s.Status().Unknown)

	out := ask(t, s, request(descriptor("other"), descriptor("none")))
	assert.Equal(t, over, out.GetOverallCode())
	assert.Equal(t, ok, out.GetStatuses()[0].GetCode())
	assert.Equal(t, over, out.GetStatuses()[1].GetCode())
	assert.Equal(t, "retry-after: 1\nratelimit: \"none\";r=0;t=1\nratelimit-policy: \"none\";q=0;w=1", headers(out.GetResponseHeadersToAdd()))
}

func TestSeveralLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service(
			&mesh.Limit{ID: "wide", Requests: 100, Per: time.Hour, Burst: 10},
			&mesh.Limit{ID: "narrow", Requests: 2, Per: time.Minute, Burst: 2},
			&mesh.Limit{ID: "shadow", Requests: 1, Per: 24 * time.Hour, Burst: 1, Shadow: true},
		)
		r := request(descriptor("wide"), descriptor("shadow"), descriptor("narrow"))
		out := ask(t, s, r)
		assert.Equal(t, "ratelimit: \"narrow\";r=1;t=30\nratelimit-policy: \"wide\";q=100;w=3600;weir-burst=10, \"narrow\";q=2;w=60", headers(out.GetResponseHeadersToAdd()))
		assert.Nil(t, out.GetStatuses()[1].GetCurrentLimit(), "a shadow does not show")

		out = ask(t, s, r)
		assert.Equal(t, ok, out.GetOverallCode())
		assert.Equal(t, ok, out.GetStatuses()[1].GetCode(), "a shadow refuses nobody")
		for range 5 {
			out = ask(t, s, r)
			assert.Equal(t, over, out.GetOverallCode())
			assert.Equal(t, ok, out.GetStatuses()[0].GetCode())
			assert.EqualValues(t, 8, out.GetStatuses()[0].GetLimitRemaining(), "a refused request uses nothing up")
			assert.Equal(t, over, out.GetStatuses()[2].GetCode())
		}
		assert.Contains(t, headers(out.GetResponseHeadersToAdd()), "retry-after: 30\nratelimit: \"narrow\";r=0;t=30\n")

		want := []LimitStatus{
			{ID: "narrow", Requests: 2, Per: "minute", Algorithm: "gcra", Burst: 2, Allowed: 2, Refused: 5, Near: 1},
			{ID: "shadow", Requests: 1, Per: "day", Algorithm: "gcra", Burst: 1, Shadow: true, Allowed: 1, ShadowRefused: 6, Near: 1},
			{ID: "wide", Requests: 100, Per: "hour", Algorithm: "gcra", Burst: 10, Allowed: 2},
		}
		st := s.Status()
		assert.Equal(t, want, st.Limits)
		assert.EqualValues(t, 3, st.Store.Keys)
		_, err := json.Marshal(st)
		assert.NoError(t, err)
	})
}

func TestHits(t *testing.T) {
	s := service(&mesh.Limit{ID: "a", Requests: 10, Per: 24 * time.Hour, Burst: 10})
	remaining := func(r *ratelimitsvcv3.RateLimitRequest) int {
		return int(ask(t, s, r).GetStatuses()[0].GetLimitRemaining())
	}
	r := request(descriptor("a"))
	assert.Equal(t, 9, remaining(r))
	r.HitsAddend = 3
	assert.Equal(t, 6, remaining(r))
	r.Descriptors[0].HitsAddend = wrapperspb.UInt64(2)
	assert.Equal(t, 4, remaining(r), "the descriptor's own comes first")
	r.Descriptors[0].HitsAddend = wrapperspb.UInt64(0)
	assert.Equal(t, 4, remaining(r), "a look")
	r.Descriptors[0].HitsAddend = wrapperspb.UInt64(5)
	assert.Equal(t, over, ask(t, s, r).GetOverallCode())
	r.Descriptors[0].HitsAddend = wrapperspb.UInt64(1 << 63)
	assert.Equal(t, over, ask(t, s, r).GetOverallCode())
	r.Descriptors[0].HitsAddend = wrapperspb.UInt64(4)
	assert.Equal(t, 0, remaining(r))
}

func TestQuestionsOfNothingAreRefused(t *testing.T) {
	s := service()
	for _, r := range []*ratelimitsvcv3.RateLimitRequest{{}, request(), {Descriptors: request(descriptor("a")).Descriptors}} {
		_, err := s.ShouldRateLimit(t.Context(), r)
		assert.Equal(t, codes.InvalidArgument, status.Code(err))
	}
}

func TestOverrideAndRefund(t *testing.T) {
	s := service(&mesh.Limit{ID: "a", Requests: 10, Per: 24 * time.Hour, Burst: 10})
	left := func(d *commonratelimitv3.RateLimitDescriptor) int {
		return int(ask(t, s, request(d)).GetStatuses()[0].GetLimitRemaining())
	}
	negative, override := descriptor("a"), descriptor("a")
	negative.IsNegativeHits = true
	override.Limit = &commonratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_DAY}
	require.Equal(t, 9, left(descriptor("a")))
	require.Equal(t, 8, left(descriptor("a")))
	require.Equal(t, 9, left(negative), "given back")
	require.Equal(t, over, ask(t, s, request(override)).GetOverallCode(), "one was used of the one that the question allows")
	require.Equal(t, 1, int(ask(t, s, request(override)).GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit()))
}

func TestApplyKeepsWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &mesh.Limit{ID: "a", Requests: 10, Per: time.Hour, Burst: 10}
		b := &mesh.Limit{ID: "b", Requests: 5, Per: time.Hour, Burst: 5}
		s := service(a, b)
		assert.Equal(t, 10, passes(t, s, descriptor("a")))
		s.Apply([]*mesh.Limit{a})
		assert.Equal(t, 0, passes(t, s, descriptor("a")))
		assert.EqualValues(t, 10, s.Status().Limits[0].Allowed)
		assert.Equal(t, 100, passes(t, s, descriptor("b")), "a limit that is gone refuses nobody")

		s.Apply([]*mesh.Limit{{ID: "a", Requests: 1, Per: time.Second, Burst: 1}})
		assert.Equal(t, 0, passes(t, s, descriptor("a")))
		time.Sleep(time.Second)
		assert.Equal(t, 1, passes(t, s, descriptor("a")), "the new rate holds at once, and an hour of waiting is forgotten")
	})
}

type broken struct{ Store }

func (broken) Take(context.Context, int64, []Hit) (bool, error) {
	return false, errors.New("no answer")
}

func TestBrokenStoreIsAnErrorForEnvoy(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler), Options{Store: broken{NewMemory(10)}})
	s.Apply([]*mesh.Limit{{ID: "a", Requests: 1, Per: time.Second, Burst: 1}})
	_, err := s.ShouldRateLimit(t.Context(), request(descriptor("a")))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, ok, ask(t, s, request(descriptor("b"))).GetOverallCode(), "nothing to ask")
}

func TestOverTheNetwork(t *testing.T) {
	s := service(&mesh.Limit{ID: "a", Requests: 50, Per: 24 * time.Hour, Burst: 50})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	s.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); assert.NoError(t, <-served) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close()) }()
	client := ratelimitsvcv3.NewRateLimitServiceClient(conn)

	stop := make(chan struct{})
	var applying, asking sync.WaitGroup
	applying.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.Apply([]*mesh.Limit{{ID: "a", Requests: 50, Per: 24 * time.Hour, Burst: 50}})
				_ = s.Status()
			}
		}
	})
	var passed atomic.Int64
	for range 8 {
		asking.Go(func() {
			for range 25 {
				out, err := client.ShouldRateLimit(t.Context(), request(descriptor("a", "x-tenant", "acme")))
				if assert.NoError(t, err) && out.GetOverallCode() == ok {
					passed.Add(1)
				}
			}
		})
	}
	asking.Wait()
	close(stop)
	applying.Wait()
	assert.EqualValues(t, 50, passed.Load())
	out, err := client.ShouldRateLimit(t.Context(), request(descriptor("a", "x-tenant", "acme")))
	require.NoError(t, err)
	assert.Contains(t, headers(out.GetResponseHeadersToAdd()), "retry-after: ")
}

func TestMetrics(t *testing.T) {
	s := service(&mesh.Limit{ID: "a", Requests: 2, Per: 24 * time.Hour, Burst: 2})
	for range 3 {
		ask(t, s, request(descriptor("a")))
	}
	ask(t, s, request(descriptor("b")))
	require.NoError(t, prometheus.NewPedanticRegistry().Register(s))
	assert.NoError(t, testutil.CollectAndCompare(s, strings.NewReader(`
# HELP weir_ratelimit_decisions_total Requests at each limit: allowed, refused, or shadow_refused (let through). Those that another limit refused are left out.
# TYPE weir_ratelimit_decisions_total counter
weir_ratelimit_decisions_total{limit="a",result="allowed"} 2
weir_ratelimit_decisions_total{limit="a",result="refused"} 1
weir_ratelimit_decisions_total{limit="a",result="shadow_refused"} 0
# HELP weir_ratelimit_keys Keys that have used some of their limit.
# TYPE weir_ratelimit_keys gauge
weir_ratelimit_keys 1
# HELP weir_ratelimit_unknown_total Descriptors of no limit in force, all let through, by what isn't known.
# TYPE weir_ratelimit_unknown_total counter
weir_ratelimit_unknown_total{what="domain"} 0
weir_ratelimit_unknown_total{what="limit"} 1
`), "weir_ratelimit_decisions_total", "weir_ratelimit_keys", "weir_ratelimit_unknown_total"))
	problems, err := testutil.CollectAndLint(s)
	require.NoError(t, err)
	assert.Empty(t, problems)
}

func TestQuote(t *testing.T) {
	assert.Equal(t, `"a\"b\\c_d_"`, quote("a\"b\\c\nd\u00e9"))
}

// FuzzShouldRateLimit: whatever Envoy sends, the service answers for each descriptor, and the same key is the same
// counter: of a limit of one, the same request again is refused.
func FuzzShouldRateLimit(f *testing.F) {
	f.Add("weir", "limit", "a", "x-tenant", "acme", uint32(1), false)
	f.Add("weir", "limit", "a", "not", "", uint32(0), true)
	f.Add("weir", "limit", "b", "", "\xff", uint32(1<<31), false)
	f.Fuzz(func(t *testing.T, domain, key, id, k, v string, hits uint32, twice bool) {
		s := New(slog.New(slog.DiscardHandler), Options{Keys: 100})
		s.Apply([]*mesh.Limit{{ID: "a", Requests: 1, Per: 24 * time.Hour, Burst: 1}})
		d := &commonratelimitv3.RateLimitDescriptor{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: key, Value: id}, {Key: k, Value: v}}}
		r := &ratelimitsvcv3.RateLimitRequest{Domain: domain, HitsAddend: hits, Descriptors: []*commonratelimitv3.RateLimitDescriptor{d}}
		if twice {
			r.Descriptors = append(r.Descriptors, d)
		}
		known := domain == "weir" && key == "limit" && id == "a"
		first, second := ask(t, s, r).GetOverallCode(), ask(t, s, r).GetOverallCode()
		assert.Equal(t, !known || hits <= 1 && !twice, first == ok)
		assert.Equal(t, !known, second == ok)
	})
}

// FuzzKey: different parts, different keys.
func FuzzKey(f *testing.F) {
	f.Add("a", "b", "ab", "")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		one, other := AppendKey(AppendKey(nil, a), b), AppendKey(AppendKey(nil, c), d)
		assert.Equal(t, a == c && b == d, string(one) == string(other))
		assert.NotEqual(t, string(one), string(AppendKey(nil, c)))
	})
}

// BenchmarkService is the handler without the network. It should move with what the answer is made of, since the
// decision is a small part of it.
func BenchmarkService(b *testing.B) {
	s := New(slog.New(slog.DiscardHandler), Options{})
	s.Apply([]*mesh.Limit{{ID: "RateLimit shop/checkout-tenants#0", Requests: 100, Per: time.Second, Burst: 100}})
	var requests []*ratelimitsvcv3.RateLimitRequest
	for i := range 1024 {
		requests = append(requests, request(descriptor("RateLimit shop/checkout-tenants#0", "x-tenant", fmt.Sprintf("tenant-%d", i))))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := b.Context()
		for i := 0; pb.Next(); i++ {
			if _, err := s.ShouldRateLimit(ctx, requests[i&1023]); err != nil {
				b.Error(err)
			}
		}
	})
}
