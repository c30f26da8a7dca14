package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
)

const (
	domain     = mesh.LimitDomain
	serviceKey = mesh.LimitKey
)

func service(n int) string { return "shop/service-" + strconv.Itoa(n) + "/0" }

// serve is the process of a server. It tells its address on standard output and runs until it is killed.
func serve(role string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if role == "floor" {
		s := grpc.NewServer()
		ratelimitsvcv3.RegisterRateLimitServiceServer(s, floor{})
		return s.Serve(l)
	}
	s := ratelimit.New(slog.New(slog.DiscardHandler), ratelimit.Options{})
	s.Apply(limits())
	g := grpc.NewServer(ratelimit.GRPCOptions()...)
	s.Register(g)
	if role == "weir-grpc" {
		return g.Serve(l)
	}
	return s.Server(g).Serve(l)
}

func limits() []*mesh.Limit {
	var out []*mesh.Limit
	for n := range services {
		out = append(out, &mesh.Limit{
			ID: service(n), By: []policy.LimitBy{{Header: "x-user"}}, Requests: 100, Burst: 100, Per: time.Second,
		})
	}
	return out
}

// floor says OK to everything.
type floor struct {
	ratelimitsvcv3.UnimplementedRateLimitServiceServer
}

func (floor) ShouldRateLimit(_ context.Context, r *ratelimitsvcv3.RateLimitRequest) (*ratelimitsvcv3.RateLimitResponse, error) {
	out := &ratelimitsvcv3.RateLimitResponse{OverallCode: ratelimitsvcv3.RateLimitResponse_OK}
	for range r.GetDescriptors() {
		out.Statuses = append(out.Statuses, &ratelimitsvcv3.RateLimitResponse_DescriptorStatus{Code: ratelimitsvcv3.RateLimitResponse_OK})
	}
	return out, nil
}

// server is a server's process, as the client sees it.
type server struct {
	cmd     *exec.Cmd
	address string
}

func start(role string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", role)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s does not start: %w", role, err)
	}
	return &server{cmd, strings.TrimSpace(address)}, nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// cpu is what the process has used.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// resident is in MB.
func (s *server) resident() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize()) / 1e6
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
