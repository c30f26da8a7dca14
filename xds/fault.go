package xds

import (
	"math"
	"time"

	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/policy"
)

func (t *translator) fault(f *policy.Fault, filters map[string]*anypb.Any) {
	if f == nil {
		return
	}
	c := &faultfilterv3.HTTPFault{}
	for _, h := range f.Headers {
		c.Headers = append(c.Headers, headerMatch(h))
	}
	if d := f.Delay; d != nil {
		c.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(time.Duration(d.Fixed))},
			Percentage:         fraction(*d.Percent),
		}
	}
	if a := f.Abort; a != nil {
		c.Abort = &faultfilterv3.FaultAbort{Percentage: fraction(*a.Percent)}
		if a.GRPCStatus != nil {
			c.Abort.ErrorType = &faultfilterv3.FaultAbort_GrpcStatus{GrpcStatus: uint32(*a.GRPCStatus)}
		} else {
			c.Abort.ErrorType = &faultfilterv3.FaultAbort_HttpStatus{HttpStatus: uint32(a.Status)}
		}
	}
	filters[faultFilter] = t.any(c)
}

// fraction is a percentage, to a ten-thousandth of a per cent.
func fraction(percent float64) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{
		Numerator: uint32(math.Round(percent * 10_000)), Denominator: typev3.FractionalPercent_MILLION,
	}
}
