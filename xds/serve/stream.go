package serve

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
)

// subscription is what a stream wants of one type and what it has.
type subscription struct {
	asked    bool // the proxy has asked for this type
	wildcard bool
	names    map[string]bool
	sent     map[string]string // name to version; a name that does not exist has ""
	nonce    string            // of the response in flight; "" when there is none
	pending  []*xds.Resource   // in that response
	at       time.Time         // when it was sent
}

// stream is one proxy's connection. run's goroutine owns everything but what mu guards.
type stream struct {
	server *Server
	wire   wire
	woken  chan struct{} // capacity 1: a change that comes while another waits is the same wake
	nonces uint64

	mu    sync.Mutex // guards everything below; written by run's goroutine only
	about Proxy
	proxy mesh.Proxy
	subs  map[string]*subscription
}

func newStream(s *Server, protocol string, w wire) *stream {
	st := &stream{
		server: s, wire: w, woken: make(chan struct{}, 1), subs: make(map[string]*subscription),
		about: Proxy{Protocol: protocol, Connected: time.Now()},
	}
	for _, kind := range xds.Types {
		st.subs[kind] = &subscription{names: make(map[string]bool), sent: make(map[string]string)}
	}
	return st
}

func (st *stream) wake() {
	select {
	case st.woken <- struct{}{}:
	default:
	}
}

// run can, in one pass, take a request, push a change, or end.
func (st *stream) run(ctx context.Context) error {
	if p, ok := peer.FromContext(ctx); ok {
		st.about.Address = p.Addr.String()
	}
	requests, ended := st.receive(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case r := <-requests:
			if err := st.take(r); err != nil {
				return err
			}
		case <-st.woken:
		}
		if err := st.push(); err != nil {
			return err
		}
	}
}

