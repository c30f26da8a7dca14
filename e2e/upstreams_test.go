package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestCircuitBreaker: what is beyond a service's bounds is refused at once, and what is within them is answered.
func TestCircuitBreaker(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	arrived, release := make(chan struct{}, 16), make(chan struct{})
	up.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/held" {
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	}
	letGo := sync.OnceFunc(func() { close(release) })
	defer letGo()
	w := newWorld(t, service("narrow", up.Address, "  circuitBreaker: {maxConnections: 1, maxPending: 1, maxRequests: 1}"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	// One request more may wait for each of Envoy's two workers, the one with the connection and the other one.
	const surplus, mayWait = 10, 2
	answers, done := make(chan response, 1+surplus), sync.WaitGroup{}
	defer done.Wait()
	send := func() {
		done.Go(func() {
			resp, err := w.do(ctx, request{host: "narrow.example.com", path: "/held"})
			if err != nil {
				t.Errorf("a request: %v", err)
			}
			answers <- resp
		})
	}
	send()
	select {
	case <-arrived:
	case <-ctx.Done():
		t.Fatal("the first request does not reach the upstream")
	}
	for range surplus {
		send()
	}
	for n := range surplus - mayWait {
		resp := <-answers // at the latest when ctx is done
		if resp.status != http.StatusServiceUnavailable || resp.header.Get("X-Envoy-Overloaded") != "true" {
			t.Fatalf("refusal %d of a surplus request: %d %q, headers %v", n, resp.status, resp.body, resp.header)
		}
	}
	letGo()
	passed := 0
	for range 1 + mayWait {
		if resp := <-answers; resp.status == http.StatusOK {
			passed++
		} else if resp.header.Get("X-Envoy-Overloaded") != "true" {
			t.Errorf("after the hold: %d %q", resp.status, resp.body)
		}
	}
	if passed == 0 {
		t.Error("the request within the bounds was not answered")
	}
}

// TestNamedEndpoints: a service behind a name, by the system's own resolver.
func TestNamedEndpoints(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, fmt.Sprintf(`
kind: Service
metadata: {name: named, namespace: shop}
spec: {hosts: [named.example.com], endpoints: {dns: {name: localhost, port: %s}}}
`, port(up.Address)))
	for range 20 {
		if got := w.mustDo(request{host: "named.example.com", path: "/"}); got.body != "up" {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
}

// TestNamedEndpointsMove: when a name gets another address, requests follow, and none is lost on the way.
func TestNamedEndpointsMove(t *testing.T) {
	before := envoytest.UpstreamAt(t, "before", freePorts(t, 1)[0])
	after := envoytest.UpstreamAt(t, "after", "127.0.0.2:"+port(before.Address))
	names := newNames(t)
	names.set("127.0.0.1")
	w := newWorld(t, fmt.Sprintf(`
kind: Service
metadata: {name: checkout, namespace: shop}
spec: {hosts: [checkout.example.com], endpoints: {dns: {name: moving.test, port: %s, refresh: 100ms}}}
`, port(before.Address)), names.bootstrap())
	w.eventually("the name is found", func() error { return answeredBy(w.mustDo(checkout), "before") })
	l := w.load(2)
	names.set("127.0.0.2")
	w.eventually("requests follow the name", func() error { return answeredBy(w.mustDo(checkout), "after") })
	for range 20 {
		if err := answeredBy(w.mustDo(checkout), after.Name); err != nil {
			t.Error(err)
		}
	}
	l.end(t)
}

func answeredBy(r response, name string) error {
	if r.body != name {
		return fmt.Errorf("answered by %q (%d), want %q", r.body, r.status, name)
	}
	return nil
}

// names is a DNS server that has one IPv4 address for every name.
type names struct {
	socket net.PacketConn
	answer atomic.Pointer[[4]byte]
}

func newNames(t *testing.T) *names {
	t.Helper()
	socket, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{socket: socket}
	var served sync.WaitGroup
	served.Go(n.serve)
	t.Cleanup(func() { _ = socket.Close(); served.Wait() })
	return n
}

func (n *names) set(address string) {
	ip := [4]byte(net.ParseIP(address).To4())
	n.answer.Store(&ip)
}

// bootstrap makes an Envoy ask it.
func (n *names) bootstrap() string {
	return fmt.Sprintf(`
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{socket_address: {address: 127.0.0.1, port_value: %s}}]
`, port(n.socket.LocalAddr().String()))
}

func (n *names) serve() {
	buffer := make([]byte, 1500)
	for {
		size, from, err := n.socket.ReadFrom(buffer)
		if err != nil {
			return // closed
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, m.RecursionDesired, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class},
				Body:   &dnsmessage.AResource{A: *n.answer.Load()},
			}}
		}
		if reply, err := m.Pack(); err == nil {
			_, _ = n.socket.WriteTo(reply, from) // one that is lost is asked for again
		}
	}
}
