package serve

import (
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/xds"
)

// patience is how long an order is kept: listeners and routes wait for the clusters before them to be answered, and
// clusters and endpoints stay until what used them is known to be gone.
const patience = 5 * time.Second

// stream is one proxy's connection. It has no goroutine: what the proxy says is taken by the one that reads its
// connection, and what changes is sent by one of the server's pushers. It is never waited for.
type stream struct {
	server   *Server
	call     *h2.Call
	wire     wire
	protocol string
	queued   atomic.Bool              // it is among those that are to be pushed to
	proxy    atomic.Pointer[audience] // nil until it has said who it is

	mu     sync.Mutex  // guards everything below
	over   bool        // the proxy is gone or was turned away
	timer  *time.Timer // when patience ends; nil: nothing waits
	about  Proxy
	subs   map[string]*subscription
	held   time.Time          // since when removals of clusters or endpoints are held back; zero: none is
	unread map[string]Refusal // of secrets whose files the proxy could not read, by name
}

func newStream(s *Server, protocol string, w wire, call *h2.Call) *stream {
	st := &stream{
		server: s, call: call, wire: w, protocol: protocol, subs: make(map[string]*subscription, len(xds.Types)),
		about: Proxy{Protocol: protocol, Connected: time.Now(), Address: call.RemoteAddr().String()},
	}
	for _, kind := range xds.Types {
		st.subs[kind] = newSubscription(kind)
	}
	return st
}

// Receive implements [h2.Receiver].
func (st *stream) Receive(message []byte) error {
	r, err := st.wire.parse(message)
	if err != nil {
		st.Done()
		return status.Error(codes.Internal, "the request can't be read: "+err.Error())
	}
	if err := st.answer(r); err != nil {
		st.Done()
		return err
	}
	return nil
}

// answer takes a request and sends what is due.
func (st *stream) answer(r *request) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over {
		return nil
	}
	if err := st.takeLocked(r); err != nil {
		return err
	}
	st.pushLocked(time.Now())
	return nil
}

// Done implements [h2.Receiver].
func (st *stream) Done() {
	st.server.remove(st)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.over = true
	st.rouseLocked(0)
}

// end cuts the stream off.
func (st *stream) end(err error) {
	st.Done()
	st.call.End(err)
}

// push sends what is due.
func (st *stream) push() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.over {
		st.pushLocked(time.Now())
		st.call.Flush()
	}
}

// rouseLocked has the stream looked at after some time; 0 is never.
func (st *stream) rouseLocked(after time.Duration) {
	switch {
	case after > 0 && st.timer != nil:
		st.timer.Reset(after)
	case after > 0:
		st.timer = time.AfterFunc(after, func() { st.server.pushers.push(st) })
	case st.timer != nil:
		st.timer.Stop()
		st.timer = nil
	}
}

