package servers

import (
	"context"
	"net"
	"path/filepath"
)

// Redis is a running Redis, which keeps nothing on disk.
type Redis struct {
	Process *Process
	Address string // HOST:PORT
}

// StartRedis runs Redis with its log in dir; args are options of its own, such as "--maxmemory", "10mb".
func StartRedis(ctx context.Context, dir string, args ...string) (*Redis, error) {
	path, err := Tool("redis-server")
	if err != nil {
		return nil, err
	}
	address, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	r := &Redis{Address: address}
	r.Process, err = Start(Command{
		Name: "redis", Path: path, Log: filepath.Join(dir, "redis.log"),
		Args: append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no"}, args...),
	})
	if err != nil {
		return nil, err
	}
	if err := r.Process.WaitTCP(ctx, address); err != nil {
		r.Process.Stop()
		return nil, err
	}
	return r, nil
}

// RunRedis is StartRedis for a test.
func RunRedis(tb TB, args ...string) *Redis {
	tb.Helper()
	r, err := StartRedis(context.Background(), tb.TempDir(), args...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(r.Process.Stop)
	return r
}

// WaitTCP waits until something listens at an address, the process ends, or a minute has passed.
func (p *Process) WaitTCP(ctx context.Context, address string) error {
	return p.wait(ctx, address, func(ctx context.Context) bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}
