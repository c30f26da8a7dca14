package compat_test

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/compat"
)

const (
	ok   = ratelimitsvcv3.RateLimitResponse_OK
	over = ratelimitsvcv3.RateLimitResponse_OVER_LIMIT
)

// service is one of the configuration above, or of another.
func service(t *testing.T, other ...string) *ratelimit.Service {
	return serviceWith(t, ratelimit.Compat{}, other...)
}

func serviceWith(t *testing.T, how ratelimit.Compat, other ...string) *ratelimit.Service {
	text := strings.Join(other, "")
	if text == "" {
		text = config
	}
	domains, problems := compat.Parse([]compat.File{{Name: "a.yaml", Data: []byte(text)}})
	require.Empty(t, problems)
	s := ratelimit.New(slog.New(slog.DiscardHandler), ratelimit.Options{Keys: 10_000, Compat: how})
	s.ApplyDomains(domains)
	return s
}

// of makes a descriptor of KEY=VALUE, or KEY.
func of(entries ...string) *commonratelimitv3.RateLimitDescriptor {
	d := &commonratelimitv3.RateLimitDescriptor{}
	for _, e := range entries {
		key, value, _ := strings.Cut(e, "=")
		d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	return d
}

func ask(t *testing.T, s *ratelimit.Service, ds ...*commonratelimitv3.RateLimitDescriptor) *ratelimitsvcv3.RateLimitResponse {
	t.Helper()
	out, err := s.ShouldRateLimit(t.Context(), &ratelimitsvcv3.RateLimitRequest{Domain: "shop", Descriptors: ds})
	require.NoError(t, err)
	require.Len(t, out.GetStatuses(), len(ds))
	return out
}

// passes is how many of 20 pass, asked one after the other.
func passes(t *testing.T, s *ratelimit.Service, ds ...*commonratelimitv3.RateLimitDescriptor) int {
	t.Helper()
	for n := range 20 {
		if ask(t, s, ds...).GetOverallCode() == over {
			return n
		}
	}
	return 20
}

// config has limits by day, so that no window ends while a test runs but one a day: those tests would be off by one.
const config = `
domain: shop
descriptors:
  - key: plan
    value: gold
    rate_limit: {unit: day, requests_per_unit: 5}
  - key: plan
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: path
    value: /img/*
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: shared
    value: a*
    share_threshold: true
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: tenant
    rate_limit: {unit: day, requests_per_unit: 4}
    descriptors:
      - key: user
        rate_limit: {unit: day, requests_per_unit: 2}
      - key: deep
        value: x*
        rate_limit: {unit: day, requests_per_unit: 1}
  - key: free
    rate_limit: {unlimited: true}
  - key: watched
    shadow_mode: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: detailed
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: base
    rate_limit: {unit: day, requests_per_unit: 1, name: base}
  - key: wide
    rate_limit: {unit: day, requests_per_unit: 9, name: wide, replaces: [{name: base}]}
  - key: nothing
  - key: starred*
    rate_limit: {unit: day, requests_per_unit: 1}
`

func TestDescriptors(t *testing.T) {
	for name, c := range map[string]struct {
		ask  []*commonratelimitv3.RateLimitDescriptor
		want int
	}{
		"value":                           {[]*commonratelimitv3.RateLimitDescriptor{of("plan=gold")}, 5},
		"any value":                       {[]*commonratelimitv3.RateLimitDescriptor{of("plan=tin")}, 2},
		"no value":                        {[]*commonratelimitv3.RateLimitDescriptor{of("plan")}, 2},
		"prefix":                          {[]*commonratelimitv3.RateLimitDescriptor{of("path=/img/a.png")}, 3},
		"no prefix":                       {[]*commonratelimitv3.RateLimitDescriptor{of("path=/css")}, 20},
		"nested":                          {[]*commonratelimitv3.RateLimitDescriptor{of("tenant=acme", "user=bob")}, 2},
		"nested prefix":                   {[]*commonratelimitv3.RateLimitDescriptor{of("tenant=acme", "deep=xy")}, 1},
		"outer alone":                     {[]*commonratelimitv3.RateLimitDescriptor{of("tenant=acme")}, 4},
		"inner alone":                     {[]*commonratelimitv3.RateLimitDescriptor{of("user=bob")}, 20},
		"deeper than configured":          {[]*commonratelimitv3.RateLimitDescriptor{of("tenant=acme", "user=bob", "more=x")}, 20},
		"unknown":                         {[]*commonratelimitv3.RateLimitDescriptor{of("other=x")}, 20},
		"unlimited":                       {[]*commonratelimitv3.RateLimitDescriptor{of("free=x")}, 20},
		"shadow":                          {[]*commonratelimitv3.RateLimitDescriptor{of("watched=x")}, 20},
		"without a limit":                 {[]*commonratelimitv3.RateLimitDescriptor{of("nothing=x")}, 20},
		"many: the tightest":              {[]*commonratelimitv3.RateLimitDescriptor{of("plan=gold"), of("tenant=acme"), of("free=x"), of("other=x")}, 4},
		"replaced":                        {[]*commonratelimitv3.RateLimitDescriptor{of("base=x"), of("wide=x")}, 9},
		"not replaced":                    {[]*commonratelimitv3.RateLimitDescriptor{of("base=x")}, 1},
		"prefix of a key":                 {[]*commonratelimitv3.RateLimitDescriptor{of("starredthing=x")}, 1},
		"prefix of a key, with its value": {[]*commonratelimitv3.RateLimitDescriptor{of("starred=x")}, 1},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, passes(t, service(t), c.ask...)) })
	}
}

