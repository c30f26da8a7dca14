package serve_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// TestStorm: all come back to a restarted Weir at once, over connections of their own, each with all that it has. They are
// sent what has changed and nothing else, and one that is there is served meanwhile.
func TestStorm(t *testing.T) {
	const proxies = 150
	server := serve.New(slog.New(slog.DiscardHandler))
	server.Apply(fleet(proxies+1, "1"))
	transport := server.Server(http.NotFoundHandler())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- transport.Serve(l) }()
	t.Cleanup(func() {
		transport.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})

	early := returning(t, l.Addr().String(), proxies)
	server.Apply(fleet(proxies+1, "2"))
	var all sync.WaitGroup
	for i := range proxies {
		all.Go(func() { returning(t, l.Addr().String(), i).until("1 shop/service-00500@3") })
	}
	early.until("1 shop/service-00500@2")
	for len(server.Status().Proxies) <= proxies/2 {
		time.Sleep(time.Millisecond)
	}
	server.Apply(fleet(proxies+1, "3"))
	early.until("1 shop/service-00500@3")
	all.Wait()
}

type returned struct {
	t      testing.TB
	stream discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

// returning is a proxy that comes back with all of fleet's first version.
func returning(t testing.TB, address string, i int) *returned {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context(), grpc.WaitForReady(true))
	if err != nil {
		t.Error(err)
		return nil
	}
	for n, kind := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
		r := &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: kind, InitialResourceVersions: map[string]string{"outbound/" + strconv.Itoa(i): "1"}}
		if n == 0 {
			r.Node = &corev3.Node{Id: serve.NodeID(sidecar(i), "1")}
		}
		if kind != xds.ListenerType {
			r.InitialResourceVersions = make(map[string]string)
			for s := range services {
				name := fmt.Sprintf("shop/service-%05d", s)
				r.InitialResourceVersions[name] = "1"
				if kind != xds.ClusterType {
					r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
				}
			}
		}
		if err := stream.Send(r); err != nil {
			t.Error(err)
		}
	}
	return &returned{t, stream}
}

// until takes responses until one has this, of which all before have the version before, if any.
func (p *returned) until(want string) {
	for got := p.next(); got != want; got = p.next() {
		if got != "1 shop/service-00500@2" {
			p.t.Errorf("a proxy was sent %s, want %s", got, want)
			return
		}
	}
}

// next takes a response and says what is in it.
func (p *returned) next() string {
	r, err := p.stream.Recv()
	if err != nil {
		return err.Error()
	}
	if err := p.stream.Send(&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
		return err.Error()
	}
	text := strconv.Itoa(len(r.GetResources()))
	for _, one := range r.GetResources() {
		text += " " + one.GetName() + "@" + one.GetVersion()
	}
	return text
}
