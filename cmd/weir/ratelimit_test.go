package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/compat"
)

// TestRateLimitIsSeen asks a weir ratelimit how it stands, with the commands that are for weir serve too.
func TestRateLimitIsSeen(t *testing.T) {
	quiet, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	domains, problems := compat.Parse([]compat.File{{Name: "shop.yaml", Data: []byte(`{domain: shop, descriptors: [
		{key: user, rate_limit: {unit: day, requests_per_unit: 1}}, {key: free, rate_limit: {unlimited: true}}]}`)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	limits := ratelimit.New(quiet, ratelimit.Options{Keys: 100})
	limits.ApplyDomains(domains)
	var q ratelimitsvcv3.RateLimitRequest
	if err := protojson.Unmarshal([]byte(`{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "bob"}]}]}`), &q); err != nil {
		t.Fatal(err)
	}
	if _, err := limits.ShouldRateLimit(t.Context(), &q); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(rateLimitHandler(limits, registry, func() bool { return true }))
	t.Cleanup(s.Close)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"status"}, 0, "the rate limit service alone, 1 counter in use\n"},
		{[]string{"status", "-o", "json"}, 0, `"id": "shop.user"`},
		{[]string{"ratelimit", "check", "domain=shop free=x"}, 0, "shop.free: unlimited\n"},
		{[]string{"ratelimit", "check", "domain=shop user=eve"}, 0, "shop.user: 1 per day (fixed_window)\none more request would pass\n1 remaining"},
		{[]string{"ratelimit", "check", "domain=shop user=bob"}, exitRefused, "one more request would be refused, for another "},
		{[]string{"ratelimit", "check", "domain=shop other=x"}, exitFailed, "no limit in force is for this descriptor"},
		{[]string{"ratelimit", "top"}, 0, "shop.user  user=bob"},
	} {
		stdout, stderr, code := weir(t, append(c.args, "--http-address", strings.TrimPrefix(s.URL, "http://"))...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) || strings.Contains(stdout, "PROXY") {
			t.Errorf("%v: exit %d, want %d with %q\n%s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
}
