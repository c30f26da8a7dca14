package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
)

// What envoyproxy/ratelimit's own integration tests configure, ask and expect (test/integration and integration-test at
// 3fb702589d36), told to weir ratelimit. What they expect of STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT is what weir does.

// publicLimits are the limits that those tests have, by file.
var publicLimits = map[string]string{
	"basic.yaml":   `{domain: basic, descriptors: [{key: key1, rate_limit: {unit: second, requests_per_unit: 50}}, {key: one_per_minute, rate_limit: {unit: minute, requests_per_unit: 1}}]}`,
	"another.yaml": `{domain: another, descriptors: [{key: key2, rate_limit: {unit: minute, requests_per_unit: 20}}, {key: key3, rate_limit: {unit: hour, requests_per_unit: 10}}, {key: key4, rate_limit: {unit: day, requests_per_unit: 20}}]}`,
	"share.yaml":   `{domain: share-threshold-test, descriptors: [{key: files, value: files/*, share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 10}}, {key: files_no_share, value: files_no_share/*, rate_limit: {unit: hour, requests_per_unit: 10}}]}`,
	"rl.yaml": `
domain: rl
descriptors:
- {key: category, value: account, rate_limit: {replaces: [{name: bkthomps}, {name: fake_name}], unit: minute, requests_per_unit: 4}}
- key: source_cluster
  value: proxy
  descriptors:
  - {key: destination_cluster, value: bkthomps, rate_limit: {replaces: [{name: bkthomps}], unit: minute, requests_per_unit: 2}}
  - {key: destination_cluster, value: mock, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: destination_cluster, value: override, rate_limit: {replaces: [{name: banned_limit}], unit: minute, requests_per_unit: 2}}
  - {key: destination_cluster, value: fake, rate_limit: {name: fake_name, unit: minute, requests_per_unit: 2}}
- key: foo
  rate_limit: {unit: minute, requests_per_unit: 2}
  descriptors:
  - {key: bar, rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: bar, value: bkthomps, rate_limit: {name: bkthomps, unit: minute, requests_per_unit: 1}}
  - {key: bar, value: banned, rate_limit: {name: banned_limit, unit: minute, requests_per_unit: 0}}
  - {key: baz, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: baz, value: not-so-shady, rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: baz, value: shady, rate_limit: {unit: minute, requests_per_unit: 3}, shadow_mode: true}
  - {key: bay, rate_limit: {unlimited: true}}
- {key: unspec, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: qux, rate_limit: {unlimited: true}}
`,
}

// startPublic starts weir ratelimit with those limits.
func startPublic(t *testing.T, args ...string) (dir, address, httpAddress string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range publicLimits {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	ports := freePorts(t, 2)
	weir := servers.StartProcess(t, servers.Command{
		Name: "weir", Path: weirBinary,
		Args: append([]string{"ratelimit", "--config", dir, "--insecure", "--address", "0.0.0.0:" + port(ports[0]), "--http-address", "0.0.0.0:" + port(ports[1])}, args...),
	})
	must(t, weir.WaitHTTP(t.Context(), "http://"+ports[1]+"/healthcheck"))
	return dir, ports[0], ports[1]
}

// withinOneMinute runs a test early in a minute, and once more if another minute began. It returns what is wrong.
func withinOneMinute(t *testing.T, test func(try int) []string) {
	t.Helper()
	for try := range 3 {
		if now := time.Now(); now.Second() > 40 {
			time.Sleep(time.Until(now.Truncate(time.Minute).Add(time.Minute)))
		}
		minute := time.Now().Truncate(time.Minute)
		wrong := test(try)
		if time.Now().Truncate(time.Minute).Equal(minute) {
			for _, w := range wrong {
				t.Error(w)
			}
			return
		}
	}
	t.Error("no try was within a minute")
}

// TestPublicTestsOfEnvoyproxyRatelimit has the counters in memory and in Redis, as all tests below.
func TestPublicTestsOfEnvoyproxyRatelimit(t *testing.T) {
	withEachStore(t, testPublic)
}

func withEachStore(t *testing.T, test func(t *testing.T, args ...string)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { test(t) })
	t.Run("redis", func(t *testing.T) {
		test(t, "--redis", "redis://"+servers.RunRedis(t).Address, "--redis-timeout", "1s")
	})
}

