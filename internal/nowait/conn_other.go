//go:build !unix

package nowait

import "net"

// Conn gives the connection as it is.
func Conn(nc net.Conn) net.Conn { return nc }
