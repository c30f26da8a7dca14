package serve

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// GRPCOptions are what a gRPC server of discovery streams should have.
func GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(64 << 20), // a first request names all that the proxy has
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// identity is a resource without its version.
type identity struct{ kind, name string }

func identify(r *xds.Resource) identity { return identity{r.Type, r.Name} }

// Server serves snapshots. Use New.
type Server struct {
	discoverysvcv3.UnimplementedAggregatedDiscoveryServiceServer
	log     *slog.Logger
	metrics *metrics

	mu sync.Mutex // guards everything below
	// snapshot is nil until the first Apply.
	snapshot *xds.Snapshot
	applied  time.Time
	kept     map[mesh.Proxy]xds.View // the last view of each proxy asked about: kept when a snapshot lacks it
	accepted map[identity]*xds.Resource
	refused  map[identity]*Refusal
	views    map[mesh.Proxy]*view // of the snapshot less what was refused; made when asked for
	encoded  map[*xds.Resource]*discoverysvcv3.Resource
	streams  map[*stream]bool
}

// New gives a server that has nothing to serve yet.
func New(log *slog.Logger) *Server {
	return &Server{
		log: log, metrics: newMetrics(),
		kept: make(map[mesh.Proxy]xds.View), accepted: make(map[identity]*xds.Resource), refused: make(map[identity]*Refusal),
		views: make(map[mesh.Proxy]*view), encoded: make(map[*xds.Resource]*discoverysvcv3.Resource), streams: make(map[*stream]bool),
	}
}

// Register adds the discovery service to a gRPC server.
func (s *Server) Register(g *grpc.Server) {
	discoverysvcv3.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(c chan<- *prometheus.Desc) { s.metrics.describe(c) }

// Collect implements prometheus.Collector.
func (s *Server) Collect(c chan<- prometheus.Metric) {
	s.mu.Lock()
	s.metrics.streams.Set(float64(len(s.streams)))
	s.metrics.refused.Set(float64(len(s.refused)))
	s.mu.Unlock()
	s.metrics.collect(c)
}

// view is what a proxy is served: its part of the snapshot with refused versions replaced.
type view struct {
	resources map[string]map[string]*xds.Resource // type, name
	held      map[identity]bool                   // refused without an accepted version: whatever the proxy has stays
}

// Apply serves a snapshot from now on.
func (s *Server) Apply(snapshot *xds.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot, s.applied = snapshot, time.Now()
	s.forgetMendedLocked()
	s.changedLocked()
}

// forgetMendedLocked drops the refusals of versions that the snapshot does not have any more.
func (s *Server) forgetMendedLocked() {
	current := make(map[identity]map[string]bool)
	for _, v := range s.snapshot.Views() {
		for _, resources := range v {
			for _, r := range resources {
				if _, refused := s.refused[identify(r)]; refused {
					if current[identify(r)] == nil {
						current[identify(r)] = make(map[string]bool)
					}
					current[identify(r)][r.Version] = true
				}
			}
		}
	}
	for id, refusal := range s.refused {
		if !current[id][refusal.Version] {
			delete(s.refused, id)
		}
	}
}

func (s *Server) changedLocked() {
	clear(s.views)
	clear(s.encoded)
	for st := range s.streams {
		st.wake()
	}
}

// viewOf gives what a proxy is served, or nil where nothing is known of it.
func (s *Server) viewOf(p mesh.Proxy) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.views[p]; ok {
		return v
	}
	if s.snapshot == nil {
		return nil
	}
	raw, ok := s.snapshot.View(p)
	if !ok {
		// A gateway whose document is gone or broken runs on.
		if raw, ok = s.kept[p]; !ok {
			return nil
		}
	}
	s.kept[p] = raw
	v := s.overlayLocked(raw)
	s.views[p] = v
	return v
}

func (s *Server) overlayLocked(raw xds.View) *view {
	v := &view{resources: make(map[string]map[string]*xds.Resource), held: make(map[identity]bool)}
	for kind, resources := range raw {
		v.resources[kind] = make(map[string]*xds.Resource, len(resources))
		for _, r := range resources {
			if refusal, ok := s.refused[identify(r)]; ok && refusal.Version == r.Version {
				if r = s.accepted[identify(r)]; r == nil {
					v.held[identity{kind, refusal.Name}] = true
					continue
				}
			}
			v.resources[kind][r.Name] = r
		}
	}
	return v
}

