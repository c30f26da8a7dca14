package serve

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Refusal is a resource that a proxy would not take.
type Refusal struct {
	Type    string       `json:"type"`
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Node    string       `json:"node"`    // who refused it first
	Message string       `json:"message"` // the proxy's words
	Time    time.Time    `json:"time"`
	Sources []policy.Key `json:"sources"` // the documents behind it
	Serving string       `json:"serving"` // the version served instead; "" where the proxies keep what they have
}

// Status is who is connected and what was refused.
type Status struct {
	Applied time.Time `json:"applied"`
	Version string    `json:"version"` // of the snapshot: equal on every replica that serves the same
	Proxies []Proxy   `json:"proxies"`
	Refused []Refusal `json:"refused"`
}

// Proxy is one connected proxy.
type Proxy struct {
	Node      string              `json:"node"`
	Role      mesh.Role           `json:"role"`
	Name      string              `json:"name"`
	Zone      string              `json:"zone,omitempty"`
	Cluster   string              `json:"cluster,omitempty"` // where it runs: metadata weir: {cluster}
	Address   string              `json:"address"`
	Envoy     string              `json:"envoy,omitempty"`
	Protocol  string              `json:"protocol"` // delta or sotw
	Connected time.Time           `json:"connected"`
	Known     bool                `json:"known"`          // whether there is something to serve it
	Gone      bool                `json:"gone,omitempty"` // its document is gone or broken: it keeps what it had
	Synced    bool                `json:"synced"`
	Types     map[string]TypeSync `json:"types"`
	LastNACK  string              `json:"lastNack,omitempty"`
}

// TypeSync is how far a proxy is with one type of resource.
type TypeSync struct {
	Resources map[string]string `json:"resources"`         // name to the version last sent
	Pending   int               `json:"pending"`           // sent and neither accepted nor refused yet
	Waiting   []string          `json:"waiting,omitempty"` // their names, sorted: all other resources are accepted
	NACK      *NACK             `json:"nack,omitempty"`    // the last refusal on this connection
}

// NACK is a response that a proxy refused.
type NACK struct {
	Message string    `json:"message"` // the proxy's words
	Time    time.Time `json:"time"`
}

// Status gives a copy of what is so now.
func (s *Server) Status() Status {
	status, streams := s.overview()
	for _, st := range streams {
		if p, ok := st.status(); ok {
			status.Proxies = append(status.Proxies, p)
			status.Refused = append(status.Refused, s.unread(st)...)
		}
	}
	slices.SortFunc(status.Refused, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Node, b.Node))
	})
	slices.SortFunc(status.Proxies, func(a, b Proxy) int { return cmp.Or(cmp.Compare(a.Node, b.Node), a.Connected.Compare(b.Connected)) })
	return status
}

func (s *Server) overview() (Status, []*stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Applied: s.applied, Proxies: []Proxy{}, Refused: []Refusal{}}
	if s.current != nil {
		status.Version = s.current.Version()
	}
	for refusal, i := range s.refused {
		r := *refusal
		r.Sources = i.sources
		if instead := i.servingLocked(); instead != nil {
			r.Serving = instead.version
		}
		status.Refused = append(status.Refused, r)
	}
	return status, slices.Collect(maps.Keys(s.streams))
}
