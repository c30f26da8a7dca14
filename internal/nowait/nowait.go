// Package nowait reads and writes sockets without telling the scheduler of it, as Go itself does for its poller.
//
// A system call made by package syscall is announced, so that the scheduler may run something else if it takes long,
// and wakes its monitor, which then looks every 20 microseconds. What never waits needs neither, and for a process that
// sleeps between short bursts of work, as one does that answers questions, they are a fifth of its CPU time.
//
// What is lost: while nothing else in the process makes a system call, no timer fires, and no garbage is collected, a goroutine
// that computes for long is not interrupted for others on its processor. Who may be about to do that calls [Announce].
package nowait

import "net"

// Listener gives the same listener, whose connections are read and written so.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Conn(nc), nil
}
