package serve_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	edge  = mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}
	other = mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "cart"}}
	kinds = map[string]string{"c": xds.ClusterType, "e": xds.EndpointType, "s": xds.SecretType, "l": xds.ListenerType, "r": xds.RouteType, "v": xds.VirtualHostType}
	first = map[string]string{"c a": "c1", "c b": "c2", "e a": "e1", "l x": "l1", "r a": "r1", "r b": "r2"}
	// named is what clients subscribe to by name.
	named = []string{"a", "b", "c"}
)

// viewOf makes resources named and versioned as given: "TYPE-INITIAL NAME" to version.
func viewOf(versions map[string]string) xds.View {
	v := xds.View{}
	for _, key := range slices.Sorted(maps.Keys(versions)) {
		kind, name, _ := strings.Cut(key, " ")
		v[kinds[kind]] = append(v[kinds[kind]], &xds.Resource{
			Type: kinds[kind], Name: name, Version: versions[key], Body: []byte(name + "@" + versions[key]),
			Sources: []policy.Key{{Kind: "Route", Name: name}},
		})
	}
	return v
}

// snapshot has the same for both proxies.
func snapshot(versions map[string]string) *xds.Snapshot {
	v := viewOf(versions)
	return xds.NewSnapshot(map[mesh.Proxy]xds.View{edge: v, other: v})
}

// with gives base with changes: keys and versions; the version "" takes away.
func with(base map[string]string, changes ...string) map[string]string {
	m := maps.Clone(base)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(m, changes[i])
		} else {
			m[changes[i]] = changes[i+1]
		}
	}
	return m
}

// world is a server with its clients. Within a synctest bubble, nothing in it depends on real time.
type world struct {
	t      testing.TB
	server *serve.Server
	conn   *grpc.ClientConn
}

// story runs f in a bubble.
func story(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newWorld(t)) })
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, server: serve.New(slog.New(slog.DiscardHandler))}
	w.conn = w.dial(w.server)
	return w
}

func (w *world) dial(s *serve.Server) *grpc.ClientConn {
	w.t.Helper()
	server, l := s.Server(grpc.NewServer()), bufconn.Listen(1<<16)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	w.t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///weir", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// restart puts another server in the place of this one: it remembers nothing.
func (w *world) restart() {
	w.t.Helper()
	w.server = serve.New(slog.New(slog.DiscardHandler))
	w.conn = w.dial(w.server)
}

func (w *world) ads() discoverysvcv3.AggregatedDiscoveryServiceClient {
	return discoverysvcv3.NewAggregatedDiscoveryServiceClient(w.conn)
}

// apply serves versions and lets everybody settle.
func (w *world) apply(versions map[string]string, clients ...*client) {
	w.t.Helper()
	w.server.Apply(snapshot(versions))
	settle(clients...)
}

// update is a response of either protocol, as a client sees it.
type update struct {
	kind, nonce, version string
	items                [][2]string // name, version
	removed              []string
	full                 bool // what is not in it is gone
}

// client takes updates as Envoy does: of clusters and listeners it takes those that are good and names the others; at
// the first bad endpoint or route it stops, and names nothing. A changed cluster warms until its endpoints come.
type client struct {
	t      testing.TB
	cancel context.CancelFunc
	send   func(u *update, refusal string) // answers
	ask    func(r ask)

	mu    sync.Mutex
	inbox []*update

	refuse   map[string]bool              // versions
	applied  map[string]map[string]string // by type, name to version: what is in force
	reported map[string]map[string]string // what it says it has when it comes back: of accepted responses only
	versions map[string]string            // by type: of the last accepted response
	warming  map[string]bool
	orphans  map[string]bool // see newClient
	log      []string        // "+NAME@VERSION", "-NAME" of what was in force, "!" a refusal
	mute     bool            // it reads and does not answer
}

// ask is a change of subscription.
type ask struct {
	kind            string
	names, unwanted []string
	node            *corev3.Node
	initial         map[string]string
}

func newClient(t testing.TB, earlier *client) *client {
	c := &client{
		t: t, refuse: make(map[string]bool), applied: make(map[string]map[string]string), versions: make(map[string]string),
		reported: make(map[string]map[string]string), warming: make(map[string]bool),
	}
	if earlier != nil {
		// What it took out of a response that it refused, it does not report: no server can know of it.
		c.orphans = make(map[string]bool)
		for kind, names := range earlier.applied {
			for name := range names {
				if earlier.reported[kind][name] == "" || earlier.orphans[kind+name] {
					c.orphans[kind+name] = true
				}
			}
		}
		// A cluster that was warming when the connection broke is left to Envoy's own time limit: nothing it says tells a
		// server of it.
		c.refuse, c.applied, c.reported, c.versions = earlier.refuse, earlier.applied, earlier.reported, earlier.versions
	}
	for _, kind := range xds.Types {
		if c.applied[kind] == nil {
			c.applied[kind], c.reported[kind] = make(map[string]string), make(map[string]string)
		}
	}
	return c
}

// connect opens a delta stream, of a client that was there before or nil.
func (w *world) connect(p mesh.Proxy, earlier *client) *client {
	w.t.Helper()
	c := newClient(w.t, earlier)
	ctx, cancel := context.WithCancel(w.t.Context())
	stream, err := w.ads().DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	c.send = func(u *update, refusal string) {
		_ = stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: u.kind, ResponseNonce: u.nonce, ErrorDetail: detail(refusal)}) // it may have ended
	}
	c.ask = func(a ask) {
		_ = stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{
			Node: a.node, TypeUrl: a.kind, ResourceNamesSubscribe: a.names, ResourceNamesUnsubscribe: a.unwanted, InitialResourceVersions: a.initial,
		})
	}
	c.receive(cancel, func() (*update, error) {
		r, err := stream.Recv()
		u := &update{kind: r.GetTypeUrl(), nonce: r.GetNonce(), removed: r.GetRemovedResources()}
		for _, one := range r.GetResources() {
			u.items = append(u.items, [2]string{one.GetName(), one.GetVersion()})
		}
		return u, err
	})
	for i, kind := range xds.Types {
		a := ask{kind: kind, initial: maps.Clone(c.reported[kind])}
		if i == 0 {
			a.node = &corev3.Node{Id: serve.NodeID(p, "test"), UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
				UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
			}}
		}
		if kind == xds.EndpointType || kind == xds.RouteType || kind == xds.SecretType {
			a.names = named
		}
		c.ask(a)
	}
	return c
}

