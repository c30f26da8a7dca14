//go:build unix && !(linux && (amd64 || arm64) && !race)

package nowait

import (
	"errors"
	"syscall"
)

// Read reads what a socket has, and gives EAGAIN where that is nothing. 0 is the end.
func Read(fd int, b []byte) (int, error) { return call(syscall.Read, fd, b) }

// Write writes as much as a socket has room for, and gives EAGAIN where that is nothing.
func Write(fd int, b []byte) (int, error) { return call(syscall.Write, fd, b) }

func call(f func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := f(fd, b)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return 0, err
		}
	}
}
