package xds

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	local_ratelimitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// askTimeout bounds what a slow rate limit service costs a request; after it the limit's onError decides.
const askTimeout = 100 * time.Millisecond

// exceptKey is the key of a descriptor entry that is there only where another limit does not take the request.
const exceptKey = "not"

// globalFilter asks the rate limit service. There are two in the chain, since what happens when it can't be asked is
// a setting of the filter: a limit is put on the one that does as its onError says.
func (t *translator) globalFilter(deny bool) *anypb.Any {
	return t.any(&ratelimitfilterv3.RateLimit{
		Domain:          mesh.LimitDomain,
		Timeout:         durationpb.New(askTimeout),
		FailureModeDeny: deny,
		StatusOnError:   &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		RateLimitService: &ratelimitv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService:         envoyGRPC(rateLimitCluster),
		},
		EnableXRatelimitHeaders: ratelimitfilterv3.RateLimit_DRAFT_VERSION_03,
	})
}

func envoyGRPC(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}}}
}

func (t *translator) globalLimits(r *mesh.Rule, filters map[string]*anypb.Any) {
	byFilter := make(map[string][]*routev3.RateLimit)
	for _, l := range r.Global {
		name := rateLimitAllow
		if l.DenyOnError {
			name = rateLimitDeny
		}
		byFilter[name] = append(byFilter[name], globalDescriptors(l)...)
	}
	for name, limits := range byFilter {
		filters[name] = t.any(&ratelimitfilterv3.RateLimitPerRoute{RateLimits: limits})
	}
}

// globalDescriptors are what is asked about a limit: one question before the request is sent on, and where only the answer
// tells what it cost, another when that is complete.
func globalDescriptors(l mesh.GlobalLimit) []*routev3.RateLimit {
	ask := descriptor(mesh.LimitKey, l.ID, l.By, l.Except)
	if !l.Cost.Charged() {
		ask.HitsAddend = hits(l.Cost)
		return []*routev3.RateLimit{ask}
	}
	ask.HitsAddend = &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(0)} // is anything left?
	charge := descriptor(mesh.ChargeKey, l.ID, l.By, l.Except)
	charge.HitsAddend, charge.ApplyOnStreamDone = hits(l.Cost), true
	return []*routev3.RateLimit{ask, charge}
}

// hits is how many a request counts for; nil is one. Envoy leaves a descriptor out whose format gives no number, and with it
// the limit: hence one that always does.
func hits(c *policy.Cost) *routev3.RateLimit_HitsAddend {
	format := ""
	switch {
	case c == nil:
		return nil
	case c.Number > 0:
		return &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(uint64(c.Number))}
	case c.RequestHeader != "":
		format = numberIn("request.headers", c.RequestHeader, "^[1-9][0-9]{0,8}$", "1")
	case c.ResponseHeader != "":
		format = numberIn("response.headers", c.ResponseHeader, "^(1000000000|[0-9]{1,9})$", "0")
	case c.RequestBytes:
		format = "%BYTES_RECEIVED%"
	case c.ResponseBytes:
		format = "%BYTES_SENT%"
	}
	return &routev3.RateLimit_HitsAddend{Format: format}
}

// numberIn is a header's value where it is of the form, and otherwise another one.
func numberIn(headers, name, form, otherwise string) string {
	name = strings.ToLower(name)
	value := fmt.Sprintf("%s['%s']", headers, name)
	return fmt.Sprintf("%%CEL('%s' in %s && %s.matches('%s') ? %s : '%s')%%", name, headers, value, form, value, otherwise)
}

// descriptor names the counter of a request: the limit, and the values it is by. A request without a header lacks
// that entry, so that all those share one counter.
func descriptor(key, id string, by []policy.LimitBy, except []mesh.Exception) *routev3.RateLimit {
	limit := &routev3.RateLimit{Actions: []*routev3.RateLimit_Action{{
		ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{GenericKey: &routev3.RateLimit_Action_GenericKey{
			DescriptorKey: key, DescriptorValue: id,
		}},
	}}}
	for _, b := range by {
		limit.Actions = append(limit.Actions, actions(b)...)
	}
	for _, e := range except {
		limit.Actions = append(limit.Actions, headerValueMatch(exceptKey, exceptValue(e), e, false))
	}
	return limit
}

// actions give the entries of a part of the key; none of them, and so no descriptor, where the value is not of its form.
func actions(by policy.LimitBy) []*routev3.RateLimit_Action {
	value := &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
		RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: by.Header, DescriptorKey: by.Header, SkipIfAbsent: true},
	}}
	switch {
	case by.RemoteAddress:
		return []*routev3.RateLimit_Action{{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{}}}}
	case by.Any():
		return []*routev3.RateLimit_Action{value}
	}
	form := headerValueMatch(by.Header, by.Form(), []policy.LimitBy{by}, true)
	if by.Exact != "" || by.Share {
		return []*routev3.RateLimit_Action{form}
	}
	return []*routev3.RateLimit_Action{form, value}
}

