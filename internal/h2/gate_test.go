package h2

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func (g *gate) enters(t *testing.T, of string, n int) <-chan struct{} {
	t.Helper()
	return g.enter(origin{identity: of}, n)
}

func in(ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	default:
		return ready == nil
	}
}

// TestGateIsFair: however many of one origin wait, another one is let in at once where there is room, and is next where
// there is none.
func TestGateIsFair(t *testing.T) {
	g := &gate{size: 8}
	var many []<-chan struct{}
	for range 100 {
		many = append(many, g.enters(t, "many", 2))
	}
	require.True(t, in(many[0]))
	require.True(t, in(many[1]))
	require.False(t, in(many[2]), "one origin has half at most")
	require.True(t, in(g.enters(t, "a", 2)))
	require.True(t, in(g.enters(t, "b", 2)))
	c, d := g.enters(t, "c", 1), g.enters(t, "d", 1)
	require.False(t, in(c) || in(d))
	g.leave(origin{identity: "many"}, 2)
	require.True(t, in(many[2]), "it has waited for longest")
	require.False(t, in(c))
	g.leave(origin{identity: "many"}, 2)
	require.True(t, in(c))
	require.True(t, in(d), "before all that wait in a longer lane")
	require.False(t, in(many[3]))
	require.True(t, g.busy())
}

// TestGateKeepsNothing of who has left, and whoever wants much has it in the end.
func TestGateKeepsNothing(t *testing.T) {
	g := &gate{size: 8}
	require.True(t, in(g.enters(t, "a", 3)))
	require.True(t, in(g.enters(t, "b", 3)))
	much := g.enters(t, "c", 4)
	small := g.enters(t, "d", 1)
	require.False(t, in(much))
	require.False(t, in(small), "it is not its turn")
	g.leave(origin{identity: "a"}, 3)
	require.True(t, in(much))
	require.True(t, in(small))
	g.leave(origin{identity: "b"}, 3)
	g.leave(origin{identity: "c"}, 4)
	g.leave(origin{identity: "d"}, 1)
	require.Empty(t, g.lanes)
	require.Empty(t, g.turns)
	require.Zero(t, g.held)
	require.False(t, g.busy())
}

type from struct {
	net.Conn
	address string
}

func (f from) RemoteAddr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", f.address)
	if err != nil {
		panic(err)
	}
	return a
}

func TestOrigins(t *testing.T) {
	of := func(address string) origin { return originOf(from{address: address}, nil) }
	require.Equal(t, of("10.0.0.1:1"), of("10.0.0.1:2"))
	require.Equal(t, of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:2"))
	require.NotEqual(t, of("10.0.0.1:1"), of("10.0.0.2:1"))
	require.Equal(t, of("[2001:db8::1]:1"), of("[2001:db8::2:1]:1"), "of one network")
	require.NotEqual(t, of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"))
	proven := func(uri string) origin {
		u, err := url.Parse(uri)
		require.NoError(t, err)
		return originOf(from{address: "10.0.0.1:1"}, &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{URIs: []*url.URL{u}}}}})
	}
	require.NotEqual(t, proven("spiffe://a/b"), proven("spiffe://a/c"))
	require.Equal(t, of("10.0.0.1:1"), originOf(from{address: "10.0.0.1:1"}, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}), "what is not verified proves nothing")
}
