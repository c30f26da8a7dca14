package xds

import (
	"fmt"
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
func (v View) Whole() (View, error) { return v.whole(nil) }

// whole takes the route configurations given, if any are.
func (v View) whole(routes []*Resource) (View, error) {
	out := make(View, len(v))
	for kind, resources := range v {
		if kind != VirtualHostType && kind != RouteType {
			out[kind] = resources
		}
	}
	if routes != nil {
		out[RouteType] = routes
		return out, nil
	}
	hosts := v[VirtualHostType]
	for _, r := range v[RouteType] {
		one, err := withVirtualHosts(r, slices.DeleteFunc(slices.Clone(hosts), func(h *Resource) bool { return Namespace(h.Name) != r.Name }))
		if err != nil {
			return nil, err
		}
		out.add(one)
	}
	return out, nil
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
	return &Resource{Type: r.Type, Name: r.Name, Body: body, Sources: sortedKeys(sources), Version: versionOf(body)}, nil
}

// versionOf is a hash, so that equal bytes have equal versions on every replica.
func versionOf(body []byte) string { return strconv.FormatUint(xxhash.Sum64(body), 16) }

// Whole gives what a proxy may have that can't take virtual hosts by themselves, and whether the mesh knows it. Proxies
// that share their route configurations and virtual hosts share what is made of them.
func (s *Snapshot) Whole(p mesh.Proxy) (View, bool, error) {
	v, ok := s.views[p]
	if !ok || len(v[VirtualHostType]) == 0 {
		return v, ok, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := [2]**Resource{&v[RouteType][0], &v[VirtualHostType][0]}
	routes, made := s.routes[shared]
	whole, err := v.whole(routes)
	if err != nil {
		return nil, ok, err
	}
	if !made {
		s.routes[shared] = whole[RouteType]
	}
	return whole, ok, nil
}