func TestKeysDoNotCollide(t *testing.T) {
	s := service(t)
	require.Equal(t, 4, passes(t, s, of("tenant=acme_user_bob")))
	require.Equal(t, 2, passes(t, s, of("tenant=acme", "user=bob")))
	require.Equal(t, 2, passes(t, s, of("tenant=acme", "user=eve")), "each has its own")
}

func TestSharedThreshold(t *testing.T) {
	s := service(t)
	ask(t, s, of("shared=a1"))
	ask(t, s, of("shared=a2"))
	require.Equal(t, 1, passes(t, s, of("shared=a3")))
	require.Equal(t, 3, passes(t, s, of("path=/img/1")))
	require.Equal(t, 3, passes(t, s, of("path=/img/2")), "without it each value has its own")
}

func TestStatuses(t *testing.T) {
	s := service(t)
	st := ask(t, s, of("plan=gold"), of("free=x"), of("other=x"), of("watched=x")).GetStatuses()
	require.Equal(t, ok, st[0].GetCode())
	require.EqualValues(t, 4, st[0].GetLimitRemaining())
	require.EqualValues(t, 5, st[0].GetCurrentLimit().GetRequestsPerUnit())
	require.Equal(t, ratelimitsvcv3.RateLimitResponse_RateLimit_DAY, st[0].GetCurrentLimit().GetUnit())
	toMidnight := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour))
	require.InDelta(t, toMidnight.Seconds(), st[0].GetDurationUntilReset().AsDuration().Seconds(), 5)
	require.EqualValues(t, uint32(math.MaxUint32), st[1].GetLimitRemaining())
	require.Nil(t, st[1].GetCurrentLimit())
	require.Nil(t, st[2].GetCurrentLimit())
	require.EqualValues(t, 0, st[2].GetLimitRemaining())

	out := ask(t, s, of("watched=x"))
	require.Equal(t, ok, out.GetOverallCode())
	require.Equal(t, ok, out.GetStatuses()[0].GetCode())
	require.EqualValues(t, 0, out.GetStatuses()[0].GetLimitRemaining())
	require.Empty(t, out.GetResponseHeadersToAdd())
}

func TestHits(t *testing.T) {
	s := service(t)
	d := of("plan=gold")
	out, err := s.ShouldRateLimit(t.Context(), &ratelimitsvcv3.RateLimitRequest{Domain: "shop", HitsAddend: 3, Descriptors: []*commonratelimitv3.RateLimitDescriptor{d}})
	require.NoError(t, err)
	require.EqualValues(t, 2, out.GetStatuses()[0].GetLimitRemaining())
	d.HitsAddend = wrapperspb.UInt64(2)
	require.EqualValues(t, 0, ask(t, s, d).GetStatuses()[0].GetLimitRemaining())
	d.IsNegativeHits = true
	require.EqualValues(t, 2, ask(t, s, d).GetStatuses()[0].GetLimitRemaining())
	require.Equal(t, 2, passes(t, s, of("plan=gold")))
	d.IsNegativeHits, d.HitsAddend = false, wrapperspb.UInt64(0)
	require.Equal(t, over, ask(t, s, d).GetOverallCode(), "a check without a hit")
}

