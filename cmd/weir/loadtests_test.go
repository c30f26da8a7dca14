package main

import (
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// TestLoadTestsAreTold: how each stands, why it ended, and whether enough is known of real requests to stop it.
func TestLoadTestsAreTold(t *testing.T) {
	at := time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	fared := func(requests, failed uint64, proxies int) *realStatus {
		return &realStatus{Window: "10s", Requests: requests, Failed: failed, MeanLatency: 0.0314, MinRequests: 100, Proxies: proxies}
	}
	tests := counted([]loadTestStatus{
		{Route: "s/a", Rule: "counted", State: testRuns, limit: "loadtest/s/a/counted"},
		{Route: "s/b", Rule: "watched", State: testRuns, Until: &at, Real: fared(1043, 2, 3)},
		{Route: "s/c", Rule: "few", State: testRuns, Until: &at, Real: fared(99, 99, 3)},
		{Route: "s/d", Rule: "none", State: testRuns, Until: &at, Real: fared(0, 0, 3)},
		{Route: "s/e", Rule: "unknown", State: testRuns, Until: &at, Real: fared(0, 0, 0)},
		{Route: "s/f", Rule: "stopped", State: testStopped, Since: &at, Why: "they failed", Until: &at},
		{Route: "s/g", Rule: "over", State: testOver, Since: &at},
	}, []ratelimit.LimitStatus{{ID: "limit/x", Allowed: 1}, {ID: "loadtest/s/a/counted", Allowed: 7, Requests: 500}})
	var out strings.Builder
	if err := printLoadTests(&out, tests); err != nil {
		t.Fatal(err)
	}
	want := `
LOAD TEST    STATE                                REAL REQUESTS
s/a counted  running, 7 of 500 requests           not watched
s/b watched  running, until 2026-11-30T20:00:00Z  1043 within 10s, 2 failed, some 31ms on average
s/c few      running, until 2026-11-30T20:00:00Z  99 within 10s, 99 failed, some 31ms on average; too few to judge, which takes 100
s/d none     running, until 2026-11-30T20:00:00Z  none reported within 10s
s/e unknown  running, until 2026-11-30T20:00:00Z  not known: no proxy reports; their bootstraps are of an older weir
s/f stopped  stopped at 2026-11-30T20:00:00Z: they failed
s/g over     over since 2026-11-30T20:00:00Z
`
	if out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
	out.Reset()
	if err := printLoadTests(&out, nil); err != nil || out.String() != "" {
		t.Errorf("of none: %q, %v", out.String(), err)
	}
}
