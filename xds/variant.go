package xds

import (
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
)

// variant is the end of the name of a cluster beside a subset's own: one with the same endpoints, so that what goes there
// has connections, circuit breakers, ejections and statistics apart from everything else.
type variant string

const (
	shadow   variant = "@shadow"   // of copies
	loadTest variant = "@loadtest" // of load tests
)

// vary makes a subset's own cluster the variant's.
func (v variant) vary(c *clusterv3.Cluster, sub *mesh.Subset) {
	if v == "" {
		return
	}
	if c.EdsClusterConfig != nil {
		c.EdsClusterConfig.ServiceName = sub.Name
	}
	if v == shadow {
		c.PerConnectionBufferLimitBytes = wrapperspb.UInt32(shadowBuffer)
	}
}

// EndpointsOf names the endpoints resource of a cluster, which a cluster shares with its variants.
func EndpointsOf(cluster string) string {
	name, _, _ := strings.Cut(cluster, "@")
	return name
}

// variants adds the clusters of the target's subsets that rules of the services want beside those.
func (t *translator) variants(v View, to target, services []*mesh.Service) {
	for _, sub := range to.subsets {
		for _, one := range []variant{shadow, loadTest} {
			if slices.ContainsFunc(services, func(s *mesh.Service) bool {
				return slices.ContainsFunc(s.Rules, func(r *mesh.Rule) bool { return one.wanted(r, sub) })
			}) {
				v.add(t.cluster(to.Service, sub, one))
			}
		}
	}
}

func (v variant) wanted(r *mesh.Rule, sub *mesh.Subset) bool {
	if v == shadow {
		return slices.ContainsFunc(r.Mirror, func(m mesh.Mirror) bool { return m.Subset == sub.Name })
	}
	return r.LoadTest != nil && slices.ContainsFunc(r.To, func(to mesh.Share) bool { return to.Subset == sub.Name })
}
