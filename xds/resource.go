package xds

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

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

	sum uint64 // its hash, where it is known; else 0
}

func newResource(kind, name string, body []byte, sources []policy.Key) *Resource {
	r := &Resource{Type: kind, Name: name, Body: body, Sources: sortedKeys(sources), Version: versionOf(body)}
	r.sum = r.hash()
	return r
}

// View is what one proxy may have: for each type its resources, sorted by name. Immutable; equal proxies share one.
type View map[string][]*Resource

// Snapshot is the whole of what is served at one moment. Immutable.
type Snapshot struct {
	views   map[mesh.Proxy]View // but for those of:
	beside  View                // proxies beside workloads, each with a listener of its own, by name
	own     []*Resource
	grpc    func() (View, error) // of all gRPC libraries, made when it is first asked for; nil: there is none
	version func() string

	mu     sync.Mutex
	routes map[[2]**Resource][]*Resource // with their virtual hosts, by what they were made of
}

// View gives what the proxy may have, and whether the mesh knows such a proxy.
func (s *Snapshot) View(p mesh.Proxy) (View, bool) {
	if p.Role == mesh.RoleGRPC {
		v, ok, err := s.Whole(p)
		return v, ok && err == nil
	}
	return s.view(p)
}

// Of gives the same as View, without making it.
func (s *Snapshot) Of(p mesh.Proxy) (of func(kind string) []*Resource, ok bool) {
	if v, ok := s.views[p]; ok || p.Role != mesh.RoleService {
		return func(kind string) []*Resource { return v[kind] }, ok
	}
	at, ok := slices.BinarySearchFunc(s.own, outbound+"/"+p.Ref.String(), compareName)
	return func(kind string) []*Resource {
		if kind == ListenerType {
			return s.own[at : at+1 : at+1]
		}
		return s.beside[kind]
	}, ok
}

func (s *Snapshot) view(p mesh.Proxy) (View, bool) {
	if v, ok := s.views[p]; ok || p.Role != mesh.RoleService {
		return v, ok
	}
	of, ok := s.Of(p)
	if !ok {
		return nil, false
	}
	v := maps.Clone(s.beside)
	v[ListenerType] = of(ListenerType)
	return v, true
}

// NewSnapshot makes a snapshot of views, each type of which is sorted by name.
func NewSnapshot(views map[mesh.Proxy]View) *Snapshot {
	s := &Snapshot{views: views, routes: make(map[[2]**Resource][]*Resource)}
	s.version = sync.OnceValue(func() string {
		var sum uint64
		for _, v := range views {
			for _, kind := range v {
				for _, r := range kind {
					sum += r.hash()
				}
			}
		}
		return strconv.FormatUint(sum, 16)
	})
	return s
}

// Version is of all that the snapshot has: equal on every replica that has the same.
func (s *Snapshot) Version() string { return s.version() }

// hash is of what it is called and says; of nil, 0.
func (r *Resource) hash() uint64 {
	if r == nil {
		return 0
	}
	if r.sum != 0 {
		return r.sum
	}
	h := xxhash.New()
	for _, part := range []string{r.Type, "\x00", r.Name, "\x00", r.Version} {
		_, _ = h.WriteString(part) // a hash takes everything
	}
	return h.Sum64()
}

// Views gives all views by proxy, without that of gRPC libraries, which most meshes don't need.
func (s *Snapshot) Views() map[mesh.Proxy]View {
	all := maps.Clone(s.views)
	if all == nil {
		all = make(map[mesh.Proxy]View)
	}
	for _, r := range s.own {
		p := mesh.Proxy{Role: mesh.RoleService, Ref: policy.ParseRef(strings.TrimPrefix(r.Name, outbound+"/"), "")}
		all[p], _ = s.view(p)
	}
	return all
}
