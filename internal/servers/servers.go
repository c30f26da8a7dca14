// Package servers starts real servers as plain processes on loopback, for tests and the demo: each with its own port
// and folder, and its output kept in a file. A server ends when its owner ends, however that happens; children that it
// has are ended with it, except where the owner itself was killed. It is for Linux.
package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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

// claims holds the locked files of the ports that FreePort has given in this process: while it lives, they stay open.
var claims sync.Map

// FreePort gives a port that nobody listens on, and that no process which lives has been given. It is below those that
// the system hands out (from 32768), so that no connection takes it before the server does, or while the server is dead.
func FreePort(ctx context.Context) (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("weir-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	var last error
	for range 1000 {
		port := 20_000 + rand.IntN(12_000)
		if last = claim(ctx, dir, port); last == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// claim locks the port's file, which the kernel unlocks when this process ends, and looks whether the port is free. The
// lock is for the tests of other packages: they run beside this one, and look for ports at the same time.
func claim(ctx context.Context, dir string, port int) error {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("port %d is another's: %w", port, err), f.Close())
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil { // most likely it is in use
		return errors.Join(err, f.Close())
	}
	claims.Store(port, f)
	return l.Close()
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
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.live(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	return p, nil
}

// live starts the process and waits until it has ended, on a thread that exists as long: the parent whose death ends
// the process is, for Linux, the thread that started it. (Envoy asks for such a signal by itself, too.)
func (p *Process) live(started chan<- error) {
	runtime.LockOSThread() // never unlocked, so that the thread ends here
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	_ = p.cmd.Wait()          // how it ended is in its log
	p.signal(syscall.SIGKILL) // to children that it left
	close(p.done)
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

// signal reaches the process and its children. One that has ended gets none: its id may be somebody else's by now.
func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may be gone already
	}
}

// Tail gives the last bytes of its log.
func (p *Process) Tail(n int) string {
	log, _ := os.ReadFile(p.Log)
	return string(log[max(0, len(log)-n):])
}

// WaitHTTP waits until a URL answers 200, the process ends, or a minute has passed.
func (p *Process) WaitHTTP(ctx context.Context, url string) error {
	return p.wait(ctx, url, func(ctx context.Context) bool { return answers(ctx, url) })
}

func (p *Process) wait(ctx context.Context, what string, answers func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx) {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended:\n%s", p.Name, p.Tail(2000))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s does not answer: %w", p.Name, what, ctx.Err())
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // one try, so that the process's end is seen between tries
	defer cancel()
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