// headerValueMatch gives an entry where all the headers have their values, or, expecting no match, where not all do.
func headerValueMatch(key, value string, all []policy.LimitBy, expect bool) *routev3.RateLimit_Action {
	m := &routev3.RateLimit_Action_HeaderValueMatch{
		DescriptorKey: key, DescriptorValue: value, ExpectMatch: wrapperspb.Bool(expect),
	}
	for _, by := range all {
		m.Headers = append(m.Headers, headerIs(by.Header, limitMatch(by)))
	}
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{HeaderValueMatch: m}}
}

func limitMatch(by policy.LimitBy) *matcherv3.StringMatcher {
	switch {
	case by.Prefix != "":
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: by.Prefix}}
	case by.Suffix != "":
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: by.Suffix}}
	case by.Regex != "":
		return regexString(by.Regex)
	default:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: by.Exact}}
	}
}

// exceptValue is the value of an exception's entry: the values that would make it.
func exceptValue(e mesh.Exception) string {
	values := make([]string, len(e))
	for i, by := range e {
		values[i] = by.Form()
	}
	return strings.Join(values, ",")
}

// localFilter counts in Envoy itself. There are two in the chain, since a route's configuration of a filter hides its
// virtual host's: the limits of a service have their buckets in the virtual host, which all its routes share.
func (t *translator) localFilter() *anypb.Any {
	return t.any(&local_ratelimitfilterv3.LocalRateLimit{StatPrefix: localStats})
}

const localStats = "local_rate_limit"

// localLimits gives every limit a bucket of its own, named by a descriptor; the filter's default bucket, which takes
// what no descriptor does, is as good as endless.
func (t *translator) localLimits(filter string, limits []mesh.LocalLimit, filters map[string]*anypb.Any) {
	if len(limits) == 0 {
		return
	}
	c := &local_ratelimitfilterv3.LocalRateLimit{
		StatPrefix:                      localStats,
		TokenBucket:                     bucket(math.MaxUint32, math.MaxUint32, 50*time.Millisecond),
		AlwaysConsumeDefaultTokenBucket: wrapperspb.Bool(false),
		FilterEnabled:                   always(),
		FilterEnforced:                  always(),
		EnableXRatelimitHeaders:         limitv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		EnableRetryAfterHeader:          true,
		MaxDynamicDescriptors:           number(100_000),
	}
	for _, l := range limits {
		d := descriptor(mesh.LimitKey, l.ID, l.By, l.Except)
		d.HitsAddend = hits(l.Cost)
		if l.Requests == 0 {
			// A bucket holds one token at least: a request that takes two never gets them.
			d.HitsAddend = &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(2)}
		}
		c.RateLimits = append(c.RateLimits, d)
		c.Descriptors = append(c.Descriptors, localDescriptors(l)...)
	}
	filters[filter] = t.any(c)
}

// localDescriptors are the forms that a limit's descriptor can take: with and without each header that a request may
// lack. An entry without a value stands for any value, each with a bucket of its own.
func localDescriptors(l mesh.LocalLimit) []*limitv3.LocalRateLimitDescriptor {
	forms := [][]*limitv3.RateLimitDescriptor_Entry{{{Key: mesh.LimitKey, Value: l.ID}}}
	for _, by := range l.By {
		switch {
		case by.RemoteAddress:
			forms = extend(forms, &limitv3.RateLimitDescriptor_Entry{Key: "remote_address"}, false)
		case by.Any():
			forms = extend(forms, &limitv3.RateLimitDescriptor_Entry{Key: by.Header}, true)
		default:
			forms = extend(forms, &limitv3.RateLimitDescriptor_Entry{Key: by.Header, Value: by.Form()}, false)
			if by.Pattern() && !by.Share {
				forms = extend(forms, &limitv3.RateLimitDescriptor_Entry{Key: by.Header}, false)
			}
		}
	}
	for _, e := range l.Except {
		forms = extend(forms, &limitv3.RateLimitDescriptor_Entry{Key: exceptKey, Value: exceptValue(e)}, false)
	}
	burst := l.Burst
	if l.Requests == 0 {
		burst = 1
	}
	descriptors := make([]*limitv3.LocalRateLimitDescriptor, 0, len(forms))
	for _, entries := range forms {
		descriptors = append(descriptors, &limitv3.LocalRateLimitDescriptor{
			Entries: entries, TokenBucket: bucket(uint32(max(1, burst)), uint32(max(1, l.Requests)), l.Per.Duration()),
			ShadowMode: l.Shadow,
		})
	}
	return descriptors
}

func extend(forms [][]*limitv3.RateLimitDescriptor_Entry, e *limitv3.RateLimitDescriptor_Entry, optional bool) [][]*limitv3.RateLimitDescriptor_Entry {
	var out [][]*limitv3.RateLimitDescriptor_Entry
	for _, form := range forms {
		out = append(out, append(slices.Clip(form), e))
		if optional {
			out = append(out, form)
		}
	}
	return out
}

func bucket(burst, tokens uint32, per time.Duration) *typev3.TokenBucket {
	return &typev3.TokenBucket{MaxTokens: burst, TokensPerFill: wrapperspb.UInt32(tokens), FillInterval: durationpb.New(per)}
}

func always() *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
}
