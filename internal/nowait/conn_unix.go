//go:build unix

package nowait

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// Conn gives the same connection, read and written so; itself, where it is not a socket of the system.
func Conn(nc net.Conn) net.Conn {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nc
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nc
	}
	c := &conn{Conn: nc, raw: raw}
	c.in.try, c.out.try = c.readNow, c.writeNow
	return c
}

type conn struct {
	net.Conn

	raw     syscall.RawConn
	in, out half
}

// half is one direction. Its function is kept as a value, so that a call makes no closure.
type half struct {
	mu   sync.Mutex // guards everything declared below
	try  func(fd uintptr) bool
	b    []byte // to read to, or what is still to be written
	n    int
	done error
}

func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return c.Conn.Read(b)
	}
	h := &c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = b
	err := c.raw.Read(h.try)
	h.b = nil
	switch {
	case err != nil:
		return 0, err
	case h.done != nil:
		return 0, c.failed("read", h.done)
	case h.n == 0:
		return 0, io.EOF
	}
	return h.n, nil
}

func (c *conn) readNow(fd uintptr) bool {
	h := &c.in
	h.n, h.done = Read(int(fd), h.b)
	return !errors.Is(h.done, syscall.EAGAIN)
}

func (c *conn) Write(b []byte) (int, error) {
	h := &c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b, h.done = b, nil
	err := c.raw.Write(h.try)
	n := len(b) - len(h.b)
	h.b = nil
	if err == nil && h.done != nil {
		err = c.failed("write", h.done)
	}
	return n, err
}

func (c *conn) writeNow(fd uintptr) bool {
	h := &c.out
	for len(h.b) > 0 {
		n, err := Write(int(fd), h.b)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return false
		case err != nil:
			h.done = err
			return true
		}
		h.b = h.b[n:]
	}
	return true
}

func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