// encode gives a resource as it goes out, made once for all streams.
func (s *Server) encode(r *xds.Resource) *discoverysvcv3.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.encoded[r]
	if !ok {
		e = &discoverysvcv3.Resource{Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.Type, Value: r.Body}}
		s.encoded[r] = e
	}
	return e
}

// accept notes that a proxy took these.
func (s *Server) accept(resources []*xds.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range resources {
		if refusal, ok := s.refused[identify(r)]; !ok || refusal.Version != r.Version {
			s.accepted[identify(r)] = r
		}
	}
}

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

// refuse withdraws what a proxy refused. Those that its message names are meant, or all where it names none.
func (s *Server) refuse(node string, sent []*xds.Resource, message string) {
	named := slices.DeleteFunc(slices.Clone(sent), func(r *xds.Resource) bool { return !strings.Contains(message, r.Name) })
	if len(named) > 0 {
		sent = named
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range sent {
		id := identify(r)
		serving := ""
		if a := s.accepted[id]; a != nil && a.Version != r.Version {
			serving = a.Version
		} else {
			delete(s.accepted, id) // what was fine for one is not for another: nothing is sure any more
		}
		s.refused[id] = &Refusal{
			Type: r.Type, Name: r.Name, Version: r.Version, Node: node, Message: message, Time: time.Now(),
			Sources: r.Sources, Serving: serving,
		}
		s.log.Error("resource refused by a proxy", "type", r.Type, "name", r.Name, "version", r.Version,
			"node", node, "message", message, "documents", r.Sources, "serving", serving)
	}
	s.changedLocked()
}

// Status is who is connected and what was refused.
type Status struct {
	Applied time.Time `json:"applied"`
	Proxies []Proxy   `json:"proxies"`
	Refused []Refusal `json:"refused"`
}

// Proxy is one connected proxy.
type Proxy struct {
	Node      string              `json:"node"`
	Role      mesh.Role           `json:"role"`
	Name      string              `json:"name"`
	Zone      string              `json:"zone,omitempty"`
	Address   string              `json:"address"`
	Envoy     string              `json:"envoy,omitempty"`
	Protocol  string              `json:"protocol"` // delta or sotw
	Connected time.Time           `json:"connected"`
	Known     bool                `json:"known"` // whether the documents have such a proxy
	Synced    bool                `json:"synced"`
	Types     map[string]TypeSync `json:"types"`
	LastNACK  string              `json:"lastNack,omitempty"`
}

// TypeSync is how far a proxy is with one type of resource.
type TypeSync struct {
	Resources map[string]string `json:"resources"` // name to the version last sent
	Pending   int               `json:"pending"`   // sent and neither accepted nor refused yet
}

// Status gives a copy of what is so now.
func (s *Server) Status() Status {
	s.mu.Lock()
	streams := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		streams = append(streams, st)
	}
	status := Status{Applied: s.applied, Proxies: []Proxy{}, Refused: []Refusal{}}
	for _, r := range s.refused {
		status.Refused = append(status.Refused, *r)
	}
	s.mu.Unlock()
	for _, st := range streams {
		if p, ok := st.status(); ok {
			status.Proxies = append(status.Proxies, p)
		}
	}
	slices.SortFunc(status.Refused, func(a, b Refusal) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name)) })
	slices.SortFunc(status.Proxies, func(a, b Proxy) int { return cmp.Or(cmp.Compare(a.Node, b.Node), a.Connected.Compare(b.Connected)) })
	return status
}

func (s *Server) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = true
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
}

// DeltaAggregatedResources serves one delta stream.
func (s *Server) DeltaAggregatedResources(g discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(g.Context(), "delta", deltaWire{g})
}

// StreamAggregatedResources serves one state-of-the-world stream.
func (s *Server) StreamAggregatedResources(g discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.serve(g.Context(), "sotw", &sotwWire{stream: g, names: make(map[string]map[string]bool)})
}

func (s *Server) serve(ctx context.Context, protocol string, w wire) error {
	st := newStream(s, protocol, w)
	s.add(st)
	defer s.remove(st)
	return st.run(ctx)
}

func zone(n *corev3.Node) string { return n.GetLocality().GetZone() }
