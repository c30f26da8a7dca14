package e2e_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// replicas is a service with affinity over endpoints, whose responses say the edition.
func replicas(endpoints []*envoytest.Server, spec, edition string) string {
	var list strings.Builder
	for _, e := range endpoints {
		fmt.Fprintf(&list, "      - {address: 127.0.0.1, port: %s}\n", port(e.Address))
	}
	return fmt.Sprintf(`
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  hosts: [checkout.example.com]
  %s
  endpoints:
    static:
%s
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec: {service: checkout, rules: [{responseHeaders: {set: {x-edition: "%s"}}}]}
`, spec, list.String(), edition)
}

// TestAScaleOutMovesFewSessions: those that the new endpoint takes, and none while nothing changes.
func TestAScaleOutMovesFewSessions(t *testing.T) {
	for _, c := range []struct {
		policy   string
		from     int
		sessions int
		most     float64 // share that may move
		others   float64 // share that may move between old endpoints
	}{
		{"ring_hash", 5, 3000, 0.22, 0},
		{"ring_hash", 10, 10_000, 0.12, 0},
		{"maglev", 10, 10_000, 0.12, 0.02},
	} {
		t.Run(fmt.Sprint(c.policy, " ", c.from), func(t *testing.T) {
			all := make([]*envoytest.Server, c.from+1)
			for i := range all {
				all[i] = envoytest.Upstream(t, fmt.Sprint("e", i))
			}
			spec := "affinity: {header: x-user-id}\n  loadBalancing: {policy: " + c.policy + "}"
			w := newWorld(t, replicas(all[:c.from], spec, "before"))
			ask := func() []string {
				who := make([]string, c.sessions)
				each(c.sessions, func(i int) { who[i], _ = w.answered("X-User-Id", fmt.Sprint("user-", i)) })
				return who
			}
			w.editionIs("before")
			before := ask()
			if c.from == 5 && !slices.Equal(ask(), before) {
				t.Error("sessions move while nothing changes")
			}
			w.write("mesh.yaml", replicas(all, spec, "after"))
			w.editionIs("after")
			last := all[c.from].Name
			w.eventually("the new endpoint is used", func() error {
				for i := range 200 {
					if who, _ := w.answered("X-User-Id", fmt.Sprint("user-", i)); who == last {
						return nil
					}
				}
				return fmt.Errorf("it is not")
			})
			moved, others, load := 0, 0, map[string]int{}
			for i, who := range ask() {
				load[who]++
				if who == before[i] {
					continue
				}
				moved++
				if who != last {
					others++
				}
			}
			share := float64(moved) / float64(c.sessions)
			t.Logf("%s, %d to %d endpoints: %.1f %% of %d sessions move (1/%d is %.1f %%), %d of them between old ones; an endpoint has from %d to %d",
				c.policy, c.from, c.from+1, 100*share, c.sessions, c.from+1, 100/float64(c.from+1), others,
				slices.Min(slices.Collect(maps.Values(load))), slices.Max(slices.Collect(maps.Values(load))))
			if share > c.most || share < 0.5/float64(c.from+1) || float64(others) > c.others*float64(c.sessions) {
				t.Errorf("%.1f %% of the sessions move, %d of them between old endpoints", 100*share, others)
			}
		})
	}
}