// TestCostsCount has what a request costs come after it has passed, as Envoy's AI gateway asks: a check first, and then
// hits, which may be more than is left.
func TestCostsCount(t *testing.T) {
	s := service(t, `{domain: shop, descriptors: [{key: tokens, rate_limit: {unit: day, requests_per_unit: 100}}, {key: dark, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 10}}]}`)
	hits := func(key string, n uint64) *ratelimitsvcv3.RateLimitResponse {
		d := of(key + "=acme")
		d.HitsAddend = wrapperspb.UInt64(n)
		return ask(t, s, d)
	}
	require.Equal(t, ok, hits("tokens", 0).GetOverallCode())
	require.EqualValues(t, 30, hits("tokens", 70).GetStatuses()[0].GetLimitRemaining())
	require.Equal(t, ok, hits("tokens", 0).GetOverallCode())
	cost := hits("tokens", 70)
	require.Equal(t, over, cost.GetOverallCode())
	require.Zero(t, cost.GetStatuses()[0].GetLimitRemaining())
	require.Equal(t, over, hits("tokens", 0).GetOverallCode(), "it is used up")
	require.Equal(t, over, hits("tokens", 1).GetOverallCode())
	require.Equal(t, ok, hits("dark", 20).GetOverallCode())
	require.Zero(t, hits("dark", 1).GetStatuses()[0].GetLimitRemaining(), "of a shadow too")
}

func TestStars(t *testing.T) {
	s := service(t, `{domain: shop, descriptors: [
		{key: path, value: /api/*/x/*/y, rate_limit: {unit: day, requests_per_unit: 0}}, {key: path, value: "*.png", rate_limit: {unit: day, requests_per_unit: 0}},
		{key: path, value: a*a, rate_limit: {unit: day, requests_per_unit: 0}}, {key: "k*", value: v, rate_limit: {unit: day, requests_per_unit: 0}},
		{key: "shared*", share_threshold: true, rate_limit: {unit: day, requests_per_unit: 2}}]}`)
	for entry, want := range map[string]ratelimitsvcv3.RateLimitResponse_Code{
		"path=/api/1/x/2/y": over, "path=/api//x//y": over, "path=/api/x/y": ok, "path=/api/1/x/2/y/": ok, "path=/api/1/x/2/x/3/y": over,
		"path=b.png": over, "path=.png": over, "path=png": ok, "path=aa": over, "path=a": ok, "path=aba": over, "path=/api/*/x/*/y": over,
		"k1=v": over, "k=v": over, "k=w": ok,
	} {
		require.Equal(t, want, ask(t, s, of(entry)).GetOverallCode(), entry)
	}
	require.EqualValues(t, 1, ask(t, s, of("shared1=a")).GetStatuses()[0].GetLimitRemaining())
	require.EqualValues(t, 0, ask(t, s, of("shared1=b")).GetStatuses()[0].GetLimitRemaining(), "all values of a key share")
	require.EqualValues(t, 1, ask(t, s, of("shared2=a")).GetStatuses()[0].GetLimitRemaining())
}

func TestResponseHeaders(t *testing.T) {
	s := serviceWith(t, ratelimit.Compat{Headers: ratelimit.HeaderNames{Limit: "L", Remaining: "R"}})
	headers := func(ds ...*commonratelimitv3.RateLimitDescriptor) string {
		var out []string
		for _, h := range ask(t, s, ds...).GetResponseHeadersToAdd() {
			out = append(out, h.GetKey()+"="+h.GetValue())
		}
		return strings.Join(out, " ")
	}
	require.Equal(t, "L=4 R=3", headers(of("plan=gold"), of("tenant=acme"), of("free=x"), of("other=x")), "the nearest")
	require.Empty(t, headers(of("free=x"), of("other=x")))
	ask(t, s, of("base=x"))
	require.Equal(t, "L=1 R=0", headers(of("base=x"), of("plan=gold")), "what refuses")
	require.Equal(t, "L=1 R=0", headers(of("watched=y"), of("plan=gold")), "a shadow")
}

