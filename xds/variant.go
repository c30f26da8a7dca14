package xds

import (
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
