package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/xds"
)

// TestStrangersHoldUpNobody: a hundred that begin long messages and never end them, while proxies connect with long
// messages of their own and are served.
func TestStrangersHoldUpNobody(t *testing.T) {
	upstream := envoytest.Upstream(t, "shop")
	w := newWorld(t, fmt.Sprintf(`
kind: Service
metadata: {name: shop}
spec: {hosts: [shop.example.com], endpoints: {static: [{address: 127.0.0.1, port: %s}]}}
`, port(upstream.Address)))
	address := w.args[4]
	for i := range 100 {
		stranger(t, address, []int{0, 60_000, 100_000}[i%3])
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	stream, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	must(t, err)
	ask := &discoverysvcv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "gateway~edge~honest"}, TypeUrl: xds.EndpointType}
	for i := range 5000 {
		ask.ResourceNamesSubscribe = append(ask.ResourceNamesSubscribe, fmt.Sprintf("some-namespace/a-service-%d/v1", i))
	}
	must(t, stream.Send(ask))
	if got, err := stream.Recv(); err != nil || got.GetTypeUrl() != xds.EndpointType {
		t.Errorf("a proxy that asks for 5,000 names is answered %v: %v", got, err)
	}

	listens := freePorts(t, 1)[0]
	w.write("late.yaml", fmt.Sprintf("kind: Gateway\nmetadata: {name: late}\nspec: {address: 127.0.0.1, listeners: [{name: http, port: %s}]}\n", port(listens)))
	bootstrap, err := exec.CommandContext(ctx, weirBinary, "bootstrap", "--gateway", "late", "--xds", address, "--admin", freePorts(t, 1)[0]).Output()
	must(t, err)
	envoytest.Start(t, bootstrap)
	w.gateway = "http://" + listens
	w.eventually("a new Envoy serves", func() error {
		got, err := w.do(t.Context(), request{host: "shop.example.com"})
		if err == nil && got.status != 200 {
			err = fmt.Errorf("status %d", got.status)
		}
		return err
	})
}

// stranger begins a message of 16 MiB and says so many bytes of it. It comes from an address of its own.
func stranger(t *testing.T, address string, says int) {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(t.Context(), "tcp", address)
	must(t, err)
	var works sync.WaitGroup
	works.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	t.Cleanup(func() { _ = conn.Close(); works.Wait() })
	var block, all bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":authority", "weir"},
		{":path", discoverysvcv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName},
		{"content-type", "application/grpc"},
	} {
		must(t, fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	all.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&all, nil)
	must(t, f.WriteSettings())
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	message := append(binary.BigEndian.AppendUint32([]byte{0}, 16<<20), make([]byte, says)...)
	for len(message) > 0 {
		n := min(len(message), 1<<14)
		must(t, f.WriteData(1, false, message[:n]))
		message = message[n:]
	}
	works.Go(func() { _, _ = conn.Write(all.Bytes()) }) // who is not read is not waited for
}
