package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/redis"
)

const (
	domain     = mesh.LimitDomain
	serviceKey = mesh.LimitKey
)

// service is the ID of its limit, as Weir makes it of the document [document] has.
func service(n int) string { return "limit/shop/service-" + strconv.Itoa(n) + "/0" }

// serve is the process of a server. It tells its address on standard output and runs until it is killed.
func serve(role, redisAddress string) error {
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
	var o ratelimit.Options
	if redisAddress != "" {
		if o.Store, err = shared(role, redisAddress); err != nil {
			return err
		}
	}
	s := ratelimit.New(slog.New(slog.DiscardHandler), o)
	s.Apply(limits())
	g := grpc.NewServer(ratelimit.GRPCOptions()...)
	s.Register(g)
	if role == "weir-grpc" {
		return g.Serve(l)
	}
	return s.Server(g).Serve(l)
}

// shared gives a store in Redis, which is asked about each question, or leases parts of limits.
func shared(role, address string) (ratelimit.Store, error) {
	o := redis.Options{URLs: []string{"redis://" + address}, Timeout: time.Second}
	if role != "weir-redis" {
		o.Lease, o.Ahead = redis.DefaultLease, redis.DefaultAhead
	}
	store, err := redis.New(slog.New(slog.DiscardHandler), o)
	if err != nil {
		return nil, err
	}
	go func() { _ = store.Run(context.Background()) }()
	return store, store.Ready(context.Background())
}

func limits() []*mesh.Limit {
	var out []*mesh.Limit
	for n := range services {
		out = append(out, &mesh.Limit{
			ID: service(n), By: []policy.LimitBy{{Header: "x-user"}}, Requests: requests, Burst: requests, Per: time.Second,
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

// server is a server's process, as the client sees it, and the Redis that it has to itself, if it has one.
type server struct {
	address    string
	pid, redis int    // redis is 0 without one
	http       string // of the program weir
	store      *servers.Redis
	end        []func()
}

func (s *server) stop() {
	for _, end := range s.end {
		end()
	}
}

// start starts the server of a plane.
func start(plane string) (*server, error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{end: []func(){func() { _ = os.RemoveAll(dir) }}}
	switch plane {
	case "peer":
		err = s.startPeer(dir)
	case "peer-cache": // which keeps the keys that are over their limit
		err = s.startPeer(dir, "LOCAL_CACHE_SIZE_IN_BYTES=100000000")
	case "weir-redis", "weir-lease":
		var redis string
		if redis, err = s.startRedis(context.Background(), dir); err == nil {
			err = s.startSelf(plane, "-redis", redis)
		}
	default:
		err = s.startSelf(plane)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%s: %w", plane, err)
	}
	return s, nil
}

func (s *server) startSelf(role string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"-role", role}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.end = append([]func(){func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }}, s.end...)
	s.pid = cmd.Process.Pid
	address, err := bufio.NewReader(out).ReadString('\n')
	s.address = strings.TrimSpace(address)
	return err
}

func (s *server) startRedis(ctx context.Context, dir string, args ...string) (string, error) {
	r, err := servers.StartRedis(ctx, dir, args...)
	if err != nil {
		return "", err
	}
	s.end = append([]func(){func() { r.Thaw(); r.Stop() }}, s.end...) // it may be another process by then
	s.redis, s.store = r.PID(), r
	return r.Address, nil
}

// startPeer starts envoyproxy/ratelimit as it comes, but for its statistics, which are off.
func (s *server) startPeer(dir string, env ...string) error {
	ctx := context.Background()
	path, err := servers.Tool("ratelimit")
	if err != nil {
		return err
	}
	redis, err := s.startRedis(ctx, dir)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "ratelimit", "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(config, "limits.yaml"), peerLimits(), 0o600); err != nil {
		return err
	}
	var ports [3]string
	for i := range ports {
		port, err := servers.FreePort(ctx)
		if err != nil {
			return err
		}
		ports[i] = strconv.Itoa(port)
	}
	p, err := servers.Start(servers.Command{
		Name: "ratelimit", Path: path, Log: filepath.Join(dir, "ratelimit.log"),
		Env: append([]string{
			"RUNTIME_ROOT=" + dir, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false",
			"HOST=127.0.0.1", "PORT=" + ports[0], "GRPC_HOST=127.0.0.1", "GRPC_PORT=" + ports[1], "DEBUG_HOST=127.0.0.1", "DEBUG_PORT=" + ports[2],
			"BACKEND_TYPE=redis", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + redis, "USE_STATSD=false", "DISABLE_STATS=true", "LOG_LEVEL=error",
		}, env...),
	})
	if err != nil {
		return err
	}
	s.end = append([]func(){p.Stop}, s.end...)
	s.pid, s.address = p.PID(), "127.0.0.1:"+ports[1]
	return p.WaitHTTP(ctx, "http://127.0.0.1:"+ports[0]+"/healthcheck")
}

// peerLimits are limits as envoyproxy/ratelimit reads them.
func peerLimits() []byte {
	out := []byte("domain: " + domain + "\ndescriptors:\n")
	for _, l := range limits() {
		out = fmt.Appendf(out, "- {key: %s, value: %s, descriptors: [{key: x-user, rate_limit: {unit: second, requests_per_unit: %d}}]}\n", serviceKey, l.ID, l.Requests)
	}
	return out
}

// cpu is what a process has used; none if there is none.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// resident is in MB.
func resident(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
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
