package serve_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// TestConvergence: whatever happens on the way (changes, refusals, lost connections, restarts, silence), every client
// ends with exactly what is served, and nothing that anyone refuses.
func TestConvergence(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			story(t, func(w *world) { newChaos(w, seed).run() })
		})
	}
}

type chaos struct {
	*world
	random  *rand.Rand
	clients []*client
	proxies []mesh.Proxy
	current map[string]string
	refuse  map[string]bool // shared by all clients
}

func newChaos(w *world, seed uint64) *chaos {
	h := &chaos{
		world: w, random: rand.New(rand.NewPCG(seed, 7)), current: with(first), refuse: make(map[string]bool),
		proxies: []mesh.Proxy{edge, other, edge, other},
	}
	for n := range h.proxies {
		h.clients = append(h.clients, nil)
		h.connect(n)
	}
	return h
}

func (h *chaos) connect(n int) {
	earlier := h.clients[n]
	if n < 2 {
		h.clients[n] = h.world.connect(h.proxies[n], earlier)
	} else {
		h.clients[n] = h.connectSotW(h.proxies[n], earlier)
	}
	h.clients[n].refuse = h.refuse
}

func (h *chaos) run() {
	for i := range 80 {
		h.event(i)
	}
	for n, c := range h.clients {
		c.cancel()
		h.connect(n)
	}
	settle(h.clients...)
	for range 3 {
		time.Sleep(serve.Patience + time.Millisecond)
		settle(h.clients...)
	}
	h.server.Apply(snapshot(h.current))
	settle(h.clients...)
	for n := range h.clients {
		h.check(n)
	}
}

func (h *chaos) event(i int) {
	keys := []string{"c a", "c b", "c c", "e a", "e b", "e c", "l x", "l y", "r a", "r b", "r c"}
	n := h.random.IntN(len(h.clients))
	switch p := h.random.IntN(100); {
	case p < 45:
		version := "v" + strconv.Itoa(i)
		switch h.random.IntN(6) {
		case 0:
			version = ""
		case 1:
			h.refuse[version] = true
		}
		synctest.Wait() // what clients refuse is theirs to change only while they rest
		h.current = with(h.current, keys[h.random.IntN(len(keys))], version)
		h.server.Apply(snapshot(h.current))
	case p < 60:
		h.clients[n].cancel()
		h.connect(n)
	case p < 63:
		h.server.Apply(xds.NewSnapshot(map[mesh.Proxy]xds.View{other: viewOf(h.current)}))
	case p < 66:
		h.restart()
		h.server.Apply(snapshot(h.current))
		for n, c := range h.clients {
			c.cancel()
			h.connect(n)
		}
	case p < 70:
		time.Sleep(serve.Patience)
	case p < 90:
		synctest.Wait()
		h.clients[n].step()
	default:
		settle(h.clients...)
	}
}

func (h *chaos) check(n int) {
	h.t.Helper()
	c := h.clients[n]
	served, held := h.server.Effective(h.proxies[n], n >= 2)
	for _, kind := range xds.Types {
		for name, version := range served[kind] {
			if got := c.applied[kind][name]; got != version {
				h.t.Errorf("client %d: %s %s is %q, served is %q", n, kind, name, got, version)
			}
			if h.refuse[version] {
				h.t.Errorf("served: %s %s %s, which is refused", kind, name, version)
			}
		}
		named := kind == xds.EndpointType || kind == xds.RouteType
		for name, version := range c.applied[kind] {
			excused := n >= 2 && named || c.orphans[kind+name] // state-of-the-world can't take away what is named
			if served[kind][name] == "" && !held[kind][name] && !excused {
				h.t.Errorf("client %d: has %s %s %s, which is not served", n, kind, name, version)
			}
		}
		for name := range held[kind] {
			if v := h.current[short(kind)+" "+name]; !h.refuse[v] {
				h.t.Errorf("held: %s %s, whose version %q nobody refuses", kind, name, v)
			}
		}
	}
	for name := range c.warming {
		if served[xds.EndpointType][name] != "" && served[xds.ClusterType][name] != "" {
			h.t.Errorf("client %d: cluster %s waits for its endpoints", n, name)
		}
	}
}

func short(kind string) string {
	for k, v := range kinds {
		if v == kind {
			return k
		}
	}
	return ""
}