// TestShadowOfAll refuses nobody, and says what it would have done.
func TestShadowOfAll(t *testing.T) {
	s := serviceWith(t, ratelimit.Compat{Shadow: true})
	require.Equal(t, 20, passes(t, s, of("plan=gold")))
	require.Equal(t, over, ask(t, s, of("plan=gold")).GetStatuses()[0].GetCode())
}

// TestYAML has what YAML 1.1 reads, which is the peer's.
func TestYAML(t *testing.T) {
	s := service(t, `
domain: shop
descriptors:
- {key: a, value: 12, shadow_mode: yes, rate_limit: {unit: Day, requests_per_unit: 0}}
- {key: a, value: on, shadow_mode: off, rate_limit: {unit: DAY, requests_per_unit: 1_000, name: n}}
- &b {key: b, metadata: {tier: [gold]}, rate_limit: &day {unit: day, requests_per_unit: 7}}
- {<<: *b, key: c}
- {key: d, rate_limit: {requests_per_unit: 3, <<: [*day, {unit: year}]}}
---
`)
	require.EqualValues(t, 6, ask(t, s, of("b=x")).GetStatuses()[0].GetLimitRemaining())
	require.EqualValues(t, 6, ask(t, s, of("c=x")).GetStatuses()[0].GetLimitRemaining())
	require.EqualValues(t, 2, ask(t, s, of("d=x")).GetStatuses()[0].GetLimitRemaining())
	require.Equal(t, ok, ask(t, s, of("a=12")).GetOverallCode())
	limit := ask(t, s, of("a=on")).GetStatuses()[0].GetCurrentLimit()
	require.EqualValues(t, 1000, limit.GetRequestsPerUnit())
	require.Equal(t, "n", limit.GetName())
}

func TestOverride(t *testing.T) {
	s := service(t)
	d := of("other=x")
	d.Limit = &commonratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 3, Unit: typev3.RateLimitUnit_DAY}
	require.Equal(t, 3, passes(t, s, d))
	out, err := s.ShouldRateLimit(t.Context(), &ratelimitsvcv3.RateLimitRequest{Domain: "elsewhere", Descriptors: []*commonratelimitv3.RateLimitDescriptor{d}})
	require.NoError(t, err)
	require.Equal(t, ok, out.GetOverallCode(), "of a domain that nobody configured")
}

func TestQuota(t *testing.T) {
	s := service(t, `
domain: shop
descriptors:
  - {key: a, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: b, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: c, rate_limit: {unit: day, requests_per_unit: 4}}
`)
	require.Equal(t, 3, passes(t, s, of("a=x"), of("b=x")), "as long as one of them has something left")
	require.Equal(t, 2, passes(t, s, of("a=y"), of("c=y")))
}

func TestMetrics(t *testing.T) {
	s := service(t)
	passes(t, s, of("detailed=x"))
	passes(t, s, of("plan=gold"))
	passes(t, s, of("watched=x"))
	got := gathered(t, s)
	require.EqualValues(t, 1, got["weir_ratelimit_decisions_total shop.detailed_x allowed"])
	require.EqualValues(t, 1, got["weir_ratelimit_decisions_total shop.detailed_x refused"])
	require.EqualValues(t, 5, got["weir_ratelimit_decisions_total shop.plan_gold allowed"])
	require.EqualValues(t, 1, got["weir_ratelimit_near_limit_total shop.plan_gold"])
	require.EqualValues(t, 19, got["weir_ratelimit_decisions_total shop.watched shadow_refused"])
}

// gathered is what the service tells Prometheus, by name and labels.
func gathered(t *testing.T, s *ratelimit.Service) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	return got
}

