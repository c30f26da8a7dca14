package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// ask sends one request with a client, and gives the protocol of the answer too.
func (w *world) ask(client *http.Client, method, url, body string) (protocol string, got response, err error) {
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return "", got, err
	}
	req.Host = checkout.host
	resp, err := client.Do(req)
	if err != nil {
		return "", got, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.Proto, response{resp.StatusCode, resp.Header, string(text)}, err
}

// echo has an upstream answer with the body that it is sent.
func echo(up *envoytest.Server) {
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(rw, r.Body)
		return true
	}
}

// TestHTTP2: over TLS by ALPN, and on http listeners by prior knowledge.
func TestHTTP2(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	echo(up)
	a, dir := newAuthority(t), t.TempDir()
	cert, key, serial := a.issue()
	move(t, dir+"/tls.crt", cert)
	move(t, dir+"/tls.key", key)
	w, address := newSecureWorld(t, service("checkout", up.Address, ""), dir, "")
	w.shows(address, a.config(), serial)

	two, unencrypted, one := new(http.Protocols), new(http.Protocols), new(http.Protocols)
	two.SetHTTP2(true)
	unencrypted.SetUnencryptedHTTP2(true)
	one.SetHTTP1(true)
	for _, c := range []struct {
		url       string
		protocols *http.Protocols
		want      string
	}{
		{"https://" + address, two, "HTTP/2.0"},
		{"https://" + address, one, "HTTP/1.1"},
		{w.gateway, unencrypted, "HTTP/2.0"},
		{w.gateway, one, "HTTP/1.1"},
	} {
		transport := &http.Transport{TLSClientConfig: a.config(), Protocols: c.protocols}
		protocol, got, err := w.ask(&http.Client{Transport: transport}, http.MethodPost, c.url+"/cart", "an order")
		if err != nil || protocol != c.want || got.status != http.StatusOK || got.body != "an order" {
			t.Errorf("%s: %v, %s %d %q, want %s", c.url, err, protocol, got.status, got.body, c.want)
		}
		transport.CloseIdleConnections()
	}
}

// TestHTTPSRedirect: an http listener sends everything to https, and serves nothing.
func TestHTTPSRedirect(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("checkout", up.Address, ""))
	standard, odd := freePorts(t, 1)[0], freePorts(t, 1)[0]
	w.listener(fmt.Sprintf("name: standard, port: %s, httpsRedirect: 443", port(standard)))
	w.listener(fmt.Sprintf("name: odd, port: %s, httpsRedirect: 8443", port(odd)))
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, c := range []struct {
		address, method, host, path string
		status                      int
		location                    string
	}{
		{standard, "GET", "shop.example.com", "/a/b?c=d&e", 301, "https://shop.example.com/a/b?c=d&e"},
		{standard, "HEAD", "shop.example.com", "/", 301, "https://shop.example.com/"},
		{standard, "POST", "shop.example.com", "/a", 308, "https://shop.example.com/a"},
		{standard, "GET", "shop.example.com:8080", "/a", 301, "https://shop.example.com:443/a"},
		{standard, "DELETE", "shop.example.com:80", "/a", 308, "https://shop.example.com:443/a"},
		{odd, "GET", "checkout.example.com", "/a?b", 301, "https://checkout.example.com:8443/a?b"},
		{odd, "PUT", "checkout.example.com:8080", "/a", 308, "https://checkout.example.com:8443/a"},
	} {
		w.eventually(c.address+" answers", func() error { return dial(t, c.address) })
		w.gateway = "http://" + c.address
		got := w.mustDo(request{method: c.method, host: c.host, path: c.path})
		if got.status != c.status || got.header.Get("Location") != c.location {
			t.Errorf("%+v: %d, Location %q", c, got.status, got.header.Get("Location"))
		}
	}
	if n := up.Requests.Load(); n > 0 {
		t.Errorf("%d requests reached the service", n)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}
