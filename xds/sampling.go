package xds

import (
	"math"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/sampling"
)

// sampled has a rule's routes begin no more traces than collectors have found worth it, and say on each at which
// threshold. Envoy decides by the request's id, in ten-thousandths.
func (t *translator) sampled(routes []*routev3.Route, r *mesh.Rule) []*routev3.Route {
	if r.TracePercent == 0 || t.model.Tracing == nil {
		return routes
	}
	percent := min(r.TracePercent, *t.model.Tracing.Percent)
	for _, route := range routes {
		route.Tracing = &routev3.Tracing{
			ClientSampling: tenThousandths(100), RandomSampling: tenThousandths(percent), OverallSampling: tenThousandths(100),
			CustomTags: thresholdTag(percent),
		}
	}
	return routes
}

func tenThousandths(percent float64) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(percent * 100)), Denominator: typev3.FractionalPercent_TEN_THOUSAND}
}

// thresholdTag says at which threshold a proxy begins traces: none where it begins all.
func thresholdTag(percent float64) []*tracingv3.CustomTag {
	threshold := sampling.FromPercent(math.Round(percent*100) / 100)
	if threshold == sampling.Always || threshold == sampling.Never {
		return nil
	}
	return []*tracingv3.CustomTag{{Tag: sampling.ThresholdAttribute, Type: &tracingv3.CustomTag_Literal_{
		Literal: &tracingv3.CustomTag_Literal{Value: threshold.String()},
	}}}
}

// routeTag says on each span which rule's it is: collectors tell by it what is worth making.
func routeTag() *tracingv3.CustomTag {
	return &tracingv3.CustomTag{Tag: sampling.RouteAttribute, Type: &tracingv3.CustomTag_Value{Value: "%ROUTE_NAME%"}}
}
