package collector_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestRateErrorsDuration: what Prometheus reads of the real collector is what was sent, although nine spans of ten are
// dropped behind.
func TestRateErrorsDuration(t *testing.T) {
	const requests = 40
	s3 := servers.Minio(t)
	newBucket(t, s3)
	c := newCollector(t, s3, writePolicy(t, s3, map[string]float64{"main": 10, "api": 10, "background": 10, "health": 10, "executions": 10}))
	c.configs = append(c.configs, "metrics.yaml")
	c.start(t)
	want := map[string]float64{}
	for n := range requests {
		for _, rs := range request(n).ResourceSpans().All() {
			service, _ := rs.Resource().Attributes().Get("service.name")
			for _, ss := range rs.ScopeSpans().All() {
				want[service.Str()] += float64(ss.Spans().Len())
			}
		}
	}
	sendAll(t, c, requests)
	var calls, durations map[string]float64
	eventually(t, 20*time.Second, "all spans are in the metrics", func() bool {
		text := get(t, "http://"+c.red+"/metrics")
		calls, durations = byService(t, text, "traces_span_metrics_calls_total"), byService(t, text, "traces_span_metrics_duration_seconds_count")
		return equal(calls, want) && equal(durations, want)
	})
	if dropped := c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="dropped"`); dropped == 0 {
		t.Error("nothing was sampled, so that this says little")
	}
}

func equal(a, b map[string]float64) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// byService sums the samples of a metric by service_name.
func byService(t *testing.T, text, name string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	line := regexp.MustCompile(`(?m)^` + name + `\{([^}]*)\} (\S+)`)
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(m[1], `service_name="`)
		service, _, _ := strings.Cut(rest, `"`)
		out[service] += value
	}
	return out
}
