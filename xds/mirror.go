package xds

import (
	"strconv"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/mesh"
)

// shadowHeader marks copies.
const shadowHeader = "x-weir-shadow"

// shadowBuffer is how much of a body that a mirror does not read Envoy keeps for it. Beyond that, it reads no more of
// the real request either, until the copy's time is over.
const shadowBuffer = 16 << 20

// mirror has copies sent to the subsets' shadow clusters. What a copy may take is told to Envoy's router by headers,
// which it takes off: it would otherwise give a copy the rule's timeout, and that only from the end of the body.
func mirror(a *routev3.RouteAction, r *mesh.Rule) {
	for _, m := range r.Mirror {
		ms := strconv.FormatInt(m.Timeout.Milliseconds(), 10)
		a.RequestMirrorPolicies = append(a.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster:                       m.Subset + string(shadow),
			RuntimeFraction:               &corev3.RuntimeFractionalPercent{DefaultValue: fraction(m.Percent)},
			DisableShadowHostSuffixAppend: true,
			RequestHeadersMutations: []*mutationrulesv3.HeaderMutation{
				setHeader(shadowHeader, "true"),
				setHeader("x-envoy-upstream-rq-timeout-ms", ms),
				setHeader("x-envoy-upstream-stream-duration-ms", ms),
			},
		})
	}
}

func setHeader(name, value string) *mutationrulesv3.HeaderMutation {
	return &mutationrulesv3.HeaderMutation{Action: &mutationrulesv3.HeaderMutation_Append{Append: literal(name, value)}}
}