// connectSotW opens a state-of-the-world stream.
func (w *world) connectSotW(p mesh.Proxy, earlier *client) *client {
	w.t.Helper()
	c := newClient(w.t, earlier)
	ctx, cancel := context.WithCancel(w.t.Context())
	stream, err := w.ads().StreamAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	subscribed := func(kind string) []string {
		if kind == xds.EndpointType || kind == xds.RouteType || kind == xds.SecretType {
			return named
		}
		return nil
	}
	c.send = func(u *update, refusal string) {
		_ = stream.Send(&discoverysvcv3.DiscoveryRequest{ // it may have ended
			TypeUrl: u.kind, ResponseNonce: u.nonce, VersionInfo: c.versions[u.kind], ResourceNames: subscribed(u.kind), ErrorDetail: detail(refusal),
		})
	}
	c.receive(cancel, func() (*update, error) {
		r, err := stream.Recv()
		u := &update{kind: r.GetTypeUrl(), nonce: r.GetNonce(), version: r.GetVersionInfo()}
		for _, one := range r.GetResources() {
			name, version, _ := strings.Cut(string(one.GetValue()), "@")
			u.items = append(u.items, [2]string{name, version})
		}
		u.full = u.kind == xds.ClusterType || u.kind == xds.ListenerType
		return u, err
	})
	for _, kind := range xds.Types {
		_ = stream.Send(&discoverysvcv3.DiscoveryRequest{
			Node: &corev3.Node{Id: serve.NodeID(p, "sotw")}, TypeUrl: kind, VersionInfo: c.versions[kind], ResourceNames: subscribed(kind),
		})
	}
	return c
}

func detail(refusal string) *statusv1.Status {
	if refusal == "" {
		return nil
	}
	return &statusv1.Status{Message: refusal}
}

func (c *client) receive(cancel context.CancelFunc, next func() (*update, error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			u, err := next()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.inbox = append(c.inbox, u)
			c.mu.Unlock()
		}
	}()
	c.cancel = func() { cancel(); <-done }
	c.t.Cleanup(c.cancel)
}

// settle lets clients answer until nothing more comes. It needs a bubble.
func settle(clients ...*client) {
	for {
		synctest.Wait()
		busy := false
		for _, c := range clients {
			busy = c.step() || busy
		}
		if !busy {
			return
		}
	}
}

// step takes one update and answers it.
func (c *client) step() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.inbox) == 0 {
		return false
	}
	u := c.inbox[0]
	c.inbox = c.inbox[1:]
	if u.full {
		for name := range c.applied[u.kind] {
			if !slices.ContainsFunc(u.items, func(one [2]string) bool { return one[0] == name }) {
				u.removed = append(u.removed, name)
			}
		}
		slices.Sort(u.removed)
	}
	refusal := c.takeLocked(u)
	if refusal == "" {
		c.versions[u.kind] = u.version
		for _, one := range u.items {
			c.reported[u.kind][one[0]] = one[1]
		}
		for _, name := range u.removed {
			delete(c.reported[u.kind], name)
		}
	}
	if !c.mute {
		c.send(u, refusal)
	}
	return true
}

func (c *client) takeLocked(u *update) (refusal string) {
	whole := u.kind == xds.ClusterType || u.kind == xds.ListenerType
	var bad []string
	for _, one := range u.items {
		name, version := one[0], one[1]
		if c.refuse[version] {
			c.log = append(c.log, "!")
			if !whole {
				return "no such thing as that"
			}
			bad = append(bad, name+": no")
			continue
		}
		if had := c.applied[u.kind][name]; u.kind == xds.ClusterType && had != version {
			c.warming[name] = true
		}
		if u.kind == xds.EndpointType {
			delete(c.warming, name)
		}
		c.applied[u.kind][name] = version
		c.log = append(c.log, "+"+name+"@"+version)
	}
	for _, name := range u.removed {
		if _, had := c.applied[u.kind][name]; had {
			c.log = append(c.log, "-"+name)
		}
		delete(c.applied[u.kind], name)
		if u.kind == xds.ClusterType {
			delete(c.warming, name)
		}
	}
	if len(bad) > 0 {
		return "Error adding/updating (s) " + strings.Join(bad, ", ")
	}
	return ""
}

// came gives what came since it was last asked.
func (c *client) came() string {
	all := strings.Join(c.log, " ")
	c.log = nil
	return all
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}
