package serve

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
)

// The protocols.
const (
	delta = "delta"
	sotw  = "sotw"
)

// Server serves snapshots. Use New.
type Server struct {
	log     *slog.Logger
	metrics *metrics
	pushers pushers

	mu       sync.Mutex         // guards everything below
	applied  time.Time          // zero until the first Apply
	current  *xds.Snapshot      // nil until the first Apply
	compiler *compiler          // of the current snapshot
	views    map[audience]*view // of those seen that the snapshot has, or had while they were here
	latest   map[lineage]*item
	refused  map[*Refusal]*item // those in force; the item that was refused, where it is served
	// streams of each that is kept: of those that the snapshot has and that were ever here, and of all others while they
	// are. So what proxies make up is forgotten.
	seen    map[audience]int
	streams map[*stream]bool
	closed  bool
}

// New gives a server that has nothing to serve yet.
func New(log *slog.Logger) *Server {
	return &Server{
		log: log, metrics: newMetrics(),
		views: make(map[audience]*view), latest: make(map[lineage]*item), refused: make(map[*Refusal]*item),
		seen: make(map[audience]int), streams: make(map[*stream]bool),
	}
}

// Server serves discovery, and everything else on the same connections by another handler, such as a *grpc.Server.
func (s *Server) Server(other http.Handler) *h2.Server {
	return &h2.Server{Calls: calls{s}, Handler: other}
}

// calls are those of the discovery service.
type calls struct{ *Server }

// Begin implements [h2.Calls].
func (s calls) Begin(path string, call *h2.Call) h2.Receiver {
	var st *stream
	switch path {
	case discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName:
		st = newStream(s.Server, delta, call)
	case discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName:
		st = newStream(s.Server, sotw, call)
	default:
		return nil
	}
	if !s.add(st) {
		st.end(errClosed)
	}
	return st
}

var errClosed = status.Error(codes.Unavailable, "weir is stopping")

// Close ends all streams, and those to come; proxies keep what they have.
func (s *Server) Close() {
	for _, st := range s.closing() {
		st.end(errClosed)
	}
}

func (s *Server) closing() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return slices.Collect(maps.Keys(s.streams))
}

// Apply serves a snapshot from now on. It does not wait for any proxy.
func (s *Server) Apply(snapshot *xds.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.views
	s.current, s.views = snapshot, make(map[audience]*view, len(before))
	s.compiler = &compiler{latest: s.latest, refused: s.refused, made: make(map[shelfKey]*shelf), left: make(map[*shelf]bool)}
	for _, there := range []bool{true, false} {
		for a := range s.seen {
			if (before[a] != nil) == there {
				s.compileLocked(a, before[a])
			}
		}
	}
	s.keepGoneLocked(before)
	s.forgetGoneLocked()
	s.applied = time.Now()
	s.forgetMendedLocked()
	s.wakeLocked()
}

// compileLocked makes an audience's view, of those that the mesh has.
func (s *Server) compileLocked(a audience, prev *view) {
	of, ok := s.current.Of(a.Proxy)
	if a.whole {
		raw, there, err := s.current.Whole(a.Proxy)
		if err != nil { // what was marshalled is read back
			s.log.Error("no whole route configuration", "proxy", a.String(), "error", err)
		}
		of, ok = func(url string) []*xds.Resource { return raw[url] }, there && err == nil
	}
	if ok {
		s.views[a] = s.compiler.viewLocked(a, of, prev)
	}
}

// keepGoneLocked: a proxy that is here and whose document is gone runs on with what it had.
func (s *Server) keepGoneLocked(before map[audience]*view) {
	for p, v := range before {
		if s.views[p] != nil {
			continue
		}
		if s.seen[p] == 0 {
			s.forgetLocked(p, v)
			continue
		}
		if !v.gone {
			s.log.Warn("the documents have a proxy no more: it keeps what it has", "proxy", p.String())
			v = &view{shelves: v.shelves, gone: true}
		}
		s.views[p] = v
	}
}

// forgetLocked lets go of a proxy that is not here and that the snapshot does not have.
func (s *Server) forgetLocked(a audience, v *view) {
	delete(s.seen, a)
	delete(s.views, a)
	for k, shelf := range v.shelves {
		for _, i := range shelf.wanted {
			s.compiler.gone = append(s.compiler.gone, a.lineage(kind(k), i.name))
		}
	}
}

// forgetGoneLocked lets go of items that nobody has any more.
func (s *Server) forgetGoneLocked() {
	for _, line := range s.compiler.gone {
		delete(s.latest, line)
		for key, shelf := range s.compiler.made {
			if key.role == line.role && key.kind == line.kind && key.whole == line.whole {
				s.haveLocked(line, shelf)
			}
		}
	}
	if len(s.compiler.gone) == 0 {
		return
	}
	for a, v := range s.views {
		if !v.gone {
			continue
		}
		for _, line := range s.compiler.gone {
			if s.latest[line] == nil && a.lineage(line.kind, line.name) == line {
				s.haveLocked(line, v.shelves[line.kind])
			}
		}
	}
	s.compiler.gone = nil
}

