package e2e_test

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// sticky is a service with a rule over its versions, v1 and so on, whose responses say the edition. Spans go nowhere,
// but requests are traced: Envoy would write into their ids.
func sticky(versions []*envoytest.Server, key, to, edition string) string {
	var names, endpoints strings.Builder
	for _, v := range versions {
		version, _, _ := strings.Cut(v.Name, "-")
		if !strings.Contains(names.String(), "{name: "+version+"}") {
			fmt.Fprintf(&names, "{name: %s}, ", version)
		}
		fmt.Fprintf(&endpoints, "      - {address: 127.0.0.1, port: %s, labels: {version: %s}}\n", port(v.Address), version)
	}
	return fmt.Sprintf(`
kind: Mesh
metadata: {name: mesh}
spec: {tracing: {collector: "127.0.0.1:1"}}
---
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  hosts: [checkout.example.com]
  versions: [%s]
  endpoints:
    static:
%s
---
kind: Route
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  rules:
    - name: default
      to: [%s]
      responseHeaders: {set: {x-edition: "%s"}}
      %s
`, strings.TrimSuffix(names.String(), ", "), endpoints.String(), to, edition, key)
}

// each calls f with all numbers below n, from a few workers.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	group.Wait()
}

// answered gives who answers a request with a header, and the cookies that the response sets.
func (w *world) answered(name, value string) (body string, cookies []string) {
	r := request{host: checkout.host, path: "/", headers: map[string]string{}}
	if value != "" {
		r.headers[name] = value
	}
	resp, err := w.do(w.t.Context(), r)
	if err != nil || resp.status != 200 {
		w.t.Errorf("request with %s %q: %v %d %s", name, value, err, resp.status, resp.body)
	}
	return resp.body, resp.header.Values("Set-Cookie")
}

func (w *world) editionIs(edition string) {
	w.edition(w.gateway, checkout.host, edition)
}

var madeCookie = regexp.MustCompile(`^(ab=[-0-9a-f]{36}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax$`)

// TestNewUsersKeepTheirVersion: from the first request on, and while the share grows under load.
func TestNewUsersKeepTheirVersion(t *testing.T) {
	versions := []*envoytest.Server{envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")}
	const key = "sticky: {cookie: {name: ab, ttl: 1h}}"
	w := newWorld(t, sticky(versions, key, "{version: v1, weight: 90}, {version: v2, weight: 10}", "first"))
	w.editionIs("first")
	const users = 300
	cookies, had := make([]string, users), make([]string, users)
	each(users, func(i int) {
		first, set := w.answered("Cookie", "")
		if len(set) != 1 || madeCookie.FindStringSubmatch(set[0]) == nil {
			t.Errorf("a new user is given %q", set)
			return
		}
		had[i], cookies[i] = first, madeCookie.FindStringSubmatch(set[0])[1]
		for range 4 {
			if again, set := w.answered("Cookie", "a=b; "+cookies[i]); again != first || len(set) > 0 {
				t.Errorf("user %d was answered by %s, and then by %s with cookies %q", i, first, again, set)
			}
		}
	})
	if t.Failed() {
		return
	}
	before := strings.Count(strings.Join(had, " "), "v2")

	var stop atomic.Bool
	var sent atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		for !stop.Load() {
			each(users, func(i int) {
				sent.Add(1)
				if now, _ := w.answered("Cookie", cookies[i]); had[i] == "v2" && now != "v2" {
					t.Errorf("user %d had v2, and has %s", i, now)
				}
			})
		}
	})
	w.write("mesh.yaml", sticky(versions, key, "{version: v1, weight: 70}, {version: v2, weight: 30}", "second"))
	w.editionIs("second")
	stop.Store(true)
	load.Wait()
	var after atomic.Int64
	each(users, func(i int) {
		now, _ := w.answered("Cookie", cookies[i])
		if now == "v2" {
			after.Add(1)
		}
		if had[i] == "v2" && now != "v2" {
			t.Errorf("user %d had v2, and has %s", i, now)
		}
	})
	t.Logf("of %d users %d had v2 at 10 %%, and %d at 30 %%; %d requests while the share grew", users, before, after.Load(), sent.Load())
	if n := after.Load(); n < 45 || n > 140 || before < 5 || before > 65 { // 5 standard errors
		t.Errorf("%d users of %d have v2 at 10 %%, %d at 30 %%", before, users, n)
	}
}

