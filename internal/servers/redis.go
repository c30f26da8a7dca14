package servers

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Redis is a running Redis, or a Sentinel.
type Redis struct {
	*Process
	Address string // HOST:PORT
	Login   string // USER PASSWORD, of a test that asks
	tls     bool
	command Command
}

// StartRedis runs Redis with its data and log in dir; args are options of its own, such as "--maxmemory 10mb". It keeps
// nothing on disk.
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
	listen := []string{"--port", port}
	tls := slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--tls-cert-file") })
	if tls {
		listen = []string{"--port", "0", "--tls-port", port}
	}
	all := append(listen, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
	for _, a := range args {
		all = append(all, strings.Fields(a)...)
	}
	r := &Redis{Address: address, tls: tls, command: Command{Name: "redis", Path: path, Args: all, Log: filepath.Join(dir, "redis.log")}}
	return r, r.Restart(ctx)
}

// Restart starts it again after it was killed, as empty as its settings have it.
func (r *Redis) Restart(ctx context.Context) error {
	started, err := Start(r.command)
	if err != nil {
		return err
	}
	r.Process = started
	if err := r.wait(ctx, r.Address, func(context.Context) bool { return r.ping() == nil }); err != nil {
		r.Stop()
		return err
	}
	return nil
}

// ping gives an error unless the server answers; that it wants a password will do.
func (r *Redis) ping() error {
	if r.tls {
		c, err := net.DialTimeout("tcp", r.Address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	return r.Do("PING")
}

// Freeze stops it without ending it, until Thaw.
func (r *Redis) Freeze() { r.signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (r *Redis) Thaw() { r.signal(syscall.SIGCONT) }

// Do sends a command, and gives an error unless something comes back.
func (r *Redis) Do(words ...string) error {
	_, err := r.Ask(words...)
	return err
}

// Ask sends a command and gives the first line of the answer, whatever it says.
func (r *Redis) Ask(words ...string) (line string, err error) {
	err = r.talk(words, func(answer *bufio.Reader) error {
		line, err = answer.ReadString('\n')
		line = strings.TrimSpace(line)
		return err
	})
	return line, err
}

// Info gives a section of what Redis tells of itself.
func (r *Redis) Info(section string) (string, error) { return r.bulk("INFO", section) }

// bulk sends a command whose answer is a bulk string, and gives that.
func (r *Redis) bulk(words ...string) (text string, err error) {
	err = r.talk(words, func(answer *bufio.Reader) error {
		var n int
		if _, err := fmt.Fscanf(answer, "$%d\r\n", &n); err != nil {
			return err
		}
		all := make([]byte, n)
		_, err := io.ReadFull(answer, all)
		text = string(all)
		return err
	})
	return text, err
}

func (r *Redis) talk(words []string, read func(answer *bufio.Reader) error) error {
	c, err := net.DialTimeout("tcp", r.Address, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second)) // an error comes when it is used
	answer := bufio.NewReader(c)
	if r.Login != "" {
		if _, err := fmt.Fprintf(c, "AUTH %s\r\n", r.Login); err != nil {
			return err
		}
		if line, err := answer.ReadString('\n'); err != nil || line != "+OK\r\n" {
			return fmt.Errorf("log in: %s %w", line, err)
		}
	}
	if _, err := fmt.Fprintf(c, "%s\r\n", strings.Join(words, " ")); err != nil {
		return err
	}
	return read(answer)
}

// RunRedis is StartRedis for a test.
func RunRedis(tb TB, args ...string) *Redis {
	tb.Helper()
	r, err := StartRedis(context.Background(), tb.TempDir(), args...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		r.Thaw()
		r.Stop()
		if tb.Failed() {
			tb.Logf("%s said at last:\n%s", r.Name, r.Tail(2000))
		}
	})
	return r
}

// StartRedisSentinel runs a Sentinel with its configuration and log in dir, which knows a server as "main" and lets its
// replica take over when it has been silent for half a second; more are lines of its configuration.
func StartRedisSentinel(ctx context.Context, dir string, master *Redis, more ...string) (*Redis, error) {
	file := filepath.Join(dir, "sentinel.conf")
	host, port, _ := net.SplitHostPort(master.Address)
	text := fmt.Sprintf("sentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n", host, port) + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	path, err := Tool("redis-server")
	if err != nil {
		return nil, err
	}
	address, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, own, _ := net.SplitHostPort(address)
	r := &Redis{Address: address, command: Command{
		Name: "sentinel", Path: path, Args: []string{file, "--sentinel", "--port", own, "--bind", "127.0.0.1"}, Log: filepath.Join(dir, "sentinel.log"),
	}}
	return r, r.Restart(ctx)
}

// RedisSentinel is StartRedisSentinel for a test.
func RedisSentinel(tb TB, master *Redis, more ...string) *Redis {
	tb.Helper()
	r, err := StartRedisSentinel(context.Background(), tb.TempDir(), master, more...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(r.Stop)
	return r
}

// RedisCluster runs a Cluster of so many servers for a test.
func RedisCluster(tb TB, n int) []*Redis {
	tb.Helper()
	all, buses := make([]*Redis, n), make([]string, n)
	for i := range all {
		bus, err := FreePort(context.Background())
		if err != nil {
			tb.Fatalf("%v", err)
		}
		buses[i] = fmt.Sprint(bus)
		all[i] = RunRedis(tb, clusterOptions(bus)...)
	}
	const slots = 16384
	for i, r := range all {
		host, port, _ := net.SplitHostPort(r.Address)
		must := func(words ...string) {
			if line, err := all[i].Ask(words...); err != nil || !strings.HasPrefix(line, "+OK") {
				tb.Fatalf("%s: %s %v", strings.Join(words, " "), line, err)
			}
		}
		must("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/n), fmt.Sprint((i+1)*slots/n-1))
		must("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i > 0 {
			if line, err := all[0].Ask("CLUSTER", "MEET", host, port, buses[i]); err != nil || line != "+OK" {
				tb.Fatalf("meet: %s %v", line, err)
			}
		}
	}
	for _, r := range all { // until each knows all slots
		deadline := time.Now().Add(30 * time.Second)
		for !r.knowsAll() {
			if time.Now().After(deadline) {
				tb.Fatalf("the cluster does not come together:\n%s", r.Tail(2000))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return all
}

func (r *Redis) knowsAll() bool {
	text, err := r.bulk("CLUSTER", "INFO")
	return err == nil && strings.Contains(text, "cluster_state:ok") && strings.Contains(text, "cluster_slots_assigned:16384")
}

// Offset is how much has been written, or with a replica how much of that it has.
func (r *Redis) Offset() (n int, err error) {
	text, err := r.Info("replication")
	if err != nil {
		return 0, err
	}
	_, text, _ = strings.Cut(text, "master_repl_offset:")
	_, err = fmt.Sscanf(text, "%d", &n)
	return n, err
}

// RedisClusterReplica runs a replica of the first server of a Cluster for a test, which takes over when that dies.
func RedisClusterReplica(tb TB, cluster []*Redis) *Redis {
	tb.Helper()
	bus, err := FreePort(context.Background())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	r := RunRedis(tb, clusterOptions(bus)...)
	of := cluster[0]
	host, port, _ := net.SplitHostPort(r.Address)
	if line, err := of.Ask("CLUSTER", "MEET", host, port, fmt.Sprint(bus)); err != nil || line != "+OK" {
		tb.Fatalf("meet: %s %v", line, err)
	}
	id, err := of.bulk("CLUSTER", "MYID")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	wait := func(what string, holds func() bool) {
		tb.Helper()
		for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				tb.Fatalf("%s: not within 30 s:\n%s", what, r.Tail(2000))
			}
		}
	}
	wait("it knows whose replica it is to be", func() bool {
		line, err := r.Ask("CLUSTER", "REPLICATE", id)
		return err == nil && line == "+OK"
	})
	wait("it follows", func() bool {
		text, err := r.Info("replication")
		return err == nil && strings.Contains(text, "master_link_status:up")
	})
	for _, one := range append([]*Redis{r}, cluster...) {
		wait("all know each other", func() bool {
			text, err := one.bulk("CLUSTER", "NODES")
			return err == nil && strings.Count(text, " connected") == len(cluster)+1 && strings.Contains(text, "slave "+id) && !strings.Contains(text, "handshake")
		})
	}
	return r
}

func clusterOptions(bus int) []string {
	return []string{"--cluster-enabled yes", fmt.Sprintf("--cluster-port %d", bus), "--cluster-node-timeout 1000", "--cluster-require-full-coverage no", "--cluster-replica-validity-factor 0"}
}

// RedisCertificate writes a certificate for 127.0.0.1 that signs itself, with its key, for a test of TLS.
func RedisCertificate(tb TB) (cert, key string) {
	tb.Helper()
	dir := tb.TempDir()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	return cert, key
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
