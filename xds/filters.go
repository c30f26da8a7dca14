package xds

import (
	corsfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	filter_chainfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	routerfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// The names of the filters, by which routes configure them.
const (
	localService   = "weir.local_ratelimit.service"
	localRule      = "weir.local_ratelimit.rule"
	localShare     = "weir.local_ratelimit.share"
	quotaService   = "weir.ratelimit.quota"
	rateLimitAllow = "weir.ratelimit.allow"
	rateLimitDeny  = "weir.ratelimit.deny"
	corsFilter     = "weir.cors"
	bodyFilters    = "weir.bodies"
	faultFilter    = "weir.fault"
	headerFilter   = "weir.headers"
	router         = "envoy.filters.http.router"
)

// filters is the HTTP filter chain, in the order in which Envoy runs it. All but the last are off until a route or
// virtual host configures them, so that the chain is the same whatever the rules say: a rule that begins to use a
// filter changes its route, and not the listener with all its connections.
var filters = []struct {
	name   string
	config func(*translator) *anypb.Any
}{
	// Browsers ask first, and may read whatever the others answer.
	{corsFilter, func(t *translator) *anypb.Any { return t.any(&corsfilterv3.Cors{}) }},
	// What costs nothing to refuse is refused first.
	{localService, nil}, // each listener has its own
	{localRule, nil},
	{localShare, nil},
	{quotaService, nil},
	{rateLimitAllow, func(t *translator) *anypb.Any { return t.globalFilter(false) }},
	{rateLimitDeny, func(t *translator) *anypb.Any { return t.globalFilter(true) }},
	{bodyFilters, func(t *translator) *anypb.Any { return t.any(&filter_chainfilterv3.FilterChainConfig{}) }},
	// What passes the limits may be made to fail.
	{faultFilter, func(t *translator) *anypb.Any { return t.any(&faultfilterv3.HTTPFault{}) }},
	// Nearest to the service: the others see requests as they came, and responses with these changes.
	{headerFilter, (*translator).headerFilter},
	{router, func(t *translator) *anypb.Any { return t.any(&routerfilterv3.Router{}) }},
}

func (t *translator) httpFilters(d door) []*hcmv3.HttpFilter {
	chain := make([]*hcmv3.HttpFilter, len(filters))
	for i, f := range filters {
		if f.config == nil {
			chain[i] = t.localFilter(f.name, d)
			continue
		}
		chain[i] = &hcmv3.HttpFilter{
			Name: f.name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: f.config(t)}, Disabled: f.name != router,
			// An Envoy that is too old to have it refuses the routes that use it, and not all its listeners.
			IsOptional: f.name == bodyFilters,
		}
	}
	return chain
}