// takeLocked notes what a request says.
func (st *stream) takeLocked(r *request) error {
	if st.proxy.Load() == nil {
		if err := st.identifyLocked(r.node); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	sub, ok := st.subs[r.kind]
	if !ok {
		st.server.log.Debug("a proxy asks for a type that is not served", "node", st.about.Node, "type", r.kind)
		return nil
	}
	st.answerLocked(sub, r)
	shelf := sub.base
	if v := st.viewLocked(); v != nil {
		shelf = v.shelves[r.kind]
	}
	sub.take(r, shelf)
	return nil
}

func (st *stream) identifyLocked(n *corev3.Node) error {
	proxy, err := ParseNode(n)
	if err != nil {
		st.server.log.Warn("a proxy was turned away", "address", st.about.Address, "error", err)
		return err
	}
	st.about.Node, st.about.Role, st.about.Name = n.GetId(), proxy.Role, proxy.Ref.String()
	st.about.Zone, st.about.Cluster, st.about.Envoy = n.GetLocality().GetZone(), cluster(n), envoyVersion(n)
	to := audienceOf(proxy, st.protocol == sotw || !takesVirtualHosts(n))
	st.server.welcome(st, to)
	log := st.server.log.With("node", st.about.Node, "address", st.about.Address, "protocol", st.protocol)
	log.Info("a proxy connected")
	if st.server.viewOf(to) == nil {
		log.Warn("no document has this proxy: it is served nothing until one does")
	}
	return nil
}

func cluster(n *corev3.Node) string {
	return n.GetMetadata().GetFields()["weir"].GetStructValue().GetFields()["cluster"].GetStringValue()
}

// takesVirtualHosts: Envoy has had virtual hosts over ADS since 1.37; of others nobody knows.
func takesVirtualHosts(n *corev3.Node) bool {
	v := n.GetUserAgentBuildVersion().GetVersion()
	return v.GetMajorNumber() > 1 || v.GetMajorNumber() == 1 && v.GetMinorNumber() >= 37
}

// envoyVersion: those that are no Envoy say what they are.
func envoyVersion(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return strings.TrimSpace(n.GetUserAgentName() + " " + n.GetUserAgentVersion())
	}
	return strconv.Itoa(int(v.GetMajorNumber())) + "." + strconv.Itoa(int(v.GetMinorNumber())) + "." + strconv.Itoa(int(v.GetPatch()))
}

// answerLocked takes an ACK or NACK of the response in flight; one of an older response says nothing any more.
func (st *stream) answerLocked(sub *subscription, r *request) {
	f := sub.flight
	if f == nil || r.nonce != f.nonce {
		return
	}
	sub.flight = nil
	m := st.server.metrics
	m.ackSeconds.Observe(time.Since(f.at).Seconds())
	if r.refusal == "" {
		m.acks.WithLabelValues(short(r.kind)).Inc()
		sub.accepted(f)
		st.readLocked(f)
		return
	}
	m.nacks.WithLabelValues(short(r.kind)).Inc()
	message := strings.TrimSpace(r.refusal) // Envoy ends a list of them with a new line
	st.about.LastNACK = message
	sub.nack = &NACK{Message: message, Time: time.Now()}
	if r.kind == xds.SecretType {
		st.unreadLocked(f, message)
		return
	}
	guilty := sub.refused(f, message, !st.wire.full(r.kind))
	st.server.refuse(st.about.Node, guilty, message)
}

// pushLocked sends what is due, make before break: what listeners and routes refer to before them, and taken away after.
func (st *stream) pushLocked(now time.Time) {
	v := st.viewLocked()
	if v == nil {
		return
	}
	mayRemove := st.doneLocked(v, xds.ListenerType) && st.doneLocked(v, xds.RouteType) && st.doneLocked(v, xds.VirtualHostType) ||
		!st.held.IsZero() && now.Sub(st.held) >= patience
	held := false
	for _, kind := range xds.Types {
		user := kind == xds.ListenerType || kind == xds.RouteType || kind == xds.VirtualHostType
		if user && st.clustersLocked(now) > 0 {
			continue
		}
		held = st.sendLocked(v.shelves[kind], user || mayRemove, now) || held
	}
	st.holdLocked(held, now)
	st.rouseLocked(st.waitLocked(now))
}

func (st *stream) viewLocked() *view {
	p := st.proxy.Load()
	if p == nil {
		return nil
	}
	v := st.server.viewOf(*p)
	st.about.Known, st.about.Gone = v != nil, v != nil && v.gone
	return v
}

// clustersLocked gives how long the answer to clusters may still be waited for; 0 or less: no longer.
func (st *stream) clustersLocked(now time.Time) time.Duration {
	if f := st.subs[xds.ClusterType].flight; f != nil {
		return patience - now.Sub(f.at)
	}
	return 0
}

func (st *stream) holdLocked(held bool, now time.Time) {
	switch {
	case !held:
		st.held = time.Time{}
	case st.held.IsZero():
		st.held = now
	}
}

