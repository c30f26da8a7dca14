package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue gives a new certificate and key, as PEM, and the serial number.
func (a *authority) issue() (cert, key []byte, serial int64) {
	a.t.Helper()
	a.n++
	serial = 100 + a.n
	own := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"*.example.com"}, Subject: pkix.Name{CommonName: "example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, own.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), serial
}

func (a *authority) config() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, ServerName: checkout.host}
}

// move replaces a file at once.
func move(t *testing.T, path string, data []byte) {
	t.Helper()
	tmp := filepath.Join(t.TempDir(), "new")
	if err := errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, path)); err != nil {
		t.Fatal(err)
	}
}

// serial gives the number of the certificate that a new connection is shown.
func (w *world) serial(address string, config *tls.Config) (int64, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

// overTLS makes the world's client talk to the https listener at address.
func (w *world) overTLS(address string, config *tls.Config) {
	w.gateway = "https://" + address
	w.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
	}}
	w.t.Cleanup(w.client.CloseIdleConnections)
}

// newSecureWorld adds a listener named https to the gateway, with its files in the folder given, and gives its address.
func newSecureWorld(t *testing.T, documents, dir, more string) (w *world, address string) {
	t.Helper()
	w, address = newWorld(t, documents), freePorts(t, 1)[0]
	w.listener(fmt.Sprintf("name: https, port: %s, protocol: https, tls: {certificate: %s/tls.crt, key: %[2]s/tls.key}%s", port(address), dir, more))
	return w, address
}

// listener adds one to the gateway.
func (w *world) listener(fields string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "gateway.yaml"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("gateway.yaml", strings.Replace(string(text), "listeners: [", "listeners: [{"+fields+"}, ", 1))
}

// shows waits until new connections are shown a certificate.
func (w *world) shows(address string, config *tls.Config, serial int64) {
	w.t.Helper()
	began := time.Now()
	w.eventually(fmt.Sprintf("certificate %d is shown", serial), func() error {
		got, err := w.serial(address, config)
		if err == nil && got != serial {
			err = fmt.Errorf("certificate %d", got)
		}
		return err
	})
	w.t.Logf("certificate %d is shown after %s", serial, time.Since(began).Round(time.Millisecond))
}

