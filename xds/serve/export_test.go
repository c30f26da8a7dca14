package serve

import (
	"maps"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

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
	for k, shelf := range s.views[a].shelves {
		kind := kind(k).String()
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
	k, _ := kindOf(kind)
	for i := s.latest[audience{Proxy: p}.lineage(k, name)]; i != nil; i = i.before {
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

// Request is one of either protocol, decoded.
type Request struct {
	Node                         *corev3.Node
	URL, Nonce, Refusal, Version string
	Served                       bool
	Subscribe, Unsubscribe       []string
	Initial                      map[string]string
}

// ParseRequest decodes one.
func ParseRequest(message []byte, sotw bool) (Request, error) {
	var r request
	fields := &deltaFields
	if sotw {
		fields = &sotwFields
	}
	err := r.parse(message, fields)
	if sotw && err == nil {
		err = r.takeNames(message, nil)
	}
	return Request{r.node, string(r.url), string(r.nonce), r.refusal, string(r.version), r.served, r.subscribe, r.unsubscribe, r.initial}, err
}

// ParseAgain gives a function that decodes messages of one state-of-the-world stream, and gives what it says of names.
func ParseAgain() func(message []byte) (subscribe, unsubscribe []string, err error) {
	w := &wire{sotw: true}
	return func(message []byte) (subscribe, unsubscribe []string, err error) {
		var r request
		err = w.parse(message, &r)
		return r.subscribe, r.unsubscribe, err
	}
}

// ParseAnswer decodes one in the delta protocol, and keeps nothing of it.
func ParseAnswer(message []byte) {
	var r request
	if err := new(wire).parse(message, &r); err != nil {
		panic(err)
	}
}
