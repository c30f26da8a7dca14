package source

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// closed says whether a file is known to be written to its end: it is gone, or nobody has it open for writing, which is
// when the system grants a lease on reading it (and takes it back with the descriptor). It grants them to a file's owner only.
func closed(name string) bool {
	if !isPolicy(name) {
		return false
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // which waits for no writer of a pipe
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = f.Close() }()
	_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, syscall.F_RDLCK)
	return errno == 0
}
