//go:build unix

package h2

import (
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/machinenativeops/weir/internal/nowait"
)

// socket reads and writes a connection without holding a buffer while it waits for something to read, and without
// waiting for room to write. Nil where a connection is not the system's own, as with TLS.
type socket struct {
	raw syscall.RawConn

	// Of whoever reads, and of whoever writes: methods kept as values, so that a call makes no closure.
	tryRead, tryPoll, tryWrite func(fd uintptr) bool
	buffer                     func() []byte // where to read to; called when there may be something
	idle                       func()        // there is nothing to read, and the buffer is not needed until there is
	out                        []byte
	read, wrote                int
	readErr, writeErr          error
}

func newSocket(nc net.Conn, buffer func() []byte, idle func()) *socket {
	c, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw, buffer: buffer, idle: idle}
	s.tryRead, s.tryPoll, s.tryWrite = s.readNow, s.pollNow, s.writeNow
	return s
}

func (s *socket) readNow(fd uintptr) bool {
	s.read, s.readErr = nowait.Read(int(fd), s.buffer())
	if errors.Is(s.readErr, syscall.EAGAIN) {
		s.idle()
		return false
	}
	return true
}

// Read waits until there is something in the buffer.
func (s *socket) Read() (int, error) {
	if err := s.raw.Read(s.tryRead); err != nil {
		return 0, err
	}
	switch {
	case s.readErr != nil:
		return 0, s.readErr
	case s.read == 0:
		return 0, io.EOF
	}
	return s.read, nil
}

func (s *socket) pollNow(fd uintptr) bool {
	s.read, s.readErr = nowait.Read(int(fd), s.buffer())
	return true
}

// Poll reads what there is, without waiting. An end and an error are left to Read.
func (s *socket) Poll() int {
	if s.raw.Read(s.tryPoll) != nil {
		return 0
	}
	return s.read
}

func (s *socket) writeNow(fd uintptr) bool {
	s.wrote, s.writeErr = nowait.Write(int(fd), s.out)
	if errors.Is(s.writeErr, syscall.EAGAIN) {
		s.wrote, s.writeErr = 0, nil
	}
	return true
}

// Write writes as much as there is room for, and gives how much.
func (s *socket) Write(b []byte) (int, error) {
	s.out = b
	err := s.raw.Write(s.tryWrite)
	s.out = nil
	if err != nil {
		return 0, err
	}
	return s.wrote, s.writeErr
}