// TestNamesOfMetrics has the peer's, by its README's examples: values are told where value_to_metric says so, at whatever level, and of
// the last entry's detailed_metric all. What shares a counter shares a name.
func TestNamesOfMetrics(t *testing.T) {
	s := service(t, `
domain: shop
descriptors:
- key: route
  value_to_metric: true
  descriptors:
  - {key: method, value_to_metric: true, descriptors: [{key: subject, rate_limit: {unit: day, requests_per_unit: 9}}]}
  - {key: page, value: a*, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: file, value: /a/*, value_to_metric: true, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: both, value: b*, value_to_metric: true, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 9}}
- key: all
  value: c*
  share_threshold: true
  descriptors: [{key: user, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 9}}]
- {key: named, value: x, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: named, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: same, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 9}, descriptors: []}
- {key: same_a, value: b, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: twice, value: a_b, rate_limit: {unit: day, requests_per_unit: 9}}
- {key: twice_a, value: b, rate_limit: {unit: day, requests_per_unit: 9}}
`)
	for _, d := range []*commonratelimitv3.RateLimitDescriptor{
		of("route=api", "method=GET", "subject=1"), of("route=api", "method=GET", "subject=2"), of("route=web", "page=ab"), of("file=/a/b"),
		of("both=b1"), of("both=b2"), of("all=c1", "user=u"), of("named=x"), of("named=y"), of("same=a_b"), of("same_a=b"),
		of("twice=a_b"), of("twice_a=b"), of("named=\xff"), of("named=\xfe"), of("named=" + strings.Repeat("v", 5000)),
	} {
		ask(t, s, d)
	}
	got := map[string]float64{}
	for name, n := range gathered(t, s) {
		if name, ok := strings.CutPrefix(name, "weir_ratelimit_decisions_total shop."); ok && n > 0 {
			got[strings.TrimSuffix(name, " allowed")] = n
		}
	}
	require.Equal(t, map[string]float64{
		"route_api.method_GET.subject": 2, "route_web.page_a*": 1, "file_/a/b": 1, "both_b*": 2, "all_c*.user_u": 1,
		"named_x": 1, "named_y": 1, "same_a_b": 2, "twice_a_b": 2, "named_\uFFFD": 2, "named_" + strings.Repeat("v", 128): 1,
	}, got)
}

func TestProblems(t *testing.T) {
	_, problems := compat.Parse([]compat.File{
		{Name: "a.yaml", Data: []byte(`domain: shop
descriptors:
  - key: a
    rate_limit: {unit: fortnight, requests_per_unit: 1}
  - key: a
  - value: b
  - key: c
    ratelimit: {}
    shadow_mode: maybe
  - key: d
    rate_limit: {unlimited: true, unit: day, name: n, replaces: [{name: n}, {}]}
  - key: e
    share_threshold: true
    rate_limit: {requests_per_unit: -1}
`)},
		{Name: "b.yaml", Data: []byte("descriptors: []\n")},
		{Name: "c.yaml", Data: []byte("domain: weir\n")},
		{Name: "d.yaml", Data: []byte("a: [")},
		{Name: "e.yaml", Data: []byte("- x\n")},
		{Name: "f.yaml", Data: []byte("domain: [f]\n---\ndomain: f\ndescriptors:\n- {key: a, <<: x}\n- {key: b, <<: &m {<<: *m}}\n- {key: c, <<: {x: 1}}\n---\n- a\n\t- b\n")},
	})
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	require.Equal(t, []string{
		`a.yaml:4:24: descriptors[0].rate_limit.unit: "fortnight" is none: want second, minute, hour, day, week, month or year`,
		`a.yaml:5:5: descriptors[1]: key "a" with value "" is there already: remove one, or give it another value`,
		`a.yaml:6:5: descriptors[2].key: missing: name the key of an entry`,
		`a.yaml:8:5: descriptors[3].ratelimit: unknown field; there are key, value, rate_limit, descriptors, shadow_mode, detailed_metric, value_to_metric, share_threshold, quota_mode, metadata`,
		`a.yaml:9:18: descriptors[3].shadow_mode: want true or false`,
		`a.yaml:11:41: descriptors[4].rate_limit.unit: what is unlimited has no unit: remove one of them`,
		`a.yaml:11:66: descriptors[4].rate_limit.replaces[0].name: "n" is the name of this limit itself`,
		`a.yaml:11:77: descriptors[4].rate_limit.replaces[1].name: missing: name the limit that is replaced`,
		`a.yaml:13:22: descriptors[5].share_threshold: only values that match a pattern can share: put a * into value, or remove it`,
		`a.yaml:14:37: descriptors[5].rate_limit.requests_per_unit: want a whole number from 0 to 4294967295`,
		`a.yaml:14:17: descriptors[5].rate_limit.unit: missing: want second, minute, hour, day, week, month or year`,
		`b.yaml:1:1: domain: missing: name the domain that Envoy's filter asks for`,
		`c.yaml:1:9: domain: "weir" is what Weir's own routes ask for: give it another name, here and in Envoy's filter`,
		`d.yaml:1:1: not YAML: did not find expected node content`,
		`e.yaml:1:1: want a mapping with domain, descriptors`,
		`f.yaml:1:9: domain: want a text`,
		`f.yaml:5:16: descriptors[0].<<: want a mapping, or a list of them`,
		`f.yaml:6:16: descriptors[1]: << names too many mappings, or itself`,
		`f.yaml:7:17: descriptors[2].x: unknown field; there are key, value, rate_limit, descriptors, shadow_mode, detailed_metric, value_to_metric, share_threshold, quota_mode, metadata`,
		`f.yaml:9:1: not YAML: found a tab character that violates indentation`,
	}, lines)
}

