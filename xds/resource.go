package xds

import (
	"sync"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// The type URLs of the resources that Weir serves, in the order in which additions are safe to make (make before
// break): what refers comes after what it refers to.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	// ExtensionType is of the filters that have their configuration by themselves: local limits.
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	// VirtualHostType is of one service's part of a route configuration, so that an edit sends that and no more.
	VirtualHostType = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
)

// Types are the types served, in make-before-break order.
var Types = []string{ClusterType, EndpointType, SecretType, ExtensionType, ListenerType, RouteType, VirtualHostType}

// Resource is one Envoy resource: built, hashed and marshalled once, shared by all who are sent it. Immutable.
type Resource struct {
	Type    string
	Name    string
	Version string       // hash of Body: equal versions, equal bytes, on every replica
	Body    []byte       // the marshalled message, as the value of an Any of Type
	Sources []policy.Key // the documents it was made from, to say whose mistake a refusal is; sorted
}

// View is what one proxy may have: for each type its resources, sorted by name. Immutable; equal proxies share one.
type View map[string][]*Resource

// Snapshot is the whole of what is served at one moment. Immutable.
type Snapshot struct {
	views map[mesh.Proxy]View
	grpc  func() (View, error) // of all gRPC libraries, made when it is first asked for; nil: there is none

	mu     sync.Mutex
	routes map[[2]**Resource][]*Resource // with their virtual hosts, by what they were made of
}

// View gives what the proxy may have, and whether the mesh knows such a proxy.
func (s *Snapshot) View(p mesh.Proxy) (View, bool) {
	if p.Role == mesh.RoleGRPC {
		v, ok, err := s.Whole(p)
		return v, ok && err == nil
	}
	v, ok := s.views[p]
	return v, ok
}

// NewSnapshot makes a snapshot of views, each type of which is sorted by name.
func NewSnapshot(views map[mesh.Proxy]View) *Snapshot {
	return &Snapshot{views: views, routes: make(map[[2]**Resource][]*Resource)}
}

// Views gives all views by proxy, without that of gRPC libraries, which most meshes don't need. Don't change it.
func (s *Snapshot) Views() map[mesh.Proxy]View { return s.views }
