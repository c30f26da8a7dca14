package collector_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/sampling"
)

const balancer = `
receivers: {otlp: {protocols: {grpc: {endpoint: "${env:WEIR_OTLP_GRPC}", max_recv_msg_size_mib: 16}}}}
exporters:
  load_balancing:
    protocol: {otlp: {tls: {insecure: true}, sending_queue: {enabled: false}}}
    resolver: {static: {hostnames: [%s]}}
extensions: {health_check: {endpoint: "${env:WEIR_HEALTH}"}}
service:
  extensions: [health_check]
  pipelines: {traces: {receivers: [otlp], exporters: [load_balancing]}}
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: "${env:WEIR_METRICS_PORT}"}}}}]}}
`

// TestTwoCollectorsBehindABalancer: traces that the load_balancing exporter spreads over two collectors by their ids stay
// whole. When one of them dies while it holds halves of traces, and the other halves come to the other, both halves are
// judged alike, by the same randomness at the same rates, though neither knows of the other's.
func TestTwoCollectorsBehindABalancer(t *testing.T) {
	const percent, blocks = 30, 8 // in each of two parts
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	documents := writeWhole(t, s3, percent, "  keep: {errors: true}\n  wait: 5s\n")
	a, b := newCollector(t, s3, documents), newCollector(t, s3, documents)
	front := newCollector(t, s3, documents)
	front.configs = []string{filepath.Join(t.TempDir(), "front.yaml")}
	a.start(t)
	b.start(t)

	balance(t, front, a.otlp+", "+b.otlp)
	sendAll(t, front, 2*blocks)
	judged := func(c *collector) int { return c.metric(t, "otelcol_weir_sampling_traces(?:_total)?") }
	eventually(t, 60*time.Second, "all traces are judged", func() bool { return judged(a)+judged(b) >= blocks*blockTraces })
	if one, other := judged(a), judged(b); one == 0 || other == 0 || one+other != blocks*blockTraces {
		t.Errorf("of %d traces, %d are judged by one collector and %d by the other", blocks*blockTraces, one, other)
	}

	sendEach(t, front, 2*blocks, 4*blocks) // the first halves
	if held := b.metric(t, "otelcol_weir_sampling_held_spans"); held == 0 {
		t.Fatal("the collector holds nothing when it dies: this proves nothing")
	}
	b.kill(t)
	front.kill(t)
	balance(t, front, a.otlp)
	sendEach(t, front, 2*blocks+1, 4*blocks) // the others
	b.start(t)

	eventually(t, 60*time.Second, "exactly what its trace's randomness says is archived", func() bool {
		return judgedOtherwise(archived.spanCounts(t, 2*blocks*blockSpans), percent) == ""
	})
}

// balance starts a collector that spreads traces over others.
func balance(t *testing.T, c *collector, over string) {
	t.Helper()
	if err := os.WriteFile(c.configs[0], fmt.Appendf(nil, balancer, over), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t)
}

// sendEach sends each second request.
func sendEach(t *testing.T, c *collector, first, end int) {
	t.Helper()
	client := c.client(t)
	for n := first; n < end; n += 2 {
		if err := send(t.Context(), client, n); err != nil {
			t.Fatal(err)
		}
	}
}

// judgedOtherwise names a span that is in the archive although its trace's randomness is below the rate, or the other way
// round. It may be there twice: a collector that dies sends what it has not noted again.
func judgedOtherwise(counts []uint8, percent float64) string {
	threshold := sampling.FromPercent(percent)
	for span, n := range counts {
		trace, _ := place(span)
		if keep := threshold.Keep(sampling.FromTraceID(traceID(trace))); keep != (n > 0) {
			return fmt.Sprintf("span %d of trace %d is archived %d times, kept %v", span, trace, n, keep)
		}
	}
	return ""
}
