package xds

import (
	"fmt"
	"math"
	"regexp"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
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

// markTags have spans say which members of a request's baggage mark its trace: collectors see attributes only. They are as
// in [mesh.Model]; tags of the same names are the documents' own.
func markTags(marks []string, tags []policy.Tag) []*tracingv3.CustomTag {
	var all []*tracingv3.CustomTag
	for _, name := range marks {
		taken := slices.ContainsFunc(tags, func(tag policy.Tag) bool { return tag.Name == name })
		if !taken && baggageKey.MatchString(name) {
			all = append(all, &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_Value{Value: marked(name)}})
		}
	}
	return all
}

// baggageKey is what a member of baggage may be called, but for what has a meaning in formats.
var baggageKey = regexp.MustCompile("^[-!#$&*+.^_`|~0-9A-Za-z]+$")

// marked is a format that gives true where the baggage has the member, neither false nor empty.
func marked(name string) string {
	member := `(^|,)[ \t]*` + regexp.QuoteMeta(name) + `[ \t]*=[ \t]*`
	const baggage = `request.headers['` + mesh.BaggageHeader + `']`
	return fmt.Sprintf("%%CEL('%s' in request.headers && %s.matches(r'%s[^,; \t]') && !%s.matches(r'%sfalse[ \t]*([,;]|$)') ? 'true' : '')%%",
		mesh.BaggageHeader, baggage, member, baggage, member)
}

// routeTag says on each span which rule's it is: collectors tell by it what is worth making.
func routeTag() *tracingv3.CustomTag {
	return &tracingv3.CustomTag{Tag: sampling.RouteAttribute, Type: &tracingv3.CustomTag_Value{Value: "%ROUTE_NAME%"}}
}
