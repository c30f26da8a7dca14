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
	queued   atomic.Bool              // it is among those that are to be pushed to
	proxy    atomic.Pointer[audience] // nil until it has said who it is
	view     atomic.Pointer[view]     // what it is served; nil while nothing is known of it. The server stores it
	protocol string
	wire     wire // of the goroutine that reads, but for what never changes

	mu     sync.Mutex  // guards everything below
	over   bool        // the proxy is gone or was turned away
	timer  *time.Timer // when patience ends; nil: nothing waits
	held   time.Time   // since when removals of clusters or endpoints are held back; zero: none is
	subs   [kinds]subscription
	about  Proxy
	unread map[string]Refusal // of secrets whose files the proxy could not read, by name
}

func newStream(s *Server, protocol string, call *h2.Call) *stream {
	st := &stream{
		server: s, call: call, protocol: protocol, wire: wire{sotw: protocol == sotw},
		about: Proxy{Protocol: protocol, Connected: time.Now(), Address: call.RemoteAddr().String()},
	}
	for k := range st.subs {
		st.subs[k] = newSubscription(kind(k))
	}
	return st
}

// Receive implements [h2.Receiver].
func (st *stream) Receive(message []byte) error {
	var r request
	if err := st.wire.parse(message, &r); err != nil {
		st.Done()
		return status.Error(codes.Internal, "the request can't be read: "+err.Error())
	}
	if err := st.answer(&r); err != nil {
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
	if !r.served {
		st.server.log.Debug("a proxy asks for a type that is not served", "node", st.about.Node, "type", string(r.url))
		return nil
	}
	sub := &st.subs[r.kind]
	st.answerLocked(sub, r)
	shelf := sub.base
	if v := st.view.Load(); v != nil {
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
	to := audienceOf(proxy, st.wire.sotw || !takesVirtualHosts(n))
	st.server.welcome(st, to)
	log := st.server.log.With("node", st.about.Node, "address", st.about.Address, "protocol", st.protocol)
	log.Info("a proxy connected")
	if st.view.Load() == nil {
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
	if f == nil || string(r.nonce) != f.nonce {
		return
	}
	sub.flight = nil
	m := &st.server.metrics.of[r.kind]
	st.server.metrics.ackSeconds.Observe(time.Since(f.at).Seconds())
	if r.refusal == "" {
		m.acks.Inc()
		sub.accepted(f)
		if r.kind == secretKind {
			st.readLocked(f)
		}
		return
	}
	m.nacks.Inc()
	message := strings.TrimSpace(r.refusal) // Envoy ends a list of them with a new line
	st.about.LastNACK = message
	sub.nack = &NACK{Message: message, Time: time.Now()}
	if r.kind == secretKind {
		st.unreadLocked(f, message)
		return
	}
	guilty := sub.refused(f, message, !st.wire.full(r.kind))
	st.server.refuse(st.about.Node, guilty, message)
}

// pushLocked sends what is due, make before break: what listeners and routes refer to before them, and taken away after.
func (st *stream) pushLocked(now time.Time) {
	v := st.view.Load()
	if v == nil {
		return
	}
	held := false
	for k, s := range v.shelves {
		if sub := &st.subs[k]; sub.asked && (sub.base != s || !sub.inOrder() || sub.greet) {
			held = st.sendLocked(v, kind(k), now) || held
		}
	}
	st.holdLocked(held, now)
	st.rouseLocked(st.waitLocked(now))
}

// clustersLocked gives how long the answer to clusters may still be waited for; 0 or less: no longer.
func (st *stream) clustersLocked(now time.Time) time.Duration {
	if f := st.subs[clusterKind].flight; f != nil {
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

// mayRemoveLocked says whether clusters and endpoints may be taken away: nothing uses them any more, or that is waited for
// no longer.
func (st *stream) mayRemoveLocked(v *view, now time.Time) bool {
	return st.doneLocked(v, listenerKind) && st.doneLocked(v, routeKind) && st.doneLocked(v, virtualHostKind) ||
		!st.held.IsZero() && now.Sub(st.held) >= patience
}

// doneLocked says whether the proxy is known to have all of a type and no more. It is not while it has not asked: on a
// new stream it says type by type what it has.
func (st *stream) doneLocked(v *view, k kind) bool {
	sub, s := &st.subs[k], v.shelves[k]
	if !sub.asked {
		return len(s.list) == 0
	}
	changed, removed := sub.difference(s)
	return sub.flight == nil && len(changed) == 0 && len(removed) == 0
}

// sendLocked sends what is due of a type. held says whether removals remain that may not be sent yet.
func (st *stream) sendLocked(v *view, k kind, now time.Time) (held bool) {
	sub, s := &st.subs[k], v.shelves[k]
	switch {
	case k.usesClusters() && st.clustersLocked(now) > 0:
		sub.rebase(s)
		return false
	case st.mayFollowLocked(s):
		st.writeLocked(s, sub.follow(s), now)
		return false
	}
	changed, removed := sub.difference(s)
	held = len(removed) > 0 && !k.usesClusters() && !st.mayRemoveLocked(v, now)
	if sub.flight != nil {
		return held
	}
	if held {
		removed = sub.unknown(removed)
	}
	if !st.wire.full(k) {
		changed = sub.isolate(changed)
		if st.protocol == sotw {
			// A response can't say that something named is gone.
			sub.removed(removed)
			removed = nil
		}
	}
	switch k {
	case secretKind:
		changed = changed[:min(1, len(changed))] // a refusal doesn't say which it is about
	case virtualHostKind:
		early := func(i *item) bool { return !st.subs[routeKind].holds(xds.Namespace(i.name)) }
		if slices.ContainsFunc(changed, early) {
			changed = slices.DeleteFunc(slices.Clone(changed), early)
		}
	}
	if len(changed) > 0 || len(removed) > 0 || sub.greet {
		st.writeLocked(s, &flight{items: changed, gone: removed}, now)
	}
	return held
}

// mayFollowLocked says whether what is new on a shelf, and nothing else, is to be sent, and all of it at once.
func (st *stream) mayFollowLocked(s *shelf) bool {
	sub := &st.subs[s.kind]
	if sub.flight != nil || !sub.follows(s) {
		return false
	}
	switch s.kind {
	case secretKind:
		return len(s.now) == 1
	case virtualHostKind:
		return !slices.ContainsFunc(s.spaces, func(name string) bool { return !st.subs[routeKind].holds(name) })
	}
	return true
}

func (st *stream) writeLocked(s *shelf, f *flight, now time.Time) {
	sub, out := &st.subs[s.kind], f.items
	if st.wire.full(s.kind) {
		out, f.again = sub.everything(s, f.gone)
	}
	switch s.kind {
	case routeKind:
		st.renewVirtualHostsLocked(f.items)
	case clusterKind:
		st.renewEndpointsLocked(f.items, len(s.list))
	}
	f.nonce, f.at = rand.Text(), now
	sub.sent(f)
	m := &st.server.metrics.of[s.kind]
	m.responses.Inc()
	m.resources.Add(float64(len(out)))
	st.wire.send(st.call, &response{kind: s.kind, nonce: f.nonce, removed: f.gone, whole: sub.version(), changed: out, runs: s.runs})
}

// renewVirtualHostsLocked: Envoy drops virtual hosts that come before the route configuration to which they belong.
func (st *stream) renewVirtualHostsLocked(changed []*item) {
	for _, r := range changed {
		if !st.subs[routeKind].holds(r.name) {
			st.subs[virtualHostKind].renewAll(r.name)
		}
	}
}

// renewEndpointsLocked: Envoy warms a changed cluster until its endpoints come, and does not ask for those again.
func (st *stream) renewEndpointsLocked(changed []*item, all int) {
	endpoints := &st.subs[endpointKind]
	if !endpoints.asked && len(changed) == all {
		endpoints.doubtAll = true
		return
	}
	for _, c := range changed {
		endpoints.renew(xds.EndpointsOf(c.name))
	}
}

// status describes the stream; ok is false before it has said who it is.
func (st *stream) status() (p Proxy, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	p = st.about
	v := st.view.Load()
	p.Known, p.Gone = v != nil, v != nil && v.gone
	p.Types = make(map[string]TypeSync)
	p.Synced = p.Known
	for k := range st.subs {
		if sub := &st.subs[k]; sub.asked {
			p.Types[kind(k).short()] = sub.status()
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
