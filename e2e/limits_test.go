package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// rateLimit is a document of that name for the service of that name.
func rateLimit(name, spec string) string {
	return fmt.Sprintf("---\nkind: RateLimit\nmetadata: {name: %s, namespace: shop}\nspec:\n  service: %s\n%s\n", name, name, strings.Trim(spec, "\n"))
}

// passing counts how many of n equal requests to a service pass; the others must be refused.
func (w *world) passing(n int, host string, headers ...string) (passed int, last response) {
	w.t.Helper()
	r := request{host: host + ".example.com", path: "/", headers: map[string]string{}}
	for _, h := range headers {
		if h == "" {
			continue
		}
		name, value, _ := strings.Cut(h, ": ")
		r.headers[name] = value
	}
	for range n {
		last = w.mustDo(r)
		switch last.status {
		case http.StatusOK:
			passed++
		case http.StatusTooManyRequests:
		default:
			w.t.Fatalf("%s: status %d %s", host, last.status, last.body)
		}
	}
	return passed, last
}

func TestLimitsOfEveryKind(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if n := r.Header.Get("X-Make-Tokens"); n != "" {
			rw.Header().Set("X-Tokens", n)
		}
		fmt.Fprint(rw, "0123456789")
		return true
	}
	var text string
	add := func(name, spec string) {
		text += service(name, up.Address, "") + rateLimit(name, spec)
	}
	add("month", "  limits: [{requests: 3, per: month}]")
	add("sliding", "  limits: [{requests: 3, per: 90m, algorithm: sliding_window}]")
	add("several", "  limits: [{by: [{header: x-t}], requests: 5, per: hour}, {by: [{header: x-t}], requests: 3, per: day}]")
	for _, scope := range []string{"global", "local"} {
		add("forms-"+scope, `
  scope: `+scope+`
  limits:
    - {by: [{header: x-t}], requests: 1, per: hour}
    - {by: [{header: x-t, prefix: gold-}], requests: 3, per: hour}
    - {by: [{header: x-t, exact: gold-9}], requests: 4, per: hour}
    - {by: [{header: x-t, suffix: -ci, share: true}], requests: 2, per: hour}
    - {by: [{header: x-u, regex: "[0-9]+"}], requests: 2, per: hour}`)
		add("number-"+scope, "  scope: "+scope+"\n  limits: [{requests: 10, per: day, cost: {number: 4}}]")
		add("cost-"+scope, "  scope: "+scope+"\n  limits: [{requests: 10, per: day, by: [{header: x-t}], cost: {requestHeader: X-Cost}}]")
	}
	add("tokens", "  limits: [{requests: 100, per: day, by: [{header: x-t}], cost: {responseHeader: X-Tokens}}]")
	add("bytes", "  limits: [{requests: 25, per: day, cost: {responseBytes: true}}]")
	w := newWorld(t, text)

	for _, c := range []struct {
		host    string
		headers string
		want    int // of ten
	}{
		{"month", "", 3},
		{"sliding", "", 3},
		{"several", "x-t: a", 3},
		{"several", "x-t: b", 3},
		{"number-global", "", 2},
		{"number-local", "", 2},
	} {
		if got, _ := w.passing(10, c.host, c.headers); got != c.want {
			t.Errorf("%s with %q: %d of 10 pass, want %d", c.host, c.headers, got, c.want)
		}
	}
	for _, scope := range []string{"global", "local"} {
		for _, c := range []struct {
			headers string
			want    int
		}{
			{"x-t: silver", 1},
			{"x-t: bronze", 1},
			{"x-t: gold-1", 3},
			{"x-t: gold-2", 3}, // each by itself
			{"x-t: gold-9", 4},
			{"x-t: a-ci", 2},
			{"x-t: b-ci", 0}, // together
			{"x-u: 12", 1},   // also one without x-t
			{"x-u: 13", 0},
		} {
			if got, _ := w.passing(6, "forms-"+scope, c.headers); got != c.want {
				t.Errorf("%s, %s: %d of 6 pass, want %d", scope, c.headers, got, c.want)
			}
		}
		for _, c := range []struct {
			headers []string
			want    int
		}{
			{[]string{"x-t: one"}, 10},
			{[]string{"x-t: three", "x-cost: 3"}, 3},
			{[]string{"x-t: none", "x-cost: 0"}, 10},
			{[]string{"x-t: bad", "x-cost: -5"}, 10},
			{[]string{"x-t: word", "x-cost: a lot"}, 10},
			{[]string{"x-t: much", "x-cost: 11"}, 0},
		} {
			if got, _ := w.passing(12, "cost-"+scope, c.headers...); got != c.want {
				t.Errorf("%s, %v: %d of 12 pass, want %d", scope, c.headers, got, c.want)
			}
		}
	}
	// What is charged is known a moment after the answer.
	if got, _ := w.passing(3, "tokens", "x-t: a"); got != 3 {
		t.Errorf("answers that tell no cost: %d of 3 pass", got)
	}
	if got, _ := w.passing(1, "tokens", "x-t: a", "x-make-tokens: 250"); got != 1 {
		t.Error("the first request does not pass, whatever its answer costs")
	}
	w.eventually("the answer is charged", func() error {
		if got, _ := w.passing(1, "tokens", "x-t: a"); got != 0 {
			return fmt.Errorf("it still passes")
		}
		return nil
	})
	if got, _ := w.passing(1, "tokens", "x-t: b"); got != 1 {
		t.Error("another key is charged too")
	}
	w.eventually("25 bytes are charged", func() error {
		if got, _ := w.passing(1, "bytes"); got != 0 {
			return fmt.Errorf("it still passes")
		}
		return nil
	})
}