// TestAffinityInACanary: no session changes its version or endpoint, by a cookie that the proxy makes, and a larger
// share leaves those where they are that it isn't about.
func TestAffinityInACanary(t *testing.T) {
	var all []*envoytest.Server
	for _, name := range []string{"v1-a", "v1-b", "v1-c", "v2-a", "v2-b"} {
		all = append(all, envoytest.Upstream(t, name))
	}
	canary := func(w1, w2 int, edition string) string {
		text := sticky(all, "", fmt.Sprintf("{version: v1, weight: %d}, {version: v2, weight: %d}", w1, w2), edition)
		return strings.Replace(text, "  endpoints:\n", "  affinity: {cookie: {name: ab, ttl: 1h}}\n  endpoints:\n", 1)
	}
	w := newWorld(t, canary(90, 10, "first"))
	w.editionIs("first")
	const sessions = 300
	cookies, had := make([]string, sessions), make([]string, sessions)
	each(sessions, func(i int) {
		first, set := w.answered("Cookie", "")
		if len(set) != 1 || madeCookie.FindStringSubmatch(set[0]) == nil {
			t.Errorf("a new session is given %q", set)
			return
		}
		had[i], cookies[i] = first, madeCookie.FindStringSubmatch(set[0])[1]
		for range 4 {
			if again, _ := w.answered("Cookie", cookies[i]); again != first {
				t.Errorf("session %d was answered by %s, and then by %s", i, first, again)
			}
		}
	})
	for _, e := range all {
		if !slices.Contains(had, e.Name) {
			t.Errorf("no session of %d is at %s", sessions, e.Name)
		}
	}
	w.write("mesh.yaml", canary(70, 30, "second"))
	w.editionIs("second")
	each(sessions, func(i int) {
		if now, _ := w.answered("Cookie", cookies[i]); now != had[i] && (had[i][:2] != "v1" || now[:2] != "v2") {
			t.Errorf("session %d was at %s, and is at %s", i, had[i], now)
		}
	})
}

// TestBoundedLoad: of requests that are all one user's, no endpoint has more at once than its bound.
func TestBoundedLoad(t *testing.T) {
	const endpoints, requests = 4, 40
	for _, lb := range []string{"ring_hash", "maglev"} {
		release, all := make(chan struct{}), make([]*envoytest.Server, endpoints)
		for i := range all {
			all[i] = envoytest.Upstream(t, fmt.Sprint("e", i))
			all[i].Handle = func(http.ResponseWriter, *http.Request) bool { <-release; return false }
		}
		end := sync.OnceFunc(func() { close(release) })
		t.Cleanup(end)
		w := newWorld(t, replicas(all, "affinity: {header: x-user-id}\n  loadBalancing: {policy: "+lb+", hashBalanceFactor: 150}", "first"))
		loads := func() (each []int64, sum int64) {
			for _, e := range all {
				each = append(each, e.Requests.Load())
				sum += e.Requests.Load()
			}
			return each, sum
		}
		var group sync.WaitGroup
		for i := range requests { // one after the other: an endpoint's load is what has arrived there
			group.Go(func() { w.answered("X-User-Id", "me") })
			w.eventually("the request is held", func() error {
				if _, sum := loads(); int(sum) <= i {
					return fmt.Errorf("%d are", sum)
				}
				return nil
			})
		}
		got, _ := loads()
		end()
		group.Wait()
		t.Logf("%s: %d requests of one user held, one after the other: %v", lb, requests, got)
		if most := slices.Max(got); most > 3*requests/endpoints/2+1 { // it rounds up
			t.Errorf("%s: an endpoint has %d of %d requests, want at most 150 %% of %d", lb, most, requests, requests/endpoints)
		}
	}
}

// TestAffinityBySourceAddress: each address that requests come from has its endpoint, whatever it sends and over
// whatever connection, and they are spread.
func TestAffinityBySourceAddress(t *testing.T) {
	all := make([]*envoytest.Server, 5)
	for i := range all {
		all[i] = envoytest.Upstream(t, fmt.Sprint("e", i))
	}
	for _, lb := range []string{"ring_hash", "maglev"} {
		w := newWorld(t, replicas(all, "affinity: {sourceAddress: true}\n  loadBalancing: {policy: "+lb+"}", "first"))
		w.editionIs("first")
		used := make(map[string]int)
		for i := range 40 {
			from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i))}}
			client := *w
			client.client = &http.Client{Timeout: w.client.Timeout, Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
			first := client.mustDo(checkout).body
			for j := range 5 {
				got := client.mustDo(request{host: checkout.host, path: fmt.Sprint("/", j), headers: map[string]string{"X-User-Id": fmt.Sprint(j)}})
				if got.body != first {
					t.Errorf("%s: requests from %s were answered by %s, and then by %s", lb, from.LocalAddr, first, got.body)
				}
			}
			used[first]++
		}
		t.Logf("%s: %v", lb, used)
		if len(used) < 4 {
			t.Errorf("%s: 40 addresses are at %d endpoints of 5: %v", lb, len(used), used)
		}
	}
}
