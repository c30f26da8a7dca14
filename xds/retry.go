package xds

import (
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// hedge needs a time for each try; a rule whose own retries have none is not hedged.
func hedge(a *routev3.RouteAction, r *mesh.Rule) {
	if h := r.Hedge; h != nil && h.OnPerTryTimeout && a.GetRetryPolicy().GetPerTryTimeout() != nil {
		a.HedgePolicy = &routev3.HedgePolicy{HedgeOnPerTryTimeout: true}
	}
}

func (t *translator) retryPolicy(r *policy.Retries) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	p := &routev3.RetryPolicy{
		RetryOn:    strings.Join(r.On, ","),
		NumRetries: number(*r.Attempts),
		// Another endpoint than the one that failed, where there is one.
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: t.any(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: 10, // it is by chance: of two endpoints, three throws miss the other one time in sixteen
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(time.Duration(*r.Backoff)), MaxInterval: durationpb.New(10 * time.Duration(*r.Backoff)),
		},
	}
	for _, code := range r.Codes {
		p.RetriableStatusCodes = append(p.RetriableStatusCodes, uint32(code))
	}
	if len(r.Codes) > 0 {
		p.RetryOn += ",retriable-status-codes"
	}
	if r.PerTry != nil {
		p.PerTryTimeout = durationpb.New(time.Duration(*r.PerTry))
	}
	return p
}
