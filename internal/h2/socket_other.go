//go:build !unix

package h2

import "net"

type socket struct{}

func newSocket(net.Conn, func() []byte, func()) *socket { return nil }

func (*socket) Read() (int, error)        { panic("no connection is read so") }
func (*socket) Poll() int                 { panic("no connection is read so") }
func (*socket) Write([]byte) (int, error) { panic("no connection is written so") }