// TestCookiesOverTLS: a cookie that is given over https is sent over nothing else.
func TestCookiesOverTLS(t *testing.T) {
	versions := []*envoytest.Server{envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")}
	a, dir := newAuthority(t), t.TempDir()
	cert, key, serial := a.issue()
	move(t, dir+"/tls.crt", cert)
	move(t, dir+"/tls.key", key)
	w, address := newSecureWorld(t, sticky(versions, "sticky: {cookie: {name: ab, ttl: 1h}}", "{version: v1}, {version: v2}", "first"), dir, "")
	w.shows(address, a.config(), serial)
	if got := w.mustDo(checkout).header.Get("Set-Cookie"); !madeCookie.MatchString(got) {
		t.Errorf("over http the cookie is %q", got)
	}
	w.overTLS(address, a.config())
	got, secure := strings.CutSuffix(w.mustDo(checkout).header.Get("Set-Cookie"), "; Secure")
	if !secure || !madeCookie.MatchString(got) {
		t.Errorf("over https the cookie is %q, with Secure: %t", got, secure)
	}
}

// TestUsersByHeader: shares grow and shrink and a version is added, and only those move that have to.
func TestUsersByHeader(t *testing.T) {
	versions := []*envoytest.Server{envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2"), envoytest.Upstream(t, "v3")}
	const key = "sticky: {header: x-user-id}"
	w := newWorld(t, sticky(versions, key, "{version: v1, weight: 9}, {version: v2}", "0"))
	w.editionIs("0")
	const users = 1500
	var before []string
	for step, s := range []struct {
		to     string
		shares [3]float64
		may    []string // moves
	}{
		{"{version: v1, weight: 9}, {version: v2}", [3]float64{.9, .1, 0}, nil},
		{"{version: v1, weight: 70}, {version: v2, weight: 30}", [3]float64{.7, .3, 0}, []string{"v1 v2"}},
		{"{version: v1, weight: 50}, {version: v2, weight: 30}, {version: v3, weight: 20}", [3]float64{.5, .3, .2}, []string{"v1 v3"}},
		{"{version: v1, weight: 55}, {version: v2, weight: 5}, {version: v3, weight: 40}", [3]float64{.55, .05, .4}, []string{"v1 v3", "v2 v1"}},
		{"{version: v1, weight: 100}, {version: v2, weight: 0}, {version: v3, weight: 0}", [3]float64{1, 0, 0}, []string{"v3 v1", "v2 v1"}},
	} {
		edition := fmt.Sprint("step ", step)
		w.write("mesh.yaml", sticky(versions, key, s.to, edition))
		w.editionIs(edition)
		now := make([]string, users)
		each(users, func(i int) { now[i], _ = w.answered("X-User-Id", fmt.Sprint("user-", i)) })
		for i, share := range s.shares {
			got := float64(strings.Count(strings.Join(now, " "), fmt.Sprint("v", i+1))) / users
			if math.Abs(got-share) > 5*math.Sqrt(share*(1-share)/users) {
				t.Errorf("%s: v%d has %.3f of the users, want %.2f", edition, i+1, got, share)
			}
		}
		moves := make(map[string]int)
		for i := range before {
			if before[i] != now[i] {
				moves[before[i]+" "+now[i]]++
			}
		}
		t.Logf("to [%s]: moves of %d users: %v", s.to, users, moves)
		for _, move := range s.may {
			delete(moves, move)
		}
		if len(moves) > 0 {
			t.Errorf("%s: users move %v, want %v only", edition, moves, s.may)
		}
		before = now
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// TestTheShareOfTraces holds although Envoy doesn't write into a request's id whether it is traced.
func TestTheShareOfTraces(t *testing.T) {
	up := []*envoytest.Server{envoytest.Upstream(t, "v1")}
	w := newWorld(t, strings.Replace(sticky(up, "", "{version: v1}", "first"), `"127.0.0.1:1"}`, `"127.0.0.1:1", percent: 30}`, 1))
	w.editionIs("first")
	const n, share = 4000, 0.3
	var traced atomic.Int64
	each(n, func(int) {
		resp, err := w.do(t.Context(), checkout)
		if err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(resp.header.Get("Echo-Traceparent"), "-01") {
			traced.Add(1)
		}
	})
	got := float64(traced.Load()) / n
	t.Logf("%.3f of %d requests are traced", got, n)
	if math.Abs(got-share) > 5*math.Sqrt(share*(1-share)/n) {
		t.Errorf("%.3f of the requests are traced, want %.2f", got, share)
	}
}
