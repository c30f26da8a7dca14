package loadreport

import (
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatssvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// verdict is what is to be made of a report.
type verdict string

const (
	good       verdict = "good"
	stale      verdict = "stale"      // of a time that is long over
	impossible verdict = "impossible" // what no proxy can have seen
)

const (
	// Interval is how often proxies report; where there are very many, each does less often.
	Interval = time.Second
	// tooLong is of what time a report may be: what is older is not of now.
	tooLong = 10 * Interval
	// tooMany are more requests than a proxy has in such a time.
	tooMany = 1 << 32
)

// reports gives what a LoadStatsRequest has to say of clusters. Its node, which is nearly all of it, is not looked at.
func reports(b []byte) ([]*endpointv3.ClusterStats, error) {
	var all []*endpointv3.ClusterStats
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if number == clusterStats && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(b)
			value, _ := protowire.ConsumeBytes(b[tag:])
			one := new(endpointv3.ClusterStats)
			if err := proto.Unmarshal(value, one); err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		b = b[n:]
	}
	return all, nil
}

// clusterStats is the number of the field of a LoadStatsRequest.
var clusterStats = new(loadstatssvcv3.LoadStatsRequest).ProtoReflect().Descriptor().Fields().ByName("cluster_stats").Number()

// read takes in what a proxy reports of a cluster.
func read(s *endpointv3.ClusterStats) (c Counts, v verdict) {
	over := s.GetLoadReportInterval().AsDuration()
	if over <= 0 {
		return Counts{}, impossible
	}
	if over > tooLong {
		return Counts{}, stale
	}
	// What Envoy calls dropped, which a circuit breaker refused, is among the errors already.
	for _, l := range s.GetUpstreamLocalityStats() {
		for _, n := range []uint64{l.GetTotalSuccessfulRequests(), l.GetTotalErrorRequests(), l.GetTotalIssuedRequests(), l.GetTotalRequestsInProgress()} {
			if n > tooMany {
				return Counts{}, impossible
			}
		}
		c = c.Add(Counts{
			Issued: l.GetTotalIssuedRequests(), Succeeded: l.GetTotalSuccessfulRequests(), Failed: l.GetTotalErrorRequests(),
			Busy: float64(l.GetTotalRequestsInProgress()) * over.Seconds(), Seen: l.GetTotalRequestsInProgress(),
		})
	}
	return c, good
}
