package e2e_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// shops is services s0, s1, …, each with a Route whose responses say the edition.
func shops(n int, upstream string, editions map[int]string) string {
	var b strings.Builder
	for i := range n {
		edition := editions[i]
		if edition == "" {
			edition = "first"
		}
		fmt.Fprintf(&b, `---
kind: Service
metadata: {name: s%d, namespace: shop}
spec: {hosts: [s%d.example.com], endpoints: {static: [{address: 127.0.0.1, port: %s}]}}
---
kind: Route
metadata: {name: s%d, namespace: shop}
spec: {service: s%d, rules: [{responseHeaders: {set: {x-edition: %s}}}]}
`, i, i, upstream, i, i, edition)
	}
	return b.String()
}

func (w *world) edition(url, host, want string) {
	w.t.Helper()
	w.eventually(host+" has its edition "+want, func() error {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		req.Host = host
		resp, err := w.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got := resp.Header.Get("X-Edition"); got != want {
			return fmt.Errorf("%d, edition %q", resp.StatusCode, got)
		}
		return nil
	})
}

// TestAnEditedRouteIsSentAlone: of a hundred services' routes one is edited, and Envoy is sent its virtual host only.
func TestAnEditedRouteIsSentAlone(t *testing.T) {
	upstream := port(envoytest.Upstream(t, "up").Address)
	w := newWorld(t, shops(100, upstream, nil))
	w.edition(w.gateway, "s7.example.com", "first")
	before := w.metric("weir_xds_resources_sent_total")
	w.write("mesh.yaml", shops(100, upstream, map[int]string{7: "second"}))
	w.edition(w.gateway, "s7.example.com", "second")
	w.edition(w.gateway, "s8.example.com", "first")
	if sent := w.metric("weir_xds_resources_sent_total") - before; sent != 1 {
		t.Errorf("%v resources were sent for one edited route", sent)
	}
	w.write("mesh.yaml", shops(99, upstream, map[int]string{7: "second"}))
	w.eventually("a removed service is not found", func() error {
		if resp := w.mustDo(request{host: "s99.example.com"}); resp.status != http.StatusNotFound {
			return fmt.Errorf("%d", resp.status)
		}
		return nil
	})
	w.edition(w.gateway, "s7.example.com", "second")
}

// TestListenersComeAndGo: each has its routes at once, also one that was there before.
func TestListenersComeAndGo(t *testing.T) {
	upstream := port(envoytest.Upstream(t, "up").Address)
	w := newWorld(t, shops(3, upstream, nil))
	second := freePorts(t, 1)[0]
	gateway := func(listeners string) {
		w.write("gateway.yaml", "kind: Gateway\nmetadata: {name: edge}\nspec:\n  address: 127.0.0.1\n  listeners:\n    - {name: http, port: "+port(w.gateway)+"}\n"+listeners)
	}
	for range 2 {
		gateway("    - {name: other, port: " + port(second) + "}\n")
		w.edition("http://"+second, "s1.example.com", "first")
		w.edition(w.gateway, "s1.example.com", "first")
		gateway("")
		w.eventually("a removed listener listens no more", func() error {
			resp, err := w.client.Get("http://" + second)
			if err != nil {
				return nil
			}
			return fmt.Errorf("%s", resp.Status)
		})
	}
	if err := w.weir.Kill(); err != nil {
		t.Fatal(err)
	}
	w.startWeir()
	gateway("    - {name: other, port: " + port(second) + "}\n")
	w.edition("http://"+second, "s2.example.com", "first")
	if n := w.metric("weir_xds_nacks_total"); n != 0 {
		t.Errorf("%v refusals", n)
	}
}

// TestStateOfTheWorld: an Envoy that speaks the older protocol is served the same.
func TestStateOfTheWorld(t *testing.T) {
	upstream := port(envoytest.Upstream(t, "up").Address)
	w := newWorld(t, shops(3, upstream, nil))
	w.envoy.Stop()
	ports := freePorts(t, 2)
	w.write("gateway.yaml", "kind: Gateway\nmetadata: {name: edge}\nspec: {address: 127.0.0.1, listeners: [{name: http, port: "+port(ports[0])+"}]}\n")
	bootstrap, err := exec.CommandContext(t.Context(), weirBinary, "bootstrap", "--gateway", "edge", "--xds", w.args[4], "--admin", ports[1]).Output()
	if err != nil {
		t.Fatal(err)
	}
	envoytest.Start(t, []byte(strings.Replace(string(bootstrap), "DELTA_GRPC", "GRPC", 1)))
	w.edition("http://"+ports[0], "s1.example.com", "first")
	w.write("mesh.yaml", shops(2, upstream, map[int]string{1: "second"}))
	w.edition("http://"+ports[0], "s1.example.com", "second")
	w.gateway = "http://" + ports[0]
	w.write("limits.yaml", service("near", upstream, "")+rateLimit("near", "  scope: local\n  limits: [{requests: 3, per: day}]"))
	w.eventually("local limits hold", func() error {
		if r := w.mustDo(request{host: "near.example.com", path: "/"}); r.status != http.StatusTooManyRequests {
			return fmt.Errorf("status %d", r.status)
		}
		return nil
	})
	w.write("mesh.yaml", shops(2, upstream, map[int]string{1: "third"}))
	w.edition("http://"+ports[0], "s1.example.com", "third")
	if got, _ := w.passing(5, "near"); got != 0 {
		t.Errorf("an edit of routes gives %d requests back", got)
	}
	out, err := w.command("status", "--output", "json", "--http-address", strings.TrimPrefix(w.http, "http://"))
	if err != nil || !strings.Contains(out, "sotw") {
		t.Errorf("status: %v\n%s", err, out)
	}
}