func (s *Server) haveLocked(line lineage, on *shelf) {
	if i := itemIn(on.wanted, line.name); i != nil {
		s.latest[line] = i
	}
}

// forgetMendedLocked lets go of refusals of what is wanted no more. If a snapshot comes back to that, it is tried again.
func (s *Server) forgetMendedLocked() {
	if len(s.refused) == 0 {
		return
	}
	current, looked := make(map[*Refusal]*item, len(s.refused)), make(map[*shelf]bool)
	for _, v := range s.views {
		for _, shelf := range v.shelves {
			if looked[shelf] {
				continue
			}
			looked[shelf] = true
			for _, i := range shelf.withdrawn {
				for ; i != nil && i.refusal != nil; i = i.before {
					if current[i.refusal] == nil || s.refused[i.refusal] == i {
						current[i.refusal] = i
					}
				}
			}
		}
	}
	s.refused = current
}

// wakeLocked tells the streams whose view is another one than before.
func (s *Server) wakeLocked() {
	var woken []*stream
	for st := range s.streams {
		p := st.proxy.Load()
		if p == nil {
			continue
		}
		if v := s.views[*p]; v != st.view.Load() {
			st.view.Store(v)
			woken = append(woken, st)
		}
	}
	s.pushers.push(woken...)
}

// refuse withdraws items that a proxy refused.
func (s *Server) refuse(node string, items []*item, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	guilty := make(map[*item]bool)
	for _, i := range items {
		if i.refusal != nil {
			continue
		}
		refusal := &Refusal{Type: i.kind.String(), Name: i.name, Version: i.version, Node: node, Message: message, Time: time.Now()}
		for _, same := range s.twinsLocked(i) {
			same.refusal = refusal
			guilty[same] = true
		}
	}
	if len(guilty) == 0 {
		return
	}
	s.replaceLocked(guilty)
	for _, i := range items {
		if !guilty[i] {
			continue // known already
		}
		if s.refused[i.refusal] != nil {
			s.refused[i.refusal] = i // rather than a twin, which may have another one before it
		}
		serving := ""
		if instead := i.servingLocked(); instead != nil {
			serving = instead.version
		}
		s.log.Error("resource refused by a proxy", "type", i.kind.String(), "name", i.name, "version", i.version,
			"node", node, "message", message, "documents", i.sources, "serving", serving)
	}
	s.wakeLocked()
}

// twinsLocked gives an item and those of other roles that are the same version of the same resource.
func (s *Server) twinsLocked(i *item) []*item {
	twins := []*item{i}
	for _, role := range []mesh.Role{mesh.RoleGateway, mesh.RoleService} {
		for _, whole := range []bool{false, true} {
			other := s.latest[lineage{role, i.kind, i.name, whole}]
			for ; other != nil; other = other.before {
				if other != i && other.version == i.version {
					twins = append(twins, other)
				}
			}
		}
	}
	return twins
}

// replaceLocked makes anew what has a refused item on it, once for all who share it.
func (s *Server) replaceLocked(guilty map[*item]bool) {
	made := make(map[*shelf]*shelf)
	views := make(map[audience]*view, len(s.views))
	for p, v := range s.views {
		next := &view{gone: v.gone}
		same := true
		for k, old := range v.shelves {
			if made[old] == nil {
				made[old] = s.mendLocked(old, guilty)
			}
			next.shelves[k] = made[old]
			same = same && made[old] == old
		}
		if views[p] = next; same {
			views[p] = v
		}
	}
	s.views = views
	for key, old := range s.compiler.made {
		if made[old] == nil {
			made[old] = s.mendLocked(old, guilty)
		}
		s.compiler.made[key] = made[old]
	}
}

// mendLocked gives the shelf without what is guilty, and notes that as refused where the shelf has it: a refusal of
// what is served no more changes nothing.
func (s *Server) mendLocked(old *shelf, guilty map[*item]bool) *shelf {
	touched := make(map[string]*item)
	for i := range guilty {
		if old.item(i.name) == i {
			touched[i.name] = itemIn(old.wanted, i.name)
			s.refused[i.refusal] = i
		}
	}
	if len(touched) == 0 {
		return old
	}
	next := nextShelfLocked(old.kind, old, touched)
	next.raw = old.raw
	return next
}

func (s *Server) add(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.streams[st] = true
	}
	return !s.closed
}

// welcome notes which proxy a stream is of, so that its view is kept.
func (s *Server) welcome(st *stream, a audience) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.streams[st] { // it has ended meanwhile
		return
	}
	st.proxy.Store(&a)
	s.seen[a]++
	if s.current != nil && s.views[a] == nil {
		s.compileLocked(a, nil)
	}
	st.view.Store(s.views[a])
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.streams[st] {
		return
	}
	delete(s.streams, st)
	a := st.proxy.Load()
	if a == nil {
		return
	}
	s.seen[*a]--
	switch v := s.views[*a]; {
	case s.seen[*a] > 0:
	case v == nil:
		delete(s.seen, *a)
	case v.gone:
		s.forgetLocked(*a, v)
		s.forgetGoneLocked()
	}
}
