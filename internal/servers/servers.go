// Package servers starts real servers as plain processes on loopback, for tests and the demo: each with its own port
// and folder, its output kept in a file, and ended with all its children when its owner ends.
package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TB is what of testing.TB the helpers for tests need.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
	TempDir() string
	Failed() bool
}

// Tool gives the path of a tool that tools/install.sh installs, which it is asked to do. ENVOY names another Envoy.
func Tool(name string) (string, error) {
	if path := os.Getenv("ENVOY"); name == "envoy" && path != "" {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(root, "tools", "install.sh"), name)
	cmd.Stderr = os.Stderr
	dir, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), name), nil
}

// MustTool is Tool for tests.
func MustTool(tb TB, name string) string {
	tb.Helper()
	path, err := Tool(name)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return path
}

// Root is the folder of the module, at or above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, e := os.Stat(filepath.Join(dir, "tools", "install.sh")); e == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the folder of the module: not at or above the working directory")
		}
	}
	return "", err
}

// FreePort gives a port that nobody listens on.
func FreePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// FreeAddress is 127.0.0.1 with a free port.
func FreeAddress(ctx context.Context) (string, error) {
	port, err := FreePort(ctx)
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// Command says what to run.
type Command struct {
	Name string // for people, and the log's name
	Path string
	Args []string
	Env  []string // beside the environment
	Log  string   // the file for its output
}

// Process is a running server.
type Process struct {
	Command
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

// Start runs a command in a process group of its own.
func Start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", c.Name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	p := &Process{Command: c, cmd: exec.Command(c.Path, c.Args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

// StartProcess runs a command for a test, which ends it and shows the end of its log if it failed.
func StartProcess(tb TB, c Command) *Process {
	tb.Helper()
	if c.Log == "" {
		c.Log = filepath.Join(tb.TempDir(), c.Name+".log")
	}
	p, err := Start(c)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		p.Stop()
		if tb.Failed() {
			tb.Logf("%s said at last:\n%s", c.Name, p.Tail(4000))
		}
	})
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop asks it to end, and makes it after five seconds.
func (p *Process) Stop() {
	p.once.Do(func() { p.signal(syscall.SIGTERM) })
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.Kill()
	}
}

// Kill ends it at once, as a crash would, and waits until it is gone.
func (p *Process) Kill() error {
	p.signal(syscall.SIGKILL)
	<-p.done
	return nil
}

func (p *Process) signal(s syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may be gone already
}

// Tail gives the last bytes of its log.
func (p *Process) Tail(n int) string {
	log, _ := os.ReadFile(p.Log)
	return string(log[max(0, len(log)-n):])
}

// WaitHTTP waits until a URL answers 200, the process ends, or a minute has passed.
func (p *Process) WaitHTTP(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, url) {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended:\n%s", p.Name, p.Tail(2000))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s does not answer: %w", p.Name, url, ctx.Err())
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