// statusSays waits until weir status has the text, or with not until it has it no more.
func (w *world) statusSays(text string, not bool) {
	w.t.Helper()
	w.eventually("weir status", func() error {
		out, err := w.command("status", "--http-address", strings.TrimPrefix(w.http, "http://"))
		if strings.Contains(out, text) == not || (err == nil) != not {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

// TestTLS: a gateway serves HTTP/1.1 and HTTP/2 over TLS 1.2 and 1.3, with ciphers of today only.
func TestTLS(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	a, dir := newAuthority(t), t.TempDir()
	cert, key, serial := a.issue()
	move(t, dir+"/tls.crt", cert)
	move(t, dir+"/tls.key", key)
	w, address := newSecureWorld(t, service("checkout", up.Address, ""), dir, "")
	modern := freePorts(t, 1)[0]
	w.listener(fmt.Sprintf("name: modern, port: %s, protocol: https, tls: {certificate: %s/tls.crt, key: %[2]s/tls.key, minVersion: \"1.3\"}", port(modern), dir))
	w.shows(address, a.config(), serial)
	w.shows(modern, a.config(), serial)

	const anyVersion, old = tls.VersionTLS10, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA //nolint:gosec // to see it refused
	for _, c := range []struct {
		address string
		newest  uint16
		cipher  uint16
		offers  []string
		version uint16 // 0: refused
		speaks  string
	}{
		{address, tls.VersionTLS13, 0, []string{"h2", "http/1.1"}, tls.VersionTLS13, "h2"},
		{address, tls.VersionTLS13, 0, []string{"http/1.1"}, tls.VersionTLS13, "http/1.1"},
		{address, tls.VersionTLS12, 0, nil, tls.VersionTLS12, ""},
		{address, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, nil, tls.VersionTLS12, ""},
		{address, tls.VersionTLS12, old, nil, 0, ""},
		{address, tls.VersionTLS11, 0, nil, 0, ""},
		{modern, tls.VersionTLS13, 0, nil, tls.VersionTLS13, ""},
		{modern, tls.VersionTLS12, 0, nil, 0, ""},
	} {
		config := a.config()
		config.MinVersion, config.MaxVersion, config.NextProtos = anyVersion, c.newest, c.offers
		if c.cipher != 0 {
			config.CipherSuites = []uint16{c.cipher}
		}
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", c.address)
		if err != nil {
			if c.version != 0 {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		got := conn.(*tls.Conn).ConnectionState()
		if got.Version != c.version || got.NegotiatedProtocol != c.speaks {
			t.Errorf("%+v: version %x, protocol %q", c, got.Version, got.NegotiatedProtocol)
		}
		_ = conn.Close()
	}

	plain := w.mustDo(checkout)
	w.overTLS(address, a.config())
	secure := w.mustDo(checkout)
	if plain.body != "up" || secure.body != "up" || plain.header.Get("Echo-X-Forwarded-Proto") != "http" || secure.header.Get("Echo-X-Forwarded-Proto") != "https" {
		t.Errorf("over http %+v, over https %+v", plain, secure)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
	// The key is on the proxy's machine alone.
	w.statusSays(string(key), true)
	if out, err := w.command("render", w.dir, "--gateway", "edge"); err != nil || strings.Contains(out, "PRIVATE") || !strings.Contains(out, dir+"/tls.key") {
		t.Errorf("weir render: %v\n%s", err, out)
	}
}

// TestCertificateRotation: new files are served at once and no request is lost, whether they are moved into place one
// by one or the way the kubelet does it, all at once by a symbolic link to their folder.
func TestCertificateRotation(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	a, root := newAuthority(t), t.TempDir()
	one := func(dir string) int64 {
		cert, key, serial := a.issue()
		move(t, dir+"/tls.key", key) // for a moment, it is not the certificate's
		move(t, dir+"/tls.crt", cert)
		return serial
	}
	kubelet := func(dir string) int64 {
		cert, key, serial := a.issue()
		data := fmt.Sprintf("..%d", serial)
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, data), 0o700), os.WriteFile(filepath.Join(dir, data, "tls.key"), key, 0o600),
			os.WriteFile(filepath.Join(dir, data, "tls.crt"), cert, 0o600),
			os.Symlink(data, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		); err != nil {
			t.Fatal(err)
		}
		return serial
	}
	for name, rotate := range map[string]func(string) int64{"files": one, "kubelet": kubelet} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if name == "kubelet" {
				for _, file := range []string{"tls.key", "tls.crt"} {
					if err := os.Symlink("..data/"+file, filepath.Join(dir, file)); err != nil {
						t.Fatal(err)
					}
				}
			}
			serial := rotate(dir)
			w, address := newSecureWorld(t, shop(up.Address, up.Address, 1, 0), dir, "")
			w.shows(address, a.config(), serial)
			w.overTLS(address, a.config())
			w.client.Transport.(*http.Transport).DisableKeepAlives = true // each request with a handshake of its own
			l := w.load(4)
			for range 5 {
				w.shows(address, a.config(), rotate(dir))
				before := l.total.Load()
				w.eventually("requests are made", func() error {
					if n := l.total.Load() - before; n < 200 {
						return fmt.Errorf("%d", n)
					}
					return nil
				})
			}
			l.end(t)
		})
	}
}

// TestCertificatesThatAreNotThere: what is missing or broken is told, and takes nothing else down; what was in force
// stays; and what comes late is taken.
func TestCertificatesThatAreNotThere(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	a, dir := newAuthority(t), t.TempDir()
	w, address := newSecureWorld(t, service("checkout", up.Address, ""), dir, "")
	w.statusSays("Secret gateway/edge/https, of Gateway edge", false)
	if n, err := w.serial(address, a.config()); err == nil {
		t.Errorf("without files, certificate %d is shown", n)
	}
	other := freePorts(t, 1)[0]
	w.listener(fmt.Sprintf("name: other, port: %s", port(other)))
	w.eventually("a new listener works", func() error { return dial(t, other) })
	if got := w.mustDo(checkout); got.body != "up" {
		t.Errorf("the other listener answers %d %s", got.status, got.body)
	}

	cert, key, serial := a.issue()
	move(t, dir+"/tls.key", key)
	move(t, dir+"/tls.crt", cert)
	w.shows(address, a.config(), serial)

	failed := w.envoy.Stat("sds.gateway/edge/https.key_rotation_failed")
	for _, broken := range []string{"", "no certificate", string(cert[:len(cert)/2]), string(key)} {
		move(t, dir+"/tls.crt", []byte(broken))
		w.eventually("the broken certificate is seen", func() error {
			if n := w.envoy.Stat("sds.gateway/edge/https.key_rotation_failed"); n <= failed {
				return fmt.Errorf("%v failures", n)
			}
			return nil
		})
		failed = w.envoy.Stat("sds.gateway/edge/https.key_rotation_failed")
		w.shows(address, a.config(), serial)
	}
	next, nextKey, nextSerial := a.issue()
	move(t, dir+"/tls.key", nextKey)
	move(t, dir+"/tls.crt", next)
	w.shows(address, a.config(), nextSerial)

	// A document that names other files, which are not there yet.
	elsewhere := t.TempDir()
	text, err := os.ReadFile(filepath.Join(w.dir, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("gateway.yaml", strings.ReplaceAll(string(text), dir, elsewhere))
	w.statusSays(elsewhere, false)
	w.shows(address, a.config(), nextSerial)
	cert, key, serial = a.issue()
	move(t, elsewhere+"/tls.key", key)
	move(t, elsewhere+"/tls.crt", cert)
	w.shows(address, a.config(), serial)
	w.write("gateway.yaml", string(text))
	w.shows(address, a.config(), nextSerial)
	w.statusSays("refused", true)
}

func dial(t *testing.T, address string) error {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
