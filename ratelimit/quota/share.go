package quota

import (
	"cmp"
	"math"
	"slices"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// divide gives each what it demands, as far as the total goes: where it does not, none gets less than another that gets
// what it demands (max-min fairness). What is left is spread evenly, for what comes.
func divide(total float64, demands []float64) []float64 {
	shares := make([]float64, len(demands))
	order := make([]int, len(demands))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(demands[a], demands[b]) })
	left := max(0, total)
	for i, at := range order {
		shares[at] = min(demands[at], left/float64(len(order)-i))
		left -= shares[at]
	}
	for i := range shares {
		shares[i] += max(0, left) / float64(len(shares))
	}
	return shares
}

func blanket(rule typev3.RateLimitStrategy_BlanketRule) *typev3.RateLimitStrategy {
	return &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_BlanketRule_{BlanketRule: rule}}
}

// strategy is a share of requests a second, and of the burst, as Envoy takes it: its buckets fill in whole seconds, so many
// that a thousand tokens come in them, which is then how exact a share is.
func strategy(perSecond, burst float64) *typev3.RateLimitStrategy {
	seconds := min(math.Ceil(max(1, 1000/perSecond)), 1e8)
	tokens := math.Floor(perSecond * seconds)
	if !(tokens >= 1) {
		return blanket(typev3.RateLimitStrategy_DENY_ALL)
	}
	return &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_TokenBucket{TokenBucket: &typev3.TokenBucket{
		MaxTokens:     uint32(min(max(1, math.Floor(burst)), math.MaxUint32)),
		TokensPerFill: wrapperspb.UInt32(uint32(min(tokens, math.MaxUint32))),
		FillInterval:  durationpb.New(time.Duration(seconds) * time.Second),
	}}}
}
