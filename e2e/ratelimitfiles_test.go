package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
)

// TestFilesOfEnvoyproxyRatelimit has an Envoy that knows nothing of Weir ask `weir ratelimit`, which is told by files of
// envoyproxy/ratelimit: by its filter, as JSON, and gRPC's health check and reflection on the same port.
func TestFilesOfEnvoyproxyRatelimit(t *testing.T) {
	ports := freePorts(t, 4)
	dir := t.TempDir()
	write := func(requests int) {
		text := fmt.Sprintf("domain: shop\ndescriptors:\n- {key: user, rate_limit: {unit: day, requests_per_unit: %d}}\n", requests)
		must(t, os.WriteFile(filepath.Join(dir, ".new"), []byte(text), 0o600))
		must(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "shop.yaml")))
	}
	write(3)
	weir := servers.StartProcess(t, servers.Command{
		Name: "weir", Path: weirBinary, Args: []string{"ratelimit", "--config", dir, "--address", ports[0], "--http-address", ports[1]},
		Log: filepath.Join(t.TempDir(), "weir.log"),
	})
	must(t, weir.WaitHTTP(t.Context(), "http://"+ports[1]+"/readyz"))
	upstream := envoytest.Upstream(t, "up")
	envoytest.Start(t, fmt.Appendf(nil, `
admin:
  address:
    socket_address:
      address: 127.0.0.1
      port_value: %s
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %s}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route:
                  cluster: up
                  rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]
          http_filters:
          - name: ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: shop
              failure_mode_deny: true
              timeout: 2s
              enable_x_ratelimit_headers: DRAFT_VERSION_03
              rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - {name: up, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}}
  - name: limits
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: limits, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`, port(ports[2]), port(ports[3]), port(upstream.Address), port(ports[0])))

	get := func(user string) (int, http.Header) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ports[3]+"/", nil)
		req.Header.Set("x-user", user)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Header
	}
	passes := func(user string) int {
		for n := range 20 {
			if code, _ := get(user); code == http.StatusTooManyRequests {
				return n
			} else if code != http.StatusOK {
				t.Fatalf("status %d", code)
			}
		}
		return 20
	}
	if code, h := get("bob"); code != http.StatusOK || !strings.HasPrefix(h.Get("x-ratelimit-limit"), "3, 3;w=86400") || h.Get("x-ratelimit-remaining") != "2" {
		t.Errorf("status %d, %v", code, h)
	}
	if n := passes("bob"); n != 2 {
		t.Errorf("bob passed %d more times, want 2", n)
	}
	if n := passes("eve"); n != 3 {
		t.Errorf("eve passed %d times, want 3", n)
	}

	ask := func() (int, string) {
		res, err := http.Post("http://"+ports[1]+"/json", "application/json", strings.NewReader(`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"json"}]}]}`))
		must(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		must(t, err)
		var buf bytes.Buffer
		must(t, json.Compact(&buf, b))
		return res.StatusCode, buf.String()
	}
	for range 3 {
		if code, body := ask(); code != http.StatusOK || !strings.Contains(body, `"overallCode":"OK"`) {
			t.Errorf("%d %s", code, body)
		}
	}
	if code, body := ask(); code != http.StatusTooManyRequests || !strings.Contains(body, `"overallCode":"OVER_LIMIT"`) {
		t.Errorf("%d %s", code, body)
	}

	conn, err := grpc.NewClient(ports[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	for _, name := range []string{"envoy.service.ratelimit.v3.RateLimitService", "ratelimit"} {
		check, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || check.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %s: %v %v", name, check, err)
		}
	}
	if res, err := http.Get("http://" + ports[1] + "/healthcheck"); err != nil || res.Body.Close() != nil || res.StatusCode != http.StatusOK {
		t.Errorf("/healthcheck: %v %v", res, err)
	}
	reflection, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	must(t, err)
	must(t, reflection.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}))
	list, err := reflection.Recv()
	if err != nil || !strings.Contains(list.String(), "envoy.service.ratelimit.v3.RateLimitService") {
		t.Errorf("reflection: %v %v", list, err)
	}

	write(100)
	deadline := time.Now().Add(20 * time.Second)
	for {
		if code, _ := get("bob"); code == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a changed file has no effect")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestRateLimitsOverTLS asks from any address with a client's certificate, and without one in vain.
func TestRateLimitsOverTLS(t *testing.T) {
	dir := t.TempDir()
	authority := newAuthority(t)
	cert, key, _ := authority.issue()
	for name, data := range map[string][]byte{
		"tls.crt": cert, "tls.key": key, "ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.cert.Raw}),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(dir, "limits.yaml"), []byte("domain: shop\n"), 0o600))
	ports := freePorts(t, 2)
	weir := servers.StartProcess(t, servers.Command{
		Name: "weir", Path: weirBinary, Log: filepath.Join(t.TempDir(), "weir.log"),
		Args: []string{
			"ratelimit", "--config", filepath.Join(dir, "limits.yaml"), "--address", ports[0], "--http-address", ports[1],
			"--tls-cert", filepath.Join(dir, "tls.crt"), "--tls-key", filepath.Join(dir, "tls.key"), "--tls-client-ca", filepath.Join(dir, "ca.crt"),
		},
	})
	must(t, weir.WaitHTTP(t.Context(), "http://"+ports[1]+"/readyz"))
	check := func(config *tls.Config) error {
		conn, err := grpc.NewClient(ports[0], grpc.WithTransportCredentials(credentials.NewTLS(config)))
		must(t, err)
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	own, err := tls.X509KeyPair(cert, key)
	must(t, err)
	with := authority.config()
	with.Certificates = []tls.Certificate{own}
	if err := check(with); err != nil {
		t.Error(err)
	}
	if err := check(authority.config()); err == nil {
		t.Error("a client without a certificate was served")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
