package xds

import (
	"slices"

	local_ratelimitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	routerfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
)

// The names of the filters, by which routes configure them.
const (
	localRateLimit = "envoy.filters.http.local_ratelimit"
	rateLimitAllow = "weir.ratelimit.allow"
	rateLimitDeny  = "weir.ratelimit.deny"
	router         = "envoy.filters.http.router"
)

// filters is the HTTP filter chain, in the order in which Envoy runs it. A filter is there only where a rule of the
// listener needs it.
var filters = []struct {
	name   string
	needed func(*mesh.Rule) bool
	config func(*translator) *anypb.Any
}{
	// What costs nothing to refuse is refused first.
	{localRateLimit, func(r *mesh.Rule) bool { return len(r.Local) > 0 }, func(t *translator) *anypb.Any {
		return t.any(&local_ratelimitfilterv3.LocalRateLimit{StatPrefix: "local_rate_limit"})
	}},
	{rateLimitAllow, func(r *mesh.Rule) bool { return hasGlobal(r, false) }, func(t *translator) *anypb.Any { return t.globalFilter(false) }},
	{rateLimitDeny, func(r *mesh.Rule) bool { return hasGlobal(r, true) }, func(t *translator) *anypb.Any { return t.globalFilter(true) }},
	{router, func(*mesh.Rule) bool { return true }, func(t *translator) *anypb.Any { return t.any(&routerfilterv3.Router{}) }},
}

func hasGlobal(r *mesh.Rule, deny bool) bool {
	for _, l := range r.Global {
		if l.DenyOnError == deny {
			return true
		}
	}
	return false
}

func (t *translator) httpFilters(d door) []*hcmv3.HttpFilter {
	var chain []*hcmv3.HttpFilter
	for _, f := range filters {
		if f.name != router && !anyRule(d, f.needed) {
			continue
		}
		chain = append(chain, &hcmv3.HttpFilter{
			Name: f.name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: f.config(t)},
		})
	}
	return chain
}

func anyRule(d door, is func(*mesh.Rule) bool) bool {
	return slices.ContainsFunc(d.services, func(s *mesh.Service) bool { return slices.ContainsFunc(s.Rules, is) })
}
