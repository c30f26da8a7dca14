package serve

import (
	"maps"

	"github.com/machinenativeops/weir/mesh"
)

// Patience is how long an order is kept.
const Patience = patience

// Names says whether a proxy's message names a resource.
var Names = names

// Effective gives what a proxy (that takes route configurations whole) is to have, by type and name, and what it may keep in whatever version.
func (s *Server) Effective(p mesh.Proxy, whole bool) (served map[string]map[string]string, held map[string]map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	served, held = make(map[string]map[string]string), make(map[string]map[string]bool)
	a := audience{p, whole}
	if s.views[a] == nil {
		s.compileLocked(a, nil)
	}
	for kind, shelf := range s.views[a].shelves {
		served[kind], held[kind] = make(map[string]string), make(map[string]bool)
		for _, i := range shelf.list {
			served[kind][i.name] = i.version
		}
		for name := range maps.Keys(shelf.held) {
			held[kind][name] = true
		}
	}
	return served, held
}

// Remembered says how many versions of a resource are kept.
func (s *Server) Remembered(p mesh.Proxy, kind, name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.latest[audience{Proxy: p}.lineage(kind, name)]; i != nil; i = i.before {
		n++
	}
	return n
}

// Kept says how many proxies are known, and how many resources.
func (s *Server) Kept() (proxies, resources int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(len(s.seen), len(s.views)), len(s.latest)
}

// TakesVirtualHosts says whether a node's Envoy has them over ADS.
var TakesVirtualHosts = takesVirtualHosts

// UnmarshalLong decodes a delta request.
var UnmarshalLong = unmarshalLong
