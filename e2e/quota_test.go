package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// quotaEnvoy is an Envoy that decides by quotas for the limit of that ID, by x-t, and refuses everything until it has one.
func quotaEnvoy(t *testing.T, quotas, upstream, limit string) (to string) {
	t.Helper()
	ports := freePorts(t, 2)
	envoytest.Start(t, fmt.Appendf(nil, `
admin:
  address:
    socket_address:
      address: 127.0.0.1
      port_value: %s
static_resources:
  clusters:
    - {name: up, type: STATIC, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}}
    - name: quotas
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment: {cluster_name: quotas, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
  listeners:
    - name: l
      address: {socket_address: {address: 127.0.0.1, port_value: %s}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: x
                http_filters:
                  - name: quota
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig
                      rlqs_server: {envoy_grpc: {cluster_name: quotas}}
                      domain: weir
                      bucket_matchers:
                        on_no_match:
                          action:
                            name: bucket
                            typed_config:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings
                              bucket_id_builder:
                                bucket_id_builder:
                                  limit: {string_value: %s}
                                  x-t: {custom_value: {name: x-t, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-t}}}
                              reporting_interval: 1s
                              no_assignment_behavior: {fallback_rate_limit: {blanket_rule: DENY_ALL}}
                  - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
                route_config:
                  virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: up}}]}]
`, port(ports[0]), port(upstream), port(quotas), port(ports[1]), limit))
	return "http://" + ports[1]
}

// TestQuotas: Envoys with the real filter of rate limit quotas share a limit, decide by themselves and report what they do.
func TestQuotas(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("quota", up.Address, "")+rateLimit("quota", "  limits: [{requests: 20, per: 7d, by: [{header: x-t}]}]"))
	limits := w.args[6]
	first := quotaEnvoy(t, limits, up.Address, "limit/shop/quota/0")
	ask := func(to, key string) bool {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-T", key)
		resp, err := w.client.Do(r)
		if err != nil {
			return false // it does not listen yet
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("status %s", resp.Status)
		}
		return resp.StatusCode == http.StatusOK
	}
	until := func(to, key string) {
		t.Helper()
		w.eventually("a quota comes", func() error {
			if !ask(to, key) {
				return fmt.Errorf("refused")
			}
			return nil
		})
	}
	burst := func(to, key string) (passed int) {
		for range 50 {
			if ask(to, key) {
				passed++
			}
		}
		return passed
	}
	until(first, "a")
	if got := 1 + burst(first, "a"); got != 20 {
		t.Errorf("%d of 51 pass at one Envoy, want 20", got)
	}
	until(first, "b") // another key has another quota
	address := "--http-address=" + strings.TrimPrefix(w.http, "http://")
	w.eventually("what was used is reported", func() error {
		out, err := w.command("ratelimit", "check", "domain=weir limit=limit/shop/quota/0 x-t=a", address)
		if err == nil || !strings.Contains(out, "would be refused") {
			return fmt.Errorf("it is not: %s", out)
		}
		return nil
	})
	if n := w.metric("weir_ratelimit_quota_buckets"); n != 2 {
		t.Errorf("%v buckets, want 2", n)
	}

	// A second Envoy gets what the first gives back. What has moved may be used once more.
	second := quotaEnvoy(t, limits, up.Address, "limit/shop/quota/0")
	until(second, "b")
	w.eventually("two proxies are divided among", func() error {
		if n := w.metric("weir_ratelimit_quota_streams"); n != 2 {
			return fmt.Errorf("%v streams", n)
		}
		return nil
	})
	if got := 2 + burst(first, "b") + burst(second, "b"); got < 3 || got > 30 {
		t.Errorf("%d pass at two Envoys, want about 20 and 30 at most", got)
	}
}

// TestQuotaDocuments: a document has Weir's own proxies decide by quotas.
func TestQuotaDocuments(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("given", up.Address, "")+rateLimit("given", `
  scope: quota
  onError: deny
  limits:
    - {by: [{header: x-t}], requests: 8, per: 7d}
    - {by: [{header: x-t, prefix: gold-}], requests: 12, per: 7d}
    - {requests: 45, per: 7d}`))
	given := func(header string) {
		t.Helper()
		w.eventually("a quota comes", func() error {
			if got, _ := w.passing(1, "given", header); got != 1 {
				return fmt.Errorf("refused")
			}
			return nil
		})
	}
	given("x-t: first") // and so the limit of all has its quota too
	for _, c := range []struct {
		header string
		want   int
	}{{"x-t: a", 8}, {"x-t: b", 8}, {"x-t: gold-1", 12}, {"", 8}, {"x-t: c", 8}} {
		given(c.header)
		if got, _ := w.passing(20, "given", c.header); got != c.want-1 {
			t.Errorf("%s: %d of 21 pass, want %d", c.header, got+1, c.want)
		}
	}
	if got, _ := w.passing(50, "given", "x-t: d"); got != 0 { // 45 have passed
		t.Errorf("%d more pass than there may in all", got)
	}
	if n := w.metric("weir_ratelimit_quota_streams"); n < 1 {
		t.Errorf("%v proxies decide by quotas", n)
	}
	w.expectNoRefusal()
}
