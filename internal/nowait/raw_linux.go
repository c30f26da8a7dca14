//go:build linux && (amd64 || arm64) && !race

package nowait

import (
	"syscall"
	"unsafe"
)

// Read reads what a socket has, and gives EAGAIN where that is nothing. 0 is the end. There must be room in b.
func Read(fd int, b []byte) (int, error) {
	return call(syscall.SYS_RECVFROM, fd, b, syscall.MSG_DONTWAIT)
}

// Write writes as much as a socket has room for, and gives EAGAIN where that is nothing. There must be something in b.
func Write(fd int, b []byte) (int, error) {
	return call(syscall.SYS_SENDTO, fd, b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// Announce wakes the scheduler's monitor, so that what keeps all processors busy from now on is interrupted for others.
func Announce() { _, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) }

func call(trap uintptr, fd int, b []byte, flags uintptr) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}
