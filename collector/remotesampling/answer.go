package remotesampling

import (
	"github.com/jaegertracing/jaeger-idl/proto-gen/api_v2"

	"github.com/machinenativeops/weir/sampling"
)

// The answer as SDKs read it over HTTP: Jaeger's message in the JSON of protobuf. There is no lower bound in traces a
// second, since what it keeps stands for nobody knows how many. The probability is for those who read no operations.
type (
	answer struct {
		StrategyType  string        `json:"strategyType"`
		Probabilistic probabilistic `json:"probabilisticSampling"`
		Operations    operations    `json:"operationSampling"`
	}
	probabilistic struct {
		SamplingRate float64 `json:"samplingRate"`
	}
	operations struct {
		Default    float64     `json:"defaultSamplingProbability"`
		LowerBound float64     `json:"defaultLowerBoundTracesPerSecond"`
		Each       []operation `json:"perOperationStrategies"`
	}
	operation struct {
		Operation     string        `json:"operation"`
		Probabilistic probabilistic `json:"probabilisticSampling"`
	}
)

func inJSON(s sampling.Strategy) answer {
	each := make([]operation, len(s.Operations))
	for i, o := range s.Operations {
		each[i] = operation{o.Operation, probabilistic{o.Share}}
	}
	return answer{
		StrategyType: "PROBABILISTIC", Probabilistic: probabilistic{s.Highest()},
		Operations: operations{Default: s.Default, Each: each},
	}
}

func inProto(s sampling.Strategy) *api_v2.SamplingStrategyResponse {
	each := make([]*api_v2.OperationSamplingStrategy, len(s.Operations))
	for i, o := range s.Operations {
		each[i] = &api_v2.OperationSamplingStrategy{
			Operation: o.Operation, ProbabilisticSampling: &api_v2.ProbabilisticSamplingStrategy{SamplingRate: o.Share},
		}
	}
	return &api_v2.SamplingStrategyResponse{
		StrategyType:          api_v2.SamplingStrategyType_PROBABILISTIC,
		ProbabilisticSampling: &api_v2.ProbabilisticSamplingStrategy{SamplingRate: s.Highest()},
		OperationSampling: &api_v2.PerOperationSamplingStrategies{
			DefaultSamplingProbability: s.Default, PerOperationStrategies: each,
		},
	}
}