// TestLimitsAreSeen: who is refused, and where a key stands.
func TestLimitsAreSeen(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("seen", up.Address, "")+rateLimit("seen", "  limits: [{requests: 2, per: hour, by: [{header: x-t}]}]"))
	w.passing(5, "seen", "x-t: a")
	w.passing(1, "seen", "x-t: b")
	address := "--http-address=" + strings.TrimPrefix(w.http, "http://")
	top, err := w.command("ratelimit", "top", address)
	if err != nil {
		t.Fatal(err, top)
	}
	for _, want := range []string{"3        limit/shop/seen/0  x-t=a", "2        limit/shop/seen/0  x-t=a", "1        limit/shop/seen/0  x-t=b"} {
		if !strings.Contains(top, want) {
			t.Errorf("top has no line %q:\n%s", want, top)
		}
	}
	for key, want := range map[string]string{"a": "would be refused, for another 29m", "b": "would pass\n1 remaining", "c": "would pass\n2 remaining"} {
		for range 2 {
			out, err := w.command("ratelimit", "check", "domain=weir limit=limit/shop/seen/0 x-t="+key, address)
			if (err != nil) != (key == "a") || !strings.Contains(out, want) {
				t.Errorf("check of %s: %v, %q, want %q", key, err, out, want)
			}
		}
	}
	if out, err := w.command("ratelimit", "check", "domain=weir limit=none", address); err == nil || !strings.Contains(out, "no limit in force") {
		t.Errorf("check of no limit: %v, %q", err, out)
	}
}

