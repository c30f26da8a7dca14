package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// overQUIC gives a client that speaks HTTP/3 only.
func (w *world) overQUIC(a *authority) *http.Client {
	transport := &http3.Transport{TLSClientConfig: a.config()}
	w.t.Cleanup(func() { _ = transport.Close() })
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// TestHTTP3: with http3, the port of UDP speaks HTTP/3 with the routes, limits and certificate of that of TCP, which
// tells clients of it; new certificates are shown, and changes of routes arrive while requests go on.
func TestHTTP3(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	v1.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/own" {
			rw.Header().Set("Alt-Svc", "clear")
		}
		_, _ = io.Copy(rw, r.Body)
		return true
	}
	a, dir := newAuthority(t), t.TempDir()
	cert, key, serial := a.issue()
	move(t, dir+"/tls.crt", cert)
	move(t, dir+"/tls.key", key)
	documents := func(w1, w2 int) string {
		return shop(v1.Address, v2.Address, w1, w2) +
			"      responseHeaders: {set: {x-rule: \"%PROTOCOL%\"}}\n" + service("other", v2.Address, "") + `
---
kind: Route
metadata: {name: other, namespace: shop}
spec:
  service: other
  rules: [{responseHeaders: {set: {alt-svc: 'h3=":443"'}}, rateLimit: {requests: 5, per: hour}}]
`
	}
	w, address := newSecureWorld(t, documents(1, 0), dir, ", http3: true")
	w.shows(address, a.config(), serial)
	client := w.overQUIC(a)
	body := string(bytes.Repeat([]byte("order "), 50_000))
	w.eventually("HTTP/3 is spoken", func() error {
		protocol, got, err := w.ask(client, http.MethodPost, "https://"+address+"/", body)
		if err != nil || protocol != "HTTP/3.0" || got.status != 200 || got.body != body || got.header.Get("X-Rule") != "HTTP/3" {
			return fmt.Errorf("%w: %s %d, %d bytes, %v", err, protocol, got.status, len(got.body), got.header)
		}
		return nil
	})

	w.overTLS(address, a.config())
	advertised := fmt.Sprintf(`h3=":%s"; ma=86400`, port(address))
	if got := w.mustDo(checkout); got.header.Get("Alt-Svc") != advertised {
		t.Errorf("over TCP, alt-svc is %q, want %q", got.header.Get("Alt-Svc"), advertised)
	}
	if got := w.mustDo(request{host: checkout.host, path: "/own"}); got.header.Get("Alt-Svc") != "clear" {
		t.Errorf("the service's own alt-svc is %q", got.header.Get("Alt-Svc"))
	}
	passed := 0
	for range 10 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "other.example.com"
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			passed++
			if got := resp.Header.Get("Alt-Svc"); got != `h3=":443"` {
				t.Errorf("a rule's own alt-svc is %q", got)
			}
		}
	}
	if passed != 5 {
		t.Errorf("%d of 10 pass the limit, want 5", passed)
	}

	// Under load, routes change and certificates rotate.
	var stop atomic.Bool
	var load sync.WaitGroup
	defer load.Wait()
	defer stop.Store(true)
	for range 2 {
		load.Go(func() {
			for !stop.Load() {
				if protocol, got, err := w.ask(client, http.MethodGet, "https://"+address+"/", ""); err != nil || got.status != 200 || protocol != "HTTP/3.0" {
					t.Errorf("under load: %v, %s %d %s", err, protocol, got.status, got.body)
					return
				}
			}
		})
	}
	for i := range 6 {
		w.write("mesh.yaml", documents((i+1)%2, i%2))
		w.eventually("routes change", func() error {
			_, got, err := w.ask(client, http.MethodGet, "https://"+address+"/", "")
			if (got.body == "v2") != (i%2 == 1) {
				return fmt.Errorf("%w: %q", err, got.body)
			}
			return nil
		})
	}
	cert, key, serial = a.issue()
	move(t, dir+"/tls.key", key)
	move(t, dir+"/tls.crt", cert)
	w.eventually("the new certificate is shown", func() error {
		fresh := &http3.Transport{TLSClientConfig: a.config()}
		defer func() { _ = fresh.Close() }()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := fresh.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got := resp.TLS.PeerCertificates[0].SerialNumber.Int64(); got != serial {
			return fmt.Errorf("certificate %d, want %d", got, serial)
		}
		return nil
	})
	stop.Store(true)
	load.Wait()
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
