package xds

import (
	"slices"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	compositefilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	rate_limit_quotafilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rate_limit_quota/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const (
	reportEvery = time.Second
	// lastQuota is how long a proxy goes on with the quota that it had when nobody renews it.
	lastQuota = 24 * time.Hour
)

// quotaChains are the filters of a listener that decide by quotas, as localChains are those that count by themselves: a
// chain a service, with a filter for each limit, since one puts a request into one bucket.
func (t *translator) quotaChains(d door, whose string, services []*mesh.Service) *Resource {
	name := localName(quotaService, d.routes)
	sources := slices.Clone(d.sources)
	chains := make(map[string]*compositefilterv3.FilterChainConfiguration)
	for _, s := range services {
		if len(s.Quota) == 0 {
			continue
		}
		chain := &compositefilterv3.FilterChainConfiguration{}
		for _, l := range s.Quota {
			sources = append(sources, l.Source)
			chain.TypedConfig = append(chain.TypedConfig, t.extension(name, &rate_limit_quotafilterv3.RateLimitQuotaFilterConfig{
				RlqsServer: envoyGRPC(rateLimitCluster), Domain: mesh.LimitDomain, BucketMatchers: t.buckets(l),
			}))
		}
		chains[s.Name] = chain
	}
	return t.resource(ExtensionType, name, whose, sources, func() proto.Message {
		return t.extension(name, &compositefilterv3.Composite{NamedFilterChains: chains})
	})
}

// buckets puts requests into the buckets of a limit: those that it is for, with and without each header that a request
// may lack.
func (t *translator) buckets(l mesh.GlobalLimit) *xdsmatcherv3.Matcher {
	var always []*predicate
	var optional []policy.LimitBy
	for _, by := range l.By {
		switch {
		case by.RemoteAddress:
		case by.Any():
			optional = append(optional, by)
		default:
			always = append(always, t.headerIn(by))
		}
	}
	for _, e := range l.Except {
		var all []*predicate
		for _, by := range e {
			all = append(all, t.headerIn(by))
		}
		always = append(always, &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: allOf(all)}})
	}
	m := &xdsmatcherv3.Matcher{}
	var list []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher
	for lacks := range 1 << len(optional) { // a bit for each that a request lacks: those that lack none come first
		conditions := slices.Clone(always)
		var missing []string
		for i, by := range optional {
			if lacks>>i&1 == 0 {
				conditions = append(conditions, t.headerIn(by))
			} else {
				missing = append(missing, by.Header)
			}
		}
		bucket := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
			Name: "weir.bucket", TypedConfig: t.any(t.quotaBucket(l, missing)),
		}}}
		if len(conditions) == 0 {
			m.OnNoMatch = bucket
		} else {
			list = append(list, &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{Predicate: allOf(conditions), OnMatch: bucket})
		}
	}
	if list != nil {
		m.MatcherType = &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: list}}
	}
	return m
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

func allOf(all []*predicate) *predicate {
	if len(all) == 1 {
		return all[0]
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
}

// headerIn is that a header is there, with a value of the form.
func (t *translator) headerIn(by policy.LimitBy) *predicate {
	var m xdsmatcherv3.StringMatcher
	switch {
	case by.Exact != "":
		m.MatchPattern = &xdsmatcherv3.StringMatcher_Exact{Exact: by.Exact}
	case by.Prefix != "":
		m.MatchPattern = &xdsmatcherv3.StringMatcher_Prefix{Prefix: by.Prefix}
	case by.Suffix != "":
		m.MatchPattern = &xdsmatcherv3.StringMatcher_Suffix{Suffix: by.Suffix}
	default:
		expression := by.Regex
		if expression == "" {
			expression = "(?s).*"
		}
		m.MatchPattern = &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
			EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}}, Regex: expression,
		}}
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   &xdscorev3.TypedExtensionConfig{Name: "header", TypedConfig: t.any(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: by.Header})},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &m},
		},
	}}
}

// quotaBucket is named by the limit and the values that it is by, but for headers that are not there.
func (t *translator) quotaBucket(l mesh.GlobalLimit, missing []string) *rate_limit_quotafilterv3.RateLimitQuotaBucketSettings {
	id := map[string]*valueBuilder{mesh.LimitKey: fixedValue(l.ID)}
	for _, by := range l.By {
		switch {
		case by.RemoteAddress:
			id["remote_address"] = t.value(&networkv3.SourceIPInput{})
		case by.Exact != "" || by.Share:
			id[by.Header] = fixedValue(by.Form())
		case !slices.Contains(missing, by.Header):
			id[by.Header] = t.value(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: by.Header})
		}
	}
	first, expired := typev3.RateLimitStrategy_ALLOW_ALL, &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_ExpiredAssignmentBehavior{
		ExpiredAssignmentBehaviorTimeout: durationpb.New(lastQuota),
	}
	if l.DenyOnError {
		first = typev3.RateLimitStrategy_DENY_ALL
		expired.ExpiredAssignmentBehavior = &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_ExpiredAssignmentBehavior_FallbackRateLimit{FallbackRateLimit: blanket(first)}
	} else {
		expired.ExpiredAssignmentBehavior = &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_ExpiredAssignmentBehavior_ReuseLastAssignment_{
			ReuseLastAssignment: &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_ExpiredAssignmentBehavior_ReuseLastAssignment{},
		}
	}
	return &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings{
		BucketIdBuilder:   &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_BucketIdBuilder{BucketIdBuilder: id},
		ReportingInterval: durationpb.New(reportEvery),
		NoAssignmentBehavior: &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_NoAssignmentBehavior{
			NoAssignmentBehavior: &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_NoAssignmentBehavior_FallbackRateLimit{FallbackRateLimit: blanket(first)},
		},
		ExpiredAssignmentBehavior: expired,
	}
}

func blanket(rule typev3.RateLimitStrategy_BlanketRule) *typev3.RateLimitStrategy {
	return &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_BlanketRule_{BlanketRule: rule}}
}

type valueBuilder = rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder

func fixedValue(s string) *valueBuilder {
	return &valueBuilder{ValueSpecifier: &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder_StringValue{StringValue: s}}
}

func (t *translator) value(input proto.Message) *valueBuilder {
	return &valueBuilder{ValueSpecifier: &rate_limit_quotafilterv3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder_CustomValue{
		CustomValue: t.extension("weir.value", input),
	}}
}