func (st *stream) waitLocked(now time.Time) time.Duration {
	wait := max(0, st.clustersLocked(now))
	if !st.held.IsZero() {
		if left := patience - now.Sub(st.held); left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return wait
}

// doneLocked says whether the proxy is known to have all of a type and no more. It is not while it has not asked: on a
// new stream it says type by type what it has.
func (st *stream) doneLocked(v *view, kind string) bool {
	sub, s := st.subs[kind], v.shelves[kind]
	if !sub.asked {
		return len(s.list) == 0
	}
	changed, removed := sub.difference(s)
	return sub.flight == nil && len(changed) == 0 && len(removed) == 0
}

// sendLocked sends what is due of a type. held says whether removals remain that may not be sent yet.
func (st *stream) sendLocked(s *shelf, mayRemove bool, now time.Time) (held bool) {
	kind, sub := s.kind, st.subs[s.kind]
	changed, removed := sub.difference(s)
	held = len(removed) > 0 && !mayRemove
	if !sub.asked || sub.flight != nil {
		return held
	}
	if held {
		removed = sub.unknown(removed)
	}
	if !st.wire.full(kind) {
		changed = sub.isolate(changed)
		if st.protocol == sotw {
			// A response can't say that something named is gone.
			sub.removed(removed)
			removed = nil
		}
	}
	if kind == xds.SecretType {
		changed = changed[:min(1, len(changed))] // a refusal doesn't say which it is about
	}
	if kind == xds.VirtualHostType {
		early := func(i *item) bool { return !st.subs[xds.RouteType].holds(xds.Namespace(i.name)) }
		if slices.ContainsFunc(changed, early) {
			changed = slices.DeleteFunc(slices.Clone(changed), early)
		}
	}
	if len(changed) == 0 && len(removed) == 0 && !sub.greet {
		return held
	}
	if kind == xds.RouteType {
		// Envoy drops virtual hosts that come before the route configuration to which they belong.
		for _, r := range changed {
			if !sub.holds(r.name) {
				st.subs[xds.VirtualHostType].renewAll(r.name)
			}
		}
	}
	if kind == xds.ClusterType {
		// Envoy warms a changed cluster until its endpoints come, and does not ask for those again.
		endpoints := st.subs[xds.EndpointType]
		if !endpoints.asked && len(changed) == len(s.list) {
			endpoints.doubtAll = true
		} else {
			for _, c := range changed {
				endpoints.renew(xds.EndpointsOf(c.name))
			}
		}
	}
	st.writeLocked(s, changed, removed, now)
	return held
}

func (st *stream) writeLocked(s *shelf, changed []*item, removed []string, now time.Time) {
	sub, out, again := st.subs[s.kind], changed, false
	if st.wire.full(s.kind) {
		out, again = sub.everything(s, removed)
	}
	sub.sent(rand.Text(), now, changed, removed, again)
	r := &response{kind: s.kind, nonce: sub.flight.nonce, removed: removed, whole: sub.version(), changed: out, runs: s.runs}
	st.server.metrics.responses.WithLabelValues(short(s.kind)).Inc()
	st.server.metrics.resources.WithLabelValues(short(s.kind)).Add(float64(len(out)))
	st.call.Send(st.wire.encode(r)...)
}

// status describes the stream; ok is false before it has said who it is.
func (st *stream) status() (p Proxy, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	p = st.about
	p.Types = make(map[string]TypeSync)
	p.Synced = p.Known
	for kind, sub := range st.subs {
		if sub.asked {
			p.Types[short(kind)] = sub.status()
			p.Synced = p.Synced && sub.flight == nil && len(sub.due) == 0
		}
	}
	return p, p.Node != ""
}

func (sub *subscription) status() TypeSync {
	t := TypeSync{Resources: make(map[string]string), NACK: sub.nack}
	for name, i := range sub.all {
		if i.version != "" {
			t.Resources[name] = i.version
		}
	}
	if sub.flight != nil {
		for _, i := range sub.flight.items {
			t.Waiting = append(t.Waiting, i.name)
		}
		slices.Sort(t.Waiting)
		t.Pending = len(t.Waiting)
	}
	return t
}
