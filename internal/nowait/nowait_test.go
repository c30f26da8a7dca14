package nowait_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/machinenativeops/weir/internal/nowait"
)

// What holds for every connection of package net holds for these.
func TestConn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := pair(t, network)
				return a, b, func() { _, _ = a.Close(), b.Close() }, nil
			})
		})
	}
}

func pair(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	a, b = plain(t, network)
	return nowait.Conn(a), nowait.Conn(b)
}

func plain(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	l, err := nettest.NewLocalListener(network)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, _ := l.Accept()
		accepted <- nc
	}()
	a, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b = <-accepted; b == nil {
		t.Fatal("not accepted")
	}
	return a, b
}

// More than the system keeps for a connection arrives in order, though writing has to wait for reading again and again.
func TestLongWrites(t *testing.T) {
	a, b := pair(t, "tcp")
	sent := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent)
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := a.Write(sent); n != len(sent) || err != nil {
			t.Errorf("wrote %d of %d: %v", n, len(sent), err)
		}
		_ = a.Close()
	})
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes of %d, the same: %v, %v", len(got), len(sent), bytes.Equal(got, sent), err)
	}
	wg.Wait()
}

func TestErrors(t *testing.T) {
	a, b := plain(t, "tcp")
	a = nowait.Conn(a)
	_ = a.SetDeadline(time.Now().Add(-time.Second))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read too late: %v", err)
	}
	if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write too late: %d, %v", n, err)
	}
	_ = a.SetDeadline(time.Time{})
	_ = b.(*net.TCPConn).SetLinger(0)
	_ = b.Close()
	var op *net.OpError
	if _, err := a.Read(make([]byte, 1)); !errors.As(err, &op) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a read of what was reset: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write to what was reset: %v", err)
	}
	_ = a.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of what is closed: %v", err)
	}
}

// What is no socket of the system is given back as it is.
func TestNoSocket(t *testing.T) {
	a, _ := net.Pipe()
	if nowait.Conn(a) != a {
		t.Error("a pipe is wrapped")
	}
}

func TestNoGarbage(t *testing.T) {
	a, b := pair(t, "tcp")
	buf := make([]byte, 64)
	if n := testing.AllocsPerRun(200, func() {
		_, _ = a.Write(buf)
		_, _ = io.ReadFull(b, buf)
	}); n > 0 {
		t.Errorf("%v allocations to write and read", n)
	}
}
