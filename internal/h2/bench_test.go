package h2_test

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// floor is the same answer by gRPC's own server.
func floor(t testing.TB) string {
	s := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var b []byte
			err := dec(&b)
			return &b, err
		}}},
	}, struct{}{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkCalls(b *testing.B) {
	for _, kind := range []string{"h2", "grpc"} {
		b.Run(kind, func(b *testing.B) {
			var address string
			if kind == "h2" {
				_, address = start(b)
			} else {
				address = floor(b)
			}
			c := dial(b, address)
			question := make([]byte, 60)
			var wg sync.WaitGroup
			before := cpu()
			for i := range 16 {
				wg.Go(func() {
					for n := i; n < b.N; n += 16 {
						_, _ = call(context.Background(), c, question)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
