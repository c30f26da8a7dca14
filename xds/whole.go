package xds

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
)

// Namespace is the route configuration that a virtual host belongs to, by the name of its resource: Envoy finds it so.
func Namespace(virtualHost string) string {
	return virtualHost[:max(0, strings.LastIndexByte(virtualHost, '/'))]
}

// Whole gives the view for those who can't take virtual hosts by themselves, as over the state-of-the-world protocol:
// they are inside their route configurations. The other resources are the same ones.
func (v View) Whole() (View, error) {
	routes, err := v.wholeRoutes()
	return v.with(routes), err
}

// with gives the view with other route configurations, and without virtual hosts.
func (v View) with(routes []*Resource) View {
	out := maps.Clone(v)
	delete(out, VirtualHostType)
	if len(routes) > 0 {
		out[RouteType] = routes
	}
	return out
}

func (v View) wholeRoutes() ([]*Resource, error) { return v.routesWith(v.hosts()) }

// hosts are the virtual hosts by their route configuration.
func (v View) hosts() map[string][]*Resource {
	hosts := make(map[string][]*Resource)
	for _, h := range v[VirtualHostType] {
		of := Namespace(h.Name)
		hosts[of] = append(hosts[of], h)
	}
	return hosts
}

// routesWith gives route configurations with virtual hosts inside. One that has them already is the same.
func (v View) routesWith(hosts map[string][]*Resource) ([]*Resource, error) {
	routes := make([]*Resource, len(v[RouteType]))
	for i, r := range v[RouteType] {
		var err error
		if routes[i], err = withVirtualHosts(r, hosts[r.Name]); err != nil {
			return nil, err
		}
	}
	return routes, nil
}

// withVirtualHosts appends them to the message as it is encoded: a repeated field may come in parts.
func withVirtualHosts(r *Resource, hosts []*Resource) (*Resource, error) {
	var c routev3.RouteConfiguration
	if err := proto.Unmarshal(r.Body, &c); err != nil {
		return nil, fmt.Errorf("route configuration %s: %w", r.Name, err)
	}
	if c.GetVhds() == nil {
		return r, nil
	}
	c.Vhds = nil
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("route configuration %s: %w", r.Name, err)
	}
	sources := slices.Clone(r.Sources)
	field := c.ProtoReflect().Descriptor().Fields().ByName("virtual_hosts").Number()
	for _, h := range hosts {
		body = protowire.AppendBytes(protowire.AppendTag(body, field, protowire.BytesType), h.Body)
		sources = append(sources, h.Sources...)
	}
	return newResource(r.Type, r.Name, body, sources), nil
}

// versionOf is a hash, so that equal bytes have equal versions on every replica.
func versionOf(body []byte) string { return strconv.FormatUint(xxhash.Sum64(body), 16) }

// Whole gives what a proxy may have that can't take virtual hosts by themselves, and whether the mesh knows it. Proxies
// that share their route configurations and virtual hosts share what is made of them. All gRPC libraries share one view.
func (s *Snapshot) Whole(p mesh.Proxy) (View, bool, error) {
	if p.Role == mesh.RoleGRPC && s.grpc != nil {
		v, err := s.grpc()
		return v, true, err
	}
	v, ok := s.view(p)
	if !ok || len(v[VirtualHostType]) == 0 {
		return v, ok, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := v.routing()
	routes, made := s.routes[shared]
	if !made {
		var err error
		if routes, err = v.wholeRoutes(); err != nil {
			return nil, ok, err
		}
		s.routes[shared] = routes
	}
	return v.with(routes), ok, nil
}

// routing tells the route configurations and virtual hosts of a view, which has some, from others.
func (v View) routing() [2]**Resource { return [2]**Resource{&v[RouteType][0], &v[VirtualHostType][0]} }

// takeOver takes what has been made whole of the snapshot before, which may be nil, where it would be the same.
func (s *Snapshot) takeOver(before *Snapshot) {
	if before == nil {
		return
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	if len(before.routes) == 0 {
		return
	}
	take := func(v View) {
		if len(v[VirtualHostType]) == 0 {
			return
		}
		if routes, ok := before.routes[v.routing()]; ok {
			s.routes[v.routing()] = routes
		}
	}
	for _, v := range s.views {
		take(v)
	}
	take(s.beside)
}