// TestAliasesWithinThemselves has descriptors that never end.
func TestAliasesWithinThemselves(t *testing.T) {
	_, problems := compat.Parse([]compat.File{{Name: "a.yaml", Data: []byte("domain: shop\ndescriptors: &a [{key: a, descriptors: *a}]\n")}})
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "more than 64 levels")
	wide := "domain: shop\ndescriptors:\n"
	for i := range 40 {
		wide += fmt.Sprintf("- {key: k%d, descriptors: &a%d [{key: x, descriptors: *a%d}, {key: y, descriptors: *a%d}]}\n", i, i, max(i-1, 0), max(i-1, 0))
	}
	wide = strings.Replace(wide, "&a0 [{key: x, descriptors: *a0}, {key: y, descriptors: *a0}]", "&a0 [{key: x}]", 1)
	_, problems = compat.Parse([]compat.File{{Name: "a.yaml", Data: []byte(wide)}})
	require.NotEmpty(t, problems)
	require.Contains(t, problems[0].Text, "more than 100000 descriptors")
}

// TestReload changes files under a running loader: what is wrong changes nothing.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "shop.yaml")
	write := func(text string) {
		require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	write("domain: shop\n")
	l := compat.NewLoader([]string{dir}, slog.New(slog.DiscardHandler))
	domains, err := l.Load()
	require.NoError(t, err)
	require.Len(t, domains, 1)
	applied := make(chan []*ratelimit.Domain, 10)
	go func() { _ = l.Run(t.Context(), func(d []*ratelimit.Domain) { applied <- d }) }()
	write("domain: [\n")
	time.Sleep(1200 * time.Millisecond)
	require.Empty(t, applied)
	write("domain: shop\ndescriptors: [{key: a}]\n")
	require.Len(t, (<-applied)[0].Descriptors, 1)
	require.NoError(t, os.Rename(file, file+".gone"))
	time.Sleep(1200 * time.Millisecond)
	require.Empty(t, applied, "a file that is gone is no reason to limit nothing")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(config))
	f.Add([]byte("domain: &a shop\ndescriptors: [{key: *a, descriptors: [{key: b, value: c*}]}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		domains, problems := compat.Parse([]compat.File{{Name: "f", Data: b}})
		if len(problems) > 0 {
			return
		}
		s := ratelimit.New(slog.New(slog.DiscardHandler), ratelimit.Options{Keys: 100})
		s.ApplyDomains(domains)
		for _, d := range domains {
			_, err := s.ShouldRateLimit(t.Context(), &ratelimitsvcv3.RateLimitRequest{Domain: d.Name, Descriptors: []*commonratelimitv3.RateLimitDescriptor{of("a=b", "c=d"), of()}})
			require.NoError(t, err)
		}
	})
}