// receive reads requests until the stream ends, which gRPC makes it do when run returns.
func (st *stream) receive(ctx context.Context) (<-chan *request, <-chan error) {
	requests, ended := make(chan *request), make(chan error, 1)
	go func() {
		for {
			r, err := st.wire.receive()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return requests, ended
}

// take notes what a request says.
func (st *stream) take(r *request) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.about.Node == "" {
		if err := st.identifyLocked(r); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	sub, ok := st.subs[r.kind]
	if !ok {
		st.server.log.Debug("a proxy asks for a type that is not served", "node", st.about.Node, "type", r.kind)
		return nil
	}
	st.answerLocked(sub, r)
	st.subscribeLocked(sub, r)
	return nil
}

func (st *stream) identifyLocked(r *request) error {
	proxy, err := ParseNode(r.node)
	if err != nil {
		st.server.log.Warn("a proxy was turned away", "address", st.about.Address, "error", err)
		return err
	}
	st.proxy = proxy
	st.about.Node, st.about.Role, st.about.Name = r.node.GetId(), proxy.Role, proxy.Ref.String()
	st.about.Zone = zone(r.node)
	if v := r.node.GetUserAgentBuildVersion().GetVersion(); v != nil {
		st.about.Envoy = strconv.Itoa(int(v.GetMajorNumber())) + "." + strconv.Itoa(int(v.GetMinorNumber())) + "." + strconv.Itoa(int(v.GetPatch()))
	}
	st.server.log.Info("a proxy connected", "node", st.about.Node, "address", st.about.Address, "protocol", st.about.Protocol)
	return nil
}

// answerLocked takes an ACK or NACK of the response in flight; one of an older response says nothing any more.
func (st *stream) answerLocked(sub *subscription, r *request) {
	if r.nonce == "" || r.nonce != sub.nonce {
		return
	}
	pending := sub.pending
	sub.nonce, sub.pending = "", nil
	m := st.server.metrics
	m.ackSeconds.Observe(time.Since(sub.at).Seconds())
	if r.refusal == "" {
		m.acks.WithLabelValues(short(r.kind)).Inc()
		st.server.accept(pending)
		return
	}
	m.nacks.WithLabelValues(short(r.kind)).Inc()
	st.about.LastNACK = r.refusal
	st.server.refuse(st.about.Node, pending, r.refusal)
}

func (st *stream) subscribeLocked(sub *subscription, r *request) {
	first := !sub.asked
	sub.asked = true
	canWild := r.kind == xds.ClusterType || r.kind == xds.ListenerType
	if first && len(r.subscribe) == 0 && canWild {
		sub.wildcard = true
	}
	for _, name := range r.subscribe {
		if name == "*" {
			sub.wildcard = true
			continue
		}
		sub.names[name] = true
		// Asked again means needed again, whatever was sent before.
		delete(sub.sent, name)
	}
	for _, name := range r.unsubscribe {
		if name == "*" {
			sub.wildcard = false
		}
		delete(sub.names, name)
		delete(sub.sent, name)
	}
	if first {
		maps.Copy(sub.sent, r.initial)
		st.resumeLocked(sub, r)
	}
}

// resumeLocked believes a state-of-the-world proxy that it has all already, if its version says so.
func (st *stream) resumeLocked(sub *subscription, r *request) {
	if r.version == "" {
		return
	}
	v := st.server.viewOf(st.proxy)
	if v == nil {
		return
	}
	versions := sub.wanted(v.resources[r.kind])
	if wholeVersion(versions) == r.version {
		maps.Copy(sub.sent, versions)
	}
}

// wanted gives the versions of what the subscription covers.
func (sub *subscription) wanted(have map[string]*xds.Resource) map[string]string {
	versions := make(map[string]string)
	for name, r := range have {
		if sub.wildcard || sub.names[name] {
			versions[name] = r.Version
		}
	}
	return versions
}

// push sends what is due, make before break: what listeners and routes refer to before them, and taken away after.
func (st *stream) push() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.about.Node == "" {
		return nil
	}
	v := st.server.viewOf(st.proxy)
	st.about.Known = v != nil
	if v == nil {
		return nil
	}
	cluster := st.subs[xds.ClusterType]
	for _, kind := range xds.Types {
		user := kind == xds.ListenerType || kind == xds.RouteType
		if user && cluster.nonce != "" {
			continue // its answer leads here again
		}
		remove := user || st.doneLocked(v, xds.ListenerType) && st.doneLocked(v, xds.RouteType)
		if err := st.sendLocked(v, kind, remove); err != nil {
			return err
		}
	}
	return nil
}

// doneLocked says whether the proxy is known to have all of a type and no more. It is not while it has not asked: on a
// new stream it says type by type what it has.
func (st *stream) doneLocked(v *view, kind string) bool {
	sub := st.subs[kind]
	if !sub.asked {
		return len(v.resources[kind]) == 0
	}
	changed, removed := st.differenceLocked(v, kind)
	return sub.nonce == "" && len(changed) == 0 && len(removed) == 0
}

// differenceLocked gives what the proxy lacks, and what it has and should not, each sorted.
func (st *stream) differenceLocked(v *view, kind string) (changed []*xds.Resource, removed []string) {
	sub, have := st.subs[kind], v.resources[kind]
	if !sub.asked {
		return nil, nil
	}
	for name, r := range have {
		if (sub.wildcard || sub.names[name]) && sub.sent[name] != r.Version {
			changed = append(changed, r)
		}
	}
	for name, version := range sub.sent {
		if version != "" && have[name] == nil && !v.held[identity{kind, name}] {
			removed = append(removed, name)
		}
	}
	for name := range sub.names {
		if _, told := sub.sent[name]; !told && have[name] == nil && !v.held[identity{kind, name}] {
			removed = append(removed, name)
		}
	}
	slices.SortFunc(changed, func(a, b *xds.Resource) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(removed)
	return changed, removed
}

func (st *stream) sendLocked(v *view, kind string, remove bool) error {
	sub := st.subs[kind]
	if !sub.asked || sub.nonce != "" {
		return nil
	}
	changed, removed := st.differenceLocked(v, kind)
	if !remove {
		removed = nil
	}
	if len(changed) == 0 && len(removed) == 0 {
		return nil
	}
	for _, r := range changed {
		sub.sent[r.Name] = r.Version
	}
	for _, name := range removed {
		sub.sent[name] = ""
		if !sub.names[name] {
			delete(sub.sent, name)
		}
	}
	if kind == xds.ClusterType {
		st.endpointsAgainLocked(changed)
	}
	return st.writeLocked(v, kind, changed, removed)
}

// endpointsAgainLocked: Envoy warms a changed cluster until its endpoints come, and does not ask for those again.
func (st *stream) endpointsAgainLocked(clusters []*xds.Resource) {
	endpoints := st.subs[xds.EndpointType]
	for _, c := range clusters {
		delete(endpoints.sent, c.Name)
	}
}

func (st *stream) writeLocked(v *view, kind string, changed []*xds.Resource, removed []string) error {
	sub := st.subs[kind]
	out := changed
	if st.wire.full(kind) {
		out = st.allLocked(v, kind)
	}
	st.nonces++
	sub.nonce, sub.pending, sub.at = strconv.FormatUint(st.nonces, 16), changed, time.Now()
	versions := maps.Clone(sub.sent)
	maps.DeleteFunc(versions, func(_, version string) bool { return version == "" })
	r := &response{kind: kind, nonce: sub.nonce, removed: removed, whole: wholeVersion(versions), changed: make([]*discoverysvcv3.Resource, len(out))}
	for i, one := range out {
		r.changed[i] = st.server.encode(one)
	}
	st.server.metrics.responses.WithLabelValues(short(kind)).Inc()
	st.server.metrics.resources.WithLabelValues(short(kind)).Add(float64(len(out)))
	// The lock is let go, so that a proxy which does not read cannot hold up the status.
	st.mu.Unlock()
	defer st.mu.Lock()
	return st.wire.send(r)
}

// allLocked gives everything that the proxy then has: what a removal that is held back would take away, too.
func (st *stream) allLocked(v *view, kind string) []*xds.Resource {
	var all []*xds.Resource
	for _, r := range v.resources[kind] {
		if st.subs[kind].wildcard || st.subs[kind].names[r.Name] {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *xds.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// status describes the stream; ok is false before it has said who it is.
func (st *stream) status() (p Proxy, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	p = st.about
	p.Types = make(map[string]TypeSync)
	p.Synced = p.Known
	for kind, sub := range st.subs {
		if !sub.asked {
			continue
		}
		resources := maps.Clone(sub.sent)
		maps.DeleteFunc(resources, func(_, version string) bool { return version == "" })
		p.Types[short(kind)] = TypeSync{Resources: resources, Pending: len(sub.pending)}
		p.Synced = p.Synced && sub.nonce == ""
	}
	return p, p.Node != ""
}