// TestLocalLimits: what each Envoy counts by itself stays counted when routes are edited; a connection has its own, and of
// what is all proxies' each takes its part.
func TestLocalLimits(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	var text string
	for _, name := range []string{"one", "two"} {
		text += service(name, up.Address, "") + rateLimit(name, `
  scope: local
  limits:
    - {requests: 40, per: day, by: [{header: x-own}]}
    - {requests: 3, per: day, by: [{header: x-each, regex: ".+"}], perConnection: true}
    - {requests: 30, per: day, by: [{header: x-fair, regex: ".+"}], fairShare: true}`)
	}
	w := newWorld(t, text)
	if got, _ := w.passing(20, "one", "x-own: a"); got != 20 {
		t.Fatalf("%d of 20 pass, want all", got)
	}
	// An edit of a route, of the same service and of another.
	for _, name := range []string{"one", "two"} {
		w.write("route-"+name+".yaml", fmt.Sprintf("kind: Route\nmetadata: {name: %s, namespace: shop}\nspec: {service: %s, rules: [{name: r, responseHeaders: {set: {x-edited: yes}}}]}\n", name, name))
		w.eventually("the edit is there", func() error {
			if r := w.mustDo(request{host: name + ".example.com", path: "/"}); r.header.Get("X-Edited") == "" {
				return fmt.Errorf("it is not")
			}
			return nil
		})
	}
	if got, _ := w.passing(30, "one", "x-own: a"); got != 20 {
		t.Errorf("after an edit of routes %d of 30 pass, want the 20 that were left", got)
	}
	if got, _ := w.passing(30, "two", "x-own: a"); got != 30 {
		t.Errorf("another service has %d of 30, want all", got)
	}

	// On one connection, which both services' requests come over.
	for _, name := range []string{"one", "two", "one"} {
		conn := &http.Transport{MaxConnsPerHost: 1}
		passed := map[string]int{}
		for range 6 {
			for _, host := range []string{name, "one", "two"} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				r.Host = host + ".example.com"
				r.Header.Set("X-Each", "x")
				resp, err := conn.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode == http.StatusOK {
					passed[host]++
				}
				_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
				_ = resp.Body.Close()
			}
		}
		conn.CloseIdleConnections()
		if passed["one"] != 3 || passed["two"] != 3 {
			t.Errorf("%v pass on a connection, want 3 of each service", passed)
		}
	}

	// Without peers an Envoy can't take its part, and says so; nothing else is lost by it, as is seen above.
	w.expectRefusal("weir.local_ratelimit.share/gateway/edge/http", "no local cluster name is present", "RateLimit shop/one")
}

// TestFairShare: of what is all proxies' each Envoy takes its part.
func TestFairShare(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	t.Setenv("WEIR_PEERS", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3") // as --peers of weir bootstrap
	w := newWorld(t, service("fair", up.Address, "")+rateLimit("fair", "  scope: local\n  limits: [{requests: 30, per: day, fairShare: true}]"))
	if got, _ := w.passing(40, "fair"); got != 10 {
		t.Errorf("%d of 40 pass at one of three proxies, want 10", got)
	}
}

// TestLimitHeaders: which headers answers have is as the document says.
func TestLimitHeaders(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	var text string
	of := map[string][]string{"rateLimit": {"Ratelimit", "Ratelimit-Policy"}, "xRateLimit": {"X-Ratelimit-Limit", "X-Ratelimit-Remaining"}, "retryAfter": {"Retry-After"}}
	cases := map[string]string{} // host: the field that is false
	for _, scope := range []string{"global", "local"} {
		for field := range of {
			if scope == "local" && field == "rateLimit" {
				continue
			}
			host := strings.ToLower(field + "-" + scope)
			cases[host] = field
			text += service(host, up.Address, "") + rateLimit(host, fmt.Sprintf("  scope: %s\n  headers: {%s: false}\n  limits: [{requests: 1, per: hour}]", scope, field))
		}
	}
	w := newWorld(t, text)
	for host, hidden := range cases {
		if _, refused := w.passing(2, host); refused.status != http.StatusTooManyRequests {
			t.Errorf("%s: status %d", host, refused.status)
		} else {
			for field, names := range of {
				for _, name := range names {
					want := field != hidden && (field != "rateLimit" || strings.HasSuffix(host, "-global"))
					if got := refused.header.Get(name); (got != "") != want {
						t.Errorf("%s: %s is %q, want there %t", host, name, got, want)
					}
				}
			}
		}
	}
}
