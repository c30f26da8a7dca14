package adaptivesampling

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/sampling"
)

// byChance is the threshold at which a root was kept by something that does not decide by its randomness, if it says so:
// SDKs' remote samplers by their type and parameter, and Weir's proxies by [sampling.ThresholdAttribute]. A proxy that a
// client made trace the request has sampled nothing.
func byChance(span ptrace.Span) (sampling.Threshold, bool) {
	if !span.ParentSpanID().IsEmpty() {
		return 0, false
	}
	var probabilistic, forced bool
	share := 1.0
	proxy := sampling.Always
	for name, v := range span.Attributes().All() {
		switch name {
		case "jaeger.sampler.type", "sampler.type":
			probabilistic = v.Str() == "probabilistic"
		case "jaeger.sampler.param", "sampler.param":
			share = number(v)
		case sampling.ThresholdAttribute:
			proxy, _ = sampling.ParseThreshold(v.Str())
		case "guid:x-client-trace-id":
			forced = true
		}
	}
	switch {
	case probabilistic && share > 0 && share < 1:
		return sampling.FromPercent(100 * share), true
	case proxy > sampling.Always && !forced:
		return proxy, true
	}
	return 0, false
}

func number(v pcommon.Value) float64 {
	if v.Type() == pcommon.ValueTypeStr {
		n, _ := strconv.ParseFloat(v.Str(), 64) // 0 says nothing
		return n
	}
	return v.Double()
}

// routeOf is the route of a proxy by which a request came, if a proxy says so.
func routeOf(span ptrace.Span) string {
	if v, ok := span.Attributes().Get(sampling.RouteAttribute); ok {
		return v.Str()
	}
	return ""
}
