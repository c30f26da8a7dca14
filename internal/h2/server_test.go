package h2_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/h2"
)

const echoPath = "/test.Echo/Echo"

// echo answers with what it is asked; "wait" first has it wait, "fail" has it fail, and "long" is answered at length. What
// waits does so from the next Flush on.
type echo struct {
	mu      sync.Mutex
	waiting []func()
}

var long = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)

func (e *echo) Answer(request, out []byte, later h2.Later) ([]byte, bool, error) {
	switch {
	case bytes.HasPrefix(request, []byte("wait")), bytes.HasPrefix(request, []byte("late")):
		after := time.Millisecond
		if bytes.HasPrefix(request, []byte("late")) {
			after = time.Second / 2
		}
		answer := bytes.Clone(request)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.waiting = append(e.waiting, func() { time.AfterFunc(after, func() { later.Answer(answer, nil).Flush() }) })
		return out, false, nil
	case bytes.HasPrefix(request, []byte("fail")):
		return nil, true, status.Error(codes.NotFound, "nothing like “this”, 100 %")
	case bytes.HasPrefix(request, []byte("long")):
		return append(out, long...), true, nil
	}
	return append(out, request...), true, nil
}

func (e *echo) Flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, begin := range e.waiting {
		begin()
	}
	e.waiting = nil
}

// raw is a codec of bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

func (raw) Name() string { return "proto" }

func start(t testing.TB) (*h2.Server, string) {
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	return startHandler(t, g)
}

func startHandler(t testing.TB, other http.Handler) (*h2.Server, string) {
	s := &h2.Server{Path: echoPath, Unary: new(echo), Handler: other}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return s, l.Addr().String()
}

func dial(t testing.TB, address string, o ...grpc.DialOption) *grpc.ClientConn {
	c, err := grpc.NewClient(address, append(o, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func call(ctx context.Context, c *grpc.ClientConn, question []byte) ([]byte, error) {
	var answer []byte
	err := c.Invoke(ctx, echoPath, &question, &answer, grpc.ForceCodec(raw{}))
	return answer, err
}

func TestCalls(t *testing.T) {
	_, address := start(t)
	c := dial(t, address, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)))
	big := make([]byte, 700_000)
	_, _ = rand.Read(big)
	for _, question := range [][]byte{{}, []byte("x"), []byte("wait and see"), big} {
		answer, err := call(t.Context(), c, question)
		require.NoError(t, err)
		require.True(t, bytes.Equal(question, answer))
	}
	answer, err := call(t.Context(), c, []byte("long"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(long, answer))

	_, err = call(t.Context(), c, []byte("fail"))
	require.Equal(t, codes.NotFound, status.Code(err))
	require.Equal(t, "nothing like “this”, 100 %", status.Convert(err).Message())

	_, err = call(t.Context(), c, make([]byte, 3<<20))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = call(ctx, c, []byte("late"))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))

	err = c.Invoke(t.Context(), "/test.Echo/Other", &[]byte{1}, &[]byte{}, grpc.ForceCodec(raw{}))
	require.Equal(t, codes.Unimplemented, status.Code(err))
}

// TestManyCallsAtOnce asks and watches on the same connection.
func TestManyCallsAtOnce(t *testing.T) {
	_, address := start(t)
	c := dial(t, address)
	watch, err := healthpb.NewHealthClient(c).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	update, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, update.GetStatus())

	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for n := range 100 {
				question := bytes.Repeat([]byte{byte(i), byte(n)}, i*n%5000)
				if n%10 == 0 {
					question = append([]byte("wait"), question...)
				}
				answer, err := call(t.Context(), c, question)
				if err != nil || !bytes.Equal(question, answer) {
					t.Errorf("call %d of %d: %v", n, i, err)
					return
				}
				if n%20 == 0 {
					if _, err := healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
						t.Errorf("health: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestShutdownLosesNoCall stops a server under load.
func TestShutdownLosesNoCall(t *testing.T) {
	s, address := start(t)
	c := dial(t, address)
	var wg sync.WaitGroup
	started := make(chan struct{}, 1000)
	for range 8 {
		wg.Go(func() {
			for {
				answer, err := call(t.Context(), c, []byte("wait"))
				if status.Code(err) == codes.Unavailable {
					if m := status.Convert(err).Message(); !bytes.Contains([]byte(m), []byte("refused")) {
						t.Errorf("lost: %v", err)
					}
					return // nobody listens there any more
				}
				if err != nil || string(answer) != "wait" {
					t.Errorf("%q %v", answer, err)
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 100 {
		<-started
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx))
	wg.Wait()
}
