package servers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
)

// ownerVariable makes the test binary an owner of a server, for a test that kills it. Its value is the server's log.
const ownerVariable = "WEIR_TEST_OWNER"

func TestMain(m *testing.M) {
	if log := os.Getenv(ownerVariable); log != "" {
		own(log)
	}
	os.Exit(m.Run())
}

func own(log string) {
	if _, err := servers.Start(shell(log, "echo $$; exec sleep 1000")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

func shell(log, script string) servers.Command {
	return servers.Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, Log: log}
}

func logFile(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "log")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// said waits for the process id that a server writes as its first line.
func said(t *testing.T, log string) (pid int) {
	t.Helper()
	eventually(t, "the server writes an id", func() bool {
		text, _ := os.ReadFile(log)
		line, _, ok := bytes.Cut(text, []byte("\n"))
		var err error
		pid, err = strconv.Atoi(string(line))
		return ok && err == nil
	})
	return pid
}

// gone says whether a process has ended; whether somebody has asked how does not matter.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

func TestStopEndsChildrenToo(t *testing.T) {
	log := logFile(t)
	p := servers.StartProcess(t, shell(log, "sleep 1000 & echo $!; wait"))
	child := said(t, log)
	if gone(child) || gone(p.PID()) {
		t.Fatal("it ended by itself")
	}
	p.Stop()
	if !gone(p.PID()) {
		t.Error("it is still there after Stop")
	}
	eventually(t, "its child is gone", func() bool { return gone(child) })
	p.Stop() // once more does nothing
}

func TestCrashEndsChildrenToo(t *testing.T) {
	log := logFile(t)
	p := servers.StartProcess(t, shell(log, "sleep 1000 & echo $!"))
	child := said(t, log)
	<-p.Done()
	eventually(t, "its child is gone", func() bool { return gone(child) })
}

func TestStopInsists(t *testing.T) {
	t.Parallel()
	log := logFile(t)
	p := servers.StartProcess(t, shell(log, "trap '' TERM; echo $$; while :; do sleep 1; done"))
	said(t, log)
	p.Stop()
	if !gone(p.PID()) {
		t.Error("it is still there after Stop")
	}
}

func TestNothingOutlivesAKilledOwner(t *testing.T) {
	log := logFile(t)
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerVariable+"="+log)
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	server := said(t, log)
	if gone(server) {
		t.Fatal("it ended by itself")
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := owner.Wait(); err == nil {
		t.Fatal("the owner ended well, though it was killed")
	}
	eventually(t, "the server is gone", func() bool { return gone(server) })
}

func TestStartTellsWhatIsMissing(t *testing.T) {
	_, err := servers.Start(servers.Command{Name: "nothing", Path: "/no/such/program", Log: logFile(t)})
	if err == nil || !strings.Contains(err.Error(), "start nothing") {
		t.Errorf("got %v, want an error that names it", err)
	}
}

func TestWaitHTTP(t *testing.T) {
	ready := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer ready.Close()
	lives := servers.StartProcess(t, shell(logFile(t), "exec sleep 1000"))
	if err := lives.WaitHTTP(t.Context(), ready.URL); err != nil {
		t.Error(err)
	}

	address, err := servers.FreeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ends := servers.StartProcess(t, shell(logFile(t), "echo no port for me; exit 1"))
	if err := ends.WaitHTTP(t.Context(), "http://"+address); err == nil || !strings.Contains(err.Error(), "no port for me") {
		t.Errorf("got %v, want an error with what the server said", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := lives.WaitHTTP(ctx, "http://"+address); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("got %v, want that it is not ready", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	seen := make(map[int]bool)
	for range 500 {
		port, err := servers.FreePort(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port >= 32768 {
			t.Errorf("port %d: given twice, or one that the system gives to others", port)
		}
		seen[port] = true
	}
}

// TestPortsAreClaimed: the tests of other packages run at the same time, and find that the port is given.
func TestPortsAreClaimed(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	port, err := servers.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command("flock", "--nonblock", filepath.Join(os.TempDir(), fmt.Sprintf("weir-ports-%d", os.Getuid()), strconv.Itoa(port)), "true")
	if out, err := other.CombinedOutput(); err == nil {
		t.Errorf("another process could claim port %d too: %s", port, out)
	}
}

func TestTool(t *testing.T) {
	t.Setenv("ENVOY", "/opt/envoy")
	if path, err := servers.Tool("envoy"); path != "/opt/envoy" || err != nil {
		t.Errorf("got %q, %v; want the Envoy that ENVOY names", path, err)
	}
	if path, err := servers.Tool("no-such-tool"); err == nil {
		t.Errorf("got %q for a tool that does not exist", path)
	}
}

func TestRedis(t *testing.T) {
	r := servers.RunRedis(t)
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 7)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "+PONG\r\n" {
		t.Errorf("got %q, %v", answer, err)
	}
}
