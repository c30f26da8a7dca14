package h2

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// gate lets so many bytes in at once. Those of one origin wait for each other in a lane, lanes take turns, and none has
// more than half of the gate: whoever comes with very much waits behind itself.
type gate struct {
	size int

	mu      sync.Mutex // guards everything below
	held    int        // bytes that are in
	lanes   map[origin]*lane
	turns   []*lane // those in which somebody waits; the first is next
	waiting int
}

// lane is of an origin of which somebody is in or waits.
type lane struct {
	held    int
	waiting []ticket // a lane is in turns if there are any
}

type ticket struct {
	n     int
	ready chan struct{} // closed when it is in
}

// origin is who a client is, as far as that is known: what it has proven by TLS, or else where it comes from.
type origin struct {
	identity string
	address  netip.Prefix
}

func originOf(nc net.Conn, state *tls.ConnectionState) origin {
	if state != nil && len(state.VerifiedChains) > 0 {
		leaf := state.VerifiedChains[0][0]
		if len(leaf.URIs) > 0 { // SPIFFE
			return origin{identity: leaf.URIs[0].String()}
		}
		return origin{identity: string(leaf.RawSubject)}
	}
	tcp, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return origin{}
	}
	address := tcp.AddrPort().Addr().Unmap()
	bits := 64 // of IPv6, those of one network
	if address.Is4() {
		bits = 32
	}
	network, _ := address.WithZone("").Prefix(bits) // there are as many
	return origin{address: network}
}

// enter asks for n bytes, at most half of the gate's. Nil says that they are in; else they are when ready is closed.
func (g *gate) enter(of origin, n int) (ready <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lanes == nil {
		g.lanes = make(map[origin]*lane)
	}
	l := g.lanes[of]
	if l == nil {
		l = new(lane)
		g.lanes[of] = l
	}
	if g.waiting == 0 && g.fits(l, n) {
		g.held, l.held = g.held+n, l.held+n
		return nil
	}
	if len(l.waiting) == 0 {
		g.turns = append(g.turns, l)
	}
	t := ticket{n, make(chan struct{})}
	l.waiting = append(l.waiting, t)
	g.waiting++
	g.admitLocked()
	return t.ready
}

func (g *gate) fits(l *lane, n int) bool { return g.held+n <= g.size && l.held+n <= g.size/2 }

// leave gives back what has entered.
func (g *gate) leave(of origin, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[of]
	g.held, l.held = g.held-n, l.held-n
	g.admitLocked()
	if l.held == 0 && len(l.waiting) == 0 {
		delete(g.lanes, of)
	}
}

// admitLocked lets those in for whom there is room. Who is next and wants much waits until there is, and nobody goes before,
// unless it has to wait for its own lane.
func (g *gate) admitLocked() {
	for i := 0; i < len(g.turns); {
		l := g.turns[i]
		t := l.waiting[0]
		switch {
		case l.held+t.n > g.size/2:
			i++
			continue
		case g.held+t.n > g.size:
			return
		}
		g.held, l.held, g.waiting = g.held+t.n, l.held+t.n, g.waiting-1
		close(t.ready)
		g.turns = slices.Delete(g.turns, i, i+1)
		if l.waiting = l.waiting[1:]; len(l.waiting) > 0 {
			g.turns = append(g.turns, l)
		} else {
			l.waiting = nil
		}
	}
}

// busy says whether somebody waits.
func (g *gate) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting > 0
}
