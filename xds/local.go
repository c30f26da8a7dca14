package xds

import (
	"math"
	"slices"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	compositefilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	local_ratelimitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
)

const localStats = "local_rate_limit"

const compositeType = "type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite"

// localFilter counts in Envoy itself. Its buckets are in a resource of its own, a named chain of filters for each service
// and rule that has some, and routes say which chain is theirs: in the routes themselves they would be made anew, and full
// again, with any edit of any route of the listener. Two are in the filter chain, since a route's choice hides its
// virtual host's: the limits of a service are shared by all its routes. A third is of limits that proxies share.
func (t *translator) localFilter(name string, d door) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name: localName(name, d.routes), Disabled: true,
		ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
			ConfigSource: adsSource(), TypeUrls: []string{compositeType},
			// While there is none that Envoy takes, all passes.
			DefaultConfig: t.any(&compositefilterv3.Composite{}),
		}},
	}
}

// localName is the name of a listener's filter, and of the resource with its buckets: each listener has its own.
func localName(filter, routes string) string { return filter + "/" + routes }

// localChains are the buckets of a listener, of services that have some.
func (t *translator) localChains(filter string, d door, whose string, services []*mesh.Service) *Resource {
	name := localName(filter, d.routes)
	sources := slices.Clone(d.sources)
	chains := make(map[string]*compositefilterv3.FilterChainConfiguration)
	connection := perConnection(services)
	add := func(chain string, limits []mesh.LocalLimit) {
		if len(limits) == 0 {
			return
		}
		chains[chain] = &compositefilterv3.FilterChainConfiguration{TypedConfig: t.localConfigs(name, limits, connection)}
		for _, l := range limits {
			sources = append(sources, l.Source)
		}
	}
	for _, s := range services {
		own, shares := fairShares(s.Local)
		switch filter {
		case localService:
			add(s.Name, own)
		case localShare:
			add(s.Name, shares)
		default:
			for _, r := range s.Rules {
				add(localChain(r), r.Local)
			}
		}
	}
	return t.resource(ExtensionType, name, whose, sources, func() proto.Message {
		return t.extension(name, &compositefilterv3.Composite{NamedFilterChains: chains})
	})
}

func localChain(r *mesh.Rule) string { return r.Source.Ref().String() + "/" + r.Name }

// fairShares parts off those of which each proxy takes its part. An Envoy that does not know how many there are refuses
// them: so they are in a resource by themselves.
func fairShares(limits []mesh.LocalLimit) (own, shares []mesh.LocalLimit) {
	for _, l := range limits {
		if l.FairShare {
			shares = append(shares, l)
		} else {
			own = append(own, l)
		}
	}
	return own, shares
}

// perConnection gives all limits of connections. Envoy makes a connection's buckets once, by whichever of these filters
// its first request meets: so each has the buckets of all.
func perConnection(services []*mesh.Service) (all []mesh.LocalLimit) {
	isPer := func(l mesh.LocalLimit) bool { return !l.PerConnection }
	for _, s := range services {
		all = append(all, slices.DeleteFunc(slices.Clone(s.Local), isPer)...)
		for _, r := range s.Rules {
			all = append(all, slices.DeleteFunc(slices.Clone(r.Local), isPer)...)
		}
	}
	return all
}

// localLimits has requests go through the chain of their limits.
func (t *translator) localLimits(filter, chain string, limits []mesh.LocalLimit, filters map[string]*anypb.Any) {
	if len(limits) > 0 {
		t.through(filter, chain, filters)
	}
}

// through has requests go through a chain of a filter.
func (t *translator) through(filter, chain string, filters map[string]*anypb.Any) {
	filters[localName(filter, t.door)] = t.any(&compositefilterv3.CompositePerRoute{Matcher: &xdsmatcherv3.Matcher{
		OnNoMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
			Name: "weir.local_ratelimit", TypedConfig: t.any(&compositefilterv3.ExecuteFilterAction{FilterChainName: chain}),
		}}},
	}})
}

// localConfigs are the filters of a chain: for each way to count one, if any limit is counted so. They have the name of the
// resource, since that is what an Envoy that refuses one tells: sent again by itself, to find out which it was, Envoy 1.40 takes
// it for known and accepts it.
func (t *translator) localConfigs(name string, limits, connection []mesh.LocalLimit) (filters []*corev3.TypedExtensionConfig) {
	var own, each, fair []mesh.LocalLimit
	for _, l := range limits {
		switch {
		case l.PerConnection:
			each = append(each, l)
		case l.FairShare:
			fair = append(fair, l)
		default:
			own = append(own, l)
		}
	}
	if own != nil {
		filters = append(filters, t.extension(name, localConfig(own, own)))
	}
	if each != nil {
		c := localConfig(each, connection)
		c.LocalRateLimitPerDownstreamConnection = true
		filters = append(filters, t.extension(name, c))
	}
	if fair != nil {
		c := localConfig(fair, fair)
		c.LocalClusterRateLimit = &limitv3.LocalClusterRateLimit{}
		filters = append(filters, t.extension(name, c))
	}
	return filters
}

// localConfig gives every limit a bucket of its own, named by a descriptor; the filter's default bucket, which takes
// what no descriptor does, is as good as endless.
func localConfig(limits, buckets []mesh.LocalLimit) *local_ratelimitfilterv3.LocalRateLimit {
	c := &local_ratelimitfilterv3.LocalRateLimit{
		StatPrefix:                      localStats,
		TokenBucket:                     bucket(math.MaxUint32, math.MaxUint32, 50*time.Millisecond),
		AlwaysConsumeDefaultTokenBucket: wrapperspb.Bool(false),
		FilterEnabled:                   always(),
		FilterEnforced:                  always(),
		EnableXRatelimitHeaders:         limitv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		EnableRetryAfterHeader:          slices.ContainsFunc(limits, func(l mesh.LocalLimit) bool { return !l.Hide.RetryAfter }),
		MaxDynamicDescriptors:           number(100_000),
	}
	for _, l := range limits {
		d := descriptor(mesh.LimitKey, l.ID, l.By, l.Except)
		d.HitsAddend, d.XRatelimitOption = hits(l.Cost), headersOption(l.Hide)
		if l.Requests == 0 {
			// A bucket holds one token at least: a request that takes two never gets them.
			d.HitsAddend = &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(2)}
		}
		c.RateLimits = append(c.RateLimits, d)
	}
	for _, l := range buckets {
		c.Descriptors = append(c.Descriptors, localDescriptors(l)...)
	}
	return c
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
