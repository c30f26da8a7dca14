package xds

import (
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
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
	ask.XRatelimitOption = headersOption(l.Hide)
	if !l.Cost.Charged() {
		ask.HitsAddend = hits(l.Cost)
		return []*routev3.RateLimit{ask}
	}
	ask.HitsAddend = &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(0)} // is anything left?
	charge := descriptor(mesh.ChargeKey, l.ID, l.By, l.Except)
	charge.HitsAddend, charge.ApplyOnStreamDone = hits(l.Cost), true
	return []*routev3.RateLimit{ask, charge}
}

func headersOption(h mesh.Hide) routev3.RateLimit_XRateLimitOption {
	if h.XRateLimit {
		return routev3.RateLimit_OFF
	}
	return routev3.RateLimit_UNSPECIFIED // as the filter says
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
