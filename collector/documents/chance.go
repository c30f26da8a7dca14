package documents

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
)

// Value is an attribute's: a [pcommon.Value], or an [otlp.Value] that nobody has decoded.
type Value interface {
	Type() pcommon.ValueType
	Str() string
	Double() float64
	AsString() string
}

// ByChance is the threshold at which a root was kept by something that does not decide by its randomness, if it says so:
// SDKs' remote samplers by their type and parameter, and Weir's proxies by [sampling.ThresholdAttribute]. A proxy that a
// client made trace the request has sampled nothing.
func ByChance(span ptrace.Span) (sampling.Threshold, bool) {
	if !span.ParentSpanID().IsEmpty() || span.Attributes().Len() == 0 {
		return 0, false
	}
	c := chance{share: 1}
	for name, v := range span.Attributes().All() {
		note(&c, name, v)
	}
	return c.threshold()
}

// ByChanceIn is [ByChance] of an undecoded root that has these attributes.
func ByChanceIn(attributes otlp.Attributes) (sampling.Threshold, bool) {
	c := chance{share: 1}
	for attributes.Next() {
		note(&c, attributes.Key, attributes.Value)
	}
	return c.threshold()
}

// chance is what a root says of how it was sampled.
type chance struct {
	probabilistic, forced bool
	share                 float64
	proxy                 sampling.Threshold
}

func note[V Value](c *chance, name string, v V) {
	switch name {
	case "jaeger.sampler.type", "sampler.type":
		c.probabilistic = v.Str() == "probabilistic"
	case "jaeger.sampler.param", "sampler.param":
		c.share = number(v)
	case sampling.ThresholdAttribute:
		c.proxy, _ = sampling.ParseThreshold(v.Str())
	case "guid:x-client-trace-id":
		c.forced = true
	}
}

func (c *chance) threshold() (sampling.Threshold, bool) {
	switch {
	case c.probabilistic && c.share > 0 && c.share < 1:
		return sampling.FromPercent(100 * c.share), true
	case c.proxy > sampling.Always && !c.forced:
		return c.proxy, true
	}
	return 0, false
}

func number[V Value](v V) float64 {
	if v.Type() == pcommon.ValueTypeStr {
		n, _ := strconv.ParseFloat(v.Str(), 64) // 0 says nothing
		return n
	}
	return v.Double()
}
