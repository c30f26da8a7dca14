package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcServer has the health service, and answers every other method by repeating each message with its name before it
// and the trailer x-served-by after all. Its methods /flaky.Flaky/CODE fail with that code but for every third call.
type grpcServer struct {
	name, address string
	health        *health.Server
	calls         atomic.Int64
}

func newGRPCServer(t *testing.T, name string) *grpcServer {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &grpcServer{name: name, address: l.Addr().String(), health: health.NewServer()}
	s := grpc.NewServer(grpc.UnknownServiceHandler(g.echo))
	healthpb.RegisterHealthServer(s, g.health)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *grpcServer) echo(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if name, ok := strings.CutPrefix(method, "/flaky.Flaky/"); ok && g.calls.Add(1)%3 != 0 {
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
			return err
		}
		return grpcstatus.Error(code, "not yet")
	}
	stream.SetTrailer(metadata.Pairs("x-served-by", g.name))
	for {
		m := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Value == "hang" {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		m.Value = g.name + " " + m.Value
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}

func TestGRPC(t *testing.T) {
	carts, rest := newGRPCServer(t, "carts"), newGRPCServer(t, "rest")
	w := newWorld(t, fmt.Sprintf(`
kind: Service
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.com]
  protocol: grpc
  timeout: 300ms
  versions: [{name: carts}, {name: rest}]
  endpoints:
    static:
      - {address: 127.0.0.1, port: %s, labels: {version: carts}}
      - {address: 127.0.0.1, port: %s, labels: {version: rest}}
---
kind: Route
metadata: {name: api, namespace: shop}
spec:
  service: api
  rules:
    - {name: pay, match: {grpc: {service: acme.cart.Cart, method: Pay}}, to: [{version: rest}], timeout: 20s}
    - {name: cart, match: {grpc: {service: acme.cart.Cart}}, to: [{version: carts}], timeout: 20s}
    - {name: slow, match: {grpc: {service: acme.Slow}}, to: [{version: carts}]}
    - name: closed
      match: {grpc: {service: acme.Closed}}
      maintenance: {body: back soon, unless: {grpc: {service: acme.Closed, method: Admin}}}
      to: [{version: rest}]
      timeout: 20s
    - name: flaky
      match: {grpc: {service: flaky.Flaky}}
      to: [{version: rest}]
      timeout: 20s
      retries: {attempts: 2, on: [unavailable, resource-exhausted, internal, cancelled, deadline-exceeded]}
    - {name: health, match: {grpc: {service: grpc.health.v1.Health}}, to: [{version: rest}], timeout: 0s}
    - {name: other, directResponse: {status: 404}}
`, port(carts.address), port(rest.address)))
	conn, err := grpc.NewClient(strings.TrimPrefix(w.gateway, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("api.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	call := func(method, message string) (answer, trailer string, err error) {
		m, md := wrapperspb.String(message), metadata.MD{}
		err = conn.Invoke(ctx, method, m, m, grpc.Trailer(&md))
		return m.Value, strings.Join(md.Get("x-served-by"), ","), err
	}

	for method, want := range map[string]string{
		"/acme.cart.Cart/Add": "carts", "/acme.cart.Cart/Pay": "rest", "/acme.Closed/Admin": "rest",
	} {
		if got, trailer, err := call(method, "a"); err != nil || got != want+" a" || trailer != want {
			t.Errorf("%s: %q, trailer %q, %v, want %s", method, got, trailer, err, want)
		}
	}
	// The same path without gRPC's content-type is another request.
	if got := w.mustDo(request{method: http.MethodPost, host: "api.example.com", path: "/acme.cart.Cart/Add"}); got.status != http.StatusNotFound {
		t.Errorf("no gRPC: %d", got.status)
	}
	if _, _, err := call("/acme.cart.Carts/Add", "a"); grpcstatus.Code(err) != codes.Unimplemented { // 404
		t.Errorf("another service: %v", err)
	}
	if _, _, err := call("/acme.Closed/Do", "a"); grpcstatus.Code(err) != codes.Unavailable || grpcstatus.Convert(err).Message() != "back soon" {
		t.Errorf("maintenance: %v, want UNAVAILABLE with its body", err)
	}
	if _, _, err := call("/acme.Slow/Do", "hang"); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("slower than the timeout: %v", err)
	}

	// Each of gRPC's failures that retries name; and one that none names.
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Canceled, codes.DeadlineExceeded} {
		rest.calls.Store(0)
		if _, _, err := call("/flaky.Flaky/"+codeNames[code], "a"); err != nil || rest.calls.Load() != 3 {
			t.Errorf("%s: %v after %d calls, want none after 3", code, err, rest.calls.Load())
		}
	}
	rest.calls.Store(0)
	if _, _, err := call("/flaky.Flaky/ABORTED", "a"); grpcstatus.Code(err) != codes.Aborted || rest.calls.Load() != 1 {
		t.Errorf("ABORTED: %v after %d calls, want it after 1", err, rest.calls.Load())
	}

	// A stream on which the caller has more to say outlives the timeout; one that only listens needs a rule without.
	talk, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/acme.Slow/Talk")
	if err != nil {
		t.Fatal(err)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		m := wrapperspb.String(fmt.Sprint(i))
		if err := errors.Join(talk.SendMsg(m), talk.RecvMsg(m)); err != nil || m.Value != fmt.Sprint("carts ", i) {
			t.Fatalf("talk %d: %q %v", i, m.Value, err)
		}
		want := []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING}[i%2]
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Fatalf("watch %d: %v %v, want %s", i, got, err, want)
		}
		time.Sleep(150 * time.Millisecond) // five of these are more than the service's timeout
		if i%2 == 0 {
			rest.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		} else {
			rest.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		}
	}
	if err := talk.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := talk.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) || len(talk.Trailer().Get("x-served-by")) != 1 {
		t.Errorf("the end of the talk: %v, trailer %v", err, talk.Trailer())
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// codeNames are the codes as they are written.
var codeNames = map[codes.Code]string{
	codes.Unavailable: "UNAVAILABLE", codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.Internal: "INTERNAL",
	codes.Canceled: "CANCELLED", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
}
