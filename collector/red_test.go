package collector_test

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestRateErrorsDuration: what Prometheus reads of the real collector, as it is configured, is what was sent of each operation
// with each status, exactly, although nine spans of ten are dropped behind.
func TestRateErrorsDuration(t *testing.T) {
	const requests = 40
	s3 := servers.Minio(t)
	newBucket(t, s3)
	c := newCollector(t, s3, writePolicy(t, s3, map[string]float64{"main": 10, "api": 10, "background": 10, "health": 10, "executions": 10}))
	c.configs = append(c.configs, "metrics.yaml")
	c.start(t)
	calls, seconds := map[string]float64{}, map[string]float64{}
	client := c.client(t)
	for n := range requests {
		td := request(n)
		vary(td, calls, seconds)
		if _, err := client.Export(t.Context(), ptraceotlp.NewExportRequestFromTraces(td)); err != nil {
			t.Fatal(err)
		}
	}
	if n := calls["svc-main GET /cart STATUS_CODE_UNSET"]; n <= 10_000 {
		t.Fatalf("there are %v spans of an operation only", n)
	}
	eventually(t, 20*time.Second, "all spans are in the metrics", func() bool {
		text := get(t, "http://"+c.red+"/metrics")
		return maps.Equal(byOperation(t, text, "traces_span_metrics_calls_total"), calls) &&
			maps.Equal(byOperation(t, text, "traces_span_metrics_duration_seconds_count"), calls) &&
			maps.EqualFunc(byOperation(t, text, "traces_span_metrics_duration_seconds_sum"), seconds, func(a, b float64) bool { return math.Abs(a-b) < 1e-6*b })
	})
	if dropped := c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="dropped"`); dropped == 0 {
		t.Error("nothing was sampled, so that this says little")
	}
}

// vary has spans be of two operations, fail and take longer, and counts them.
func vary(td ptrace.Traces, calls, seconds map[string]float64) {
	for _, rs := range td.ResourceSpans().All() {
		service, _ := rs.Resource().Attributes().Get("service.name")
		for i, span := range rs.ScopeSpans().At(0).Spans().All() {
			status := "STATUS_CODE_UNSET"
			if i%3 == 0 {
				span.SetName("POST /pay")
			}
			if i%10 == 0 {
				span.Status().SetCode(ptrace.StatusCodeError)
				span.SetEndTimestamp(span.StartTimestamp() + 2e9)
				status = "STATUS_CODE_ERROR"
			}
			operation := fmt.Sprintf("%s %s %s", service.Str(), span.Name(), status)
			calls[operation]++
			seconds[operation] += float64(span.EndTimestamp()-span.StartTimestamp()) / 1e9
		}
	}
}

// byOperation has the samples of a metric, which have to be one for each operation and status.
func byOperation(t *testing.T, text, name string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	line := regexp.MustCompile(`(?m)^` + name + `\{[^}]*service_name="([^"]*)"[^}]*span_name="([^"]*)"[^}]*status_code="([^"]*)"[^}]*\} (\S+)`)
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		value, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[m[1]+" "+m[2]+" "+m[3]] += value
	}
	return out
}
