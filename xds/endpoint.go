package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// endpoints groups a subset's endpoints, which are sorted by zone, into localities.
func (t *translator) endpoints(s *mesh.Service, sub *mesh.Subset) *Resource {
	return t.resource(EndpointType, sub.Name, s.Name, []policy.Key{s.Source}, func() proto.Message {
		a := &endpointv3.ClusterLoadAssignment{ClusterName: sub.Name}
		for i, e := range sub.Endpoints {
			if i == 0 || e.Zone != sub.Endpoints[i-1].Zone {
				a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Zone: e.Zone}})
			}
			last := a.Endpoints[len(a.Endpoints)-1]
			last.LbEndpoints = append(last.LbEndpoints, lbEndpoint(e.Address, e.Port))
		}
		return a
	})
}