func testPublic(t *testing.T, args ...string) {
	t.Helper()
	dir, address, _ := startPublic(t, args...)
	client := limitClient(t, address)
	type limitStatus = ratelimitsvcv3.RateLimitResponse_DescriptorStatus
	limited := func(code ratelimitsvcv3.RateLimitResponse_Code, requests uint32, unit ratelimitsvcv3.RateLimitResponse_RateLimit_Unit, remaining int) *limitStatus {
		return &limitStatus{Code: code, CurrentLimit: &ratelimitsvcv3.RateLimitResponse_RateLimit{RequestsPerUnit: requests, Unit: unit}, LimitRemaining: uint32(max(remaining, 0))}
	}
	const (
		second = ratelimitsvcv3.RateLimitResponse_RateLimit_SECOND
		minute = ratelimitsvcv3.RateLimitResponse_RateLimit_MINUTE
		hour   = ratelimitsvcv3.RateLimitResponse_RateLimit_HOUR
	)
	// differs asks, and says how the answer is another than these statuses.
	differs := func(q *ratelimitsvcv3.RateLimitRequest, want ...*limitStatus) []string {
		got, err := client.ShouldRateLimit(t.Context(), q)
		must(t, err)
		for _, st := range got.GetStatuses() {
			if (st.GetCurrentLimit() != nil) != (st.GetDurationUntilReset() != nil) {
				return []string{"a limit without an end, or an end without a limit: " + st.String()}
			}
			st.DurationUntilReset = nil
		}
		answer := &ratelimitsvcv3.RateLimitResponse{OverallCode: limitOK, Statuses: want}
		for _, st := range want {
			answer.OverallCode = max(answer.OverallCode, st.GetCode())
		}
		if proto.Equal(got, answer) {
			return nil
		}
		return []string{fmt.Sprintf("%v: got %v, want %v", q, got, answer)}
	}
	codeOf := func(ok bool) ratelimitsvcv3.RateLimitResponse_Code {
		if ok {
			return limitOK
		}
		return limitOver
	}
	withinOneMinute(t, func(try int) (wrong []string) {
		value := fmt.Sprint("r", try)
		wrong = append(wrong, differs(askLimits("foo", "hello=world"), &limitStatus{Code: limitOK})...)
		wrong = append(wrong, differs(askLimits("basic", "key1="+value), limited(limitOK, 50, second, 49))...)
		for i := range 25 {
			wrong = append(wrong, differs(askLimits("another", "key2="+value), limited(codeOf(i < 20), 20, minute, 19-i))...)
		}
		for i := range 15 {
			wrong = append(wrong, differs(askLimits("another", "key2=and"+value, "key3=and"+value),
				limited(limitOK, 20, minute, max(19-i, 10)), limited(codeOf(i < 10), 10, hour, 9-i))...)
		}
		for range 10 {
			_, err := client.ShouldRateLimit(t.Context(), askLimits("share-threshold-test", "files=files/a.pdf"))
			must(t, err)
			wrong = append(wrong, differs(askLimits("share-threshold-test", fmt.Sprint("files_no_share=files_no_share/", time.Now().UnixNano())), limited(limitOK, 10, hour, 9))...)
		}
		return append(wrong, differs(askLimits("share-threshold-test", "files=files/b.csv"), limited(limitOver, 10, hour, 0))...)
	})
	until := func() time.Duration {
		got, err := client.ShouldRateLimit(t.Context(), askLimits("another", "key4=durTest"))
		must(t, err)
		return got.GetStatuses()[0].GetDurationUntilReset().AsDuration()
	}
	first := until()
	time.Sleep(2 * time.Second)
	if second := until(); second >= first && first > 2*time.Second {
		t.Errorf("until the day ends: %s, and two seconds later %s", first, second)
	}

	for _, d := range differs(askLimits("reload", "block=foo"), &limitStatus{Code: limitOK}) {
		t.Error("before it is configured: ", d)
	}
	file := filepath.Join(dir, "reload.yaml")
	text := `{domain: reload, descriptors: [{key: key1, rate_limit: {unit: second, requests_per_unit: 50}}, {key: block, rate_limit: {unit: second, requests_per_unit: 0}}]}`
	must(t, os.WriteFile(file, []byte(text), 0o600))
	eventually := func(what string, want *limitStatus) {
		deadline := time.Now().Add(30 * time.Second)
		for {
			wrong := differs(askLimits("reload", "block=foo"), want)
			if len(wrong) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(what, ": ", wrong)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	eventually("a file was added", limited(limitOver, 0, second, 0))
	for _, d := range differs(askLimits("reload", "key1=foo"), limited(limitOK, 50, second, 49)) {
		t.Error(d)
	}
	must(t, os.Remove(file))
	eventually("a file was removed", &limitStatus{Code: limitOK})
}

// TestExampleOfEnvoyproxyRatelimit has an Envoy ask by the routes of the peer's docker-compose example, as its scripts do.
func TestExampleOfEnvoyproxyRatelimit(t *testing.T) {
	withEachStore(t, testExample)
}

func testExample(t *testing.T, args ...string) {
	t.Helper()
	_, address, httpAddress := startPublic(t, args...)
	ports := freePorts(t, 2)
	upstream := envoytest.Upstream(t, "up")
	envoytest.Start(t, fmt.Appendf(nil, exampleProxy, port(ports[0]), port(ports[1]),
		exampleRoutes("/twoheader", "foo bar", "foo baz"), exampleRoutes("/fourheader", "foo bar", "source_cluster destination_cluster"),
		exampleRoutes("/fiveheader", "foo bar", "source_cluster destination_cluster", "category"), exampleRoutes("/header", "foo"), exampleRoutes("/unspec", "unspec"),
		port(upstream.Address), port(address)))
	// get asks with headers "NAME: VALUE", and gives the status and what is said to remain.
	get := func(path string, headers ...string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ports[1]+path, nil)
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Header.Get("x-ratelimit-remaining")
	}
	withinOneMinute(t, func(int) (wrong []string) {
		// expect has so many of the same pass, and then one refused.
		expect := func(passes int, path string, headers ...string) {
			for i := range passes + 1 {
				want := http.StatusOK
				if i == passes {
					want = http.StatusTooManyRequests
				}
				if code, _ := get(path, headers...); code != want {
					wrong = append(wrong, fmt.Sprintf("%s with %q, time %d: status %d, want %d", path, headers, i+1, code, want))
				}
			}
		}
		four := func(foo, bar, destination string) []string {
			return []string{"foo: " + foo, "bar: " + bar, "source_cluster: proxy", "destination_cluster: " + destination}
		}
		expect(0, "/twoheader", "foo: bkthomps", "bar: banned")
		expect(0, "/fourheader", four("bkthomps", "banned", "mock")...)
		expect(2, "/fourheader", four("bkthomps", "banned", "override")...)
		expect(2, "/fourheader", four("my_foo", "bkthomps", "bkthomps")...)
		expect(1, "/fourheader", four("my_foo", "bkthomps", "not_bkthomps")...)
		expect(0, "/fourheader", four("my_foo", "bkthomps", "bkthomps")...)
		expect(4, "/fiveheader", append(four("my_foo", "bkthomps", "fake"), "category: account")...)
		expect(1, "/twoheader", "foo: foo_2", "bar: bkthomps")
		expect(2, "/fourheader", four("foo_3", "bar_3", "fake")...)
		expect(0, "/fiveheader", append(four("my_foo", "bkthomps", "fake"), "category: account")...)
		expect(3, "/twoheader", "foo: pelle", "baz: not-so-shady")
		expect(2, "/unspec", "unspec: unspecified_value")
		expect(2, "/header", "foo: header")
		for i := range 6 {
			if code, remaining := get("/twoheader", "foo: pelle", "baz: shady"); code != http.StatusOK || remaining != fmt.Sprint(max(2-i, 0)) {
				wrong = append(wrong, fmt.Sprintf("in the shadow: %d, %s remain", code, remaining))
			}
		}
		return wrong
	})
	res, err := http.Get("http://" + httpAddress + "/metrics")
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	for _, want := range []string{`{limit="rl.unspec_unspecified_value",result="refused"}`, `{limit="rl.foo.baz_shady",result="shadow_refused"}`} {
		if !strings.Contains(string(text), "weir_ratelimit_decisions_total"+want) {
			t.Errorf("no metric %s", want)
		}
	}
}

// exampleRoutes is a route with a descriptor of each list of headers.
func exampleRoutes(path string, descriptors ...string) string {
	var limits []string
	for _, d := range descriptors {
		var actions []string
		for h := range strings.FieldsSeq(d) {
			actions = append(actions, fmt.Sprintf("{request_headers: {header_name: %s, descriptor_key: %s}}", h, h))
		}
		limits = append(limits, "{actions: ["+strings.Join(actions, ", ")+"]}")
	}
	return fmt.Sprintf("{match: {prefix: %s}, route: {cluster: up, rate_limits: [%s]}}", path, strings.Join(limits, ", "))
}

const exampleProxy = `
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
              routes: [%s, %s, %s, %s, %s]
          http_filters:
          - name: ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: rl
              request_type: external
              rate_limited_as_resource_exhausted: true
              failure_mode_deny: true
              timeout: 5s
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
`
