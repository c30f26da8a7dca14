package collector_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/machinenativeops/weir/internal/servers"
)

// collector is the real weir-collector with the configuration that users get, as a process.
type collector struct {
	env     []string
	otlp    string // addresses
	health  string
	metrics string
	jaeger  string
	zipkin  string
	red     string
	configs []string
	process *exec.Cmd
	exited  chan struct{}
	output  *os.File
	binary  string
}

// newCollector prepares a collector; policy documents are in a folder of their own, which the test may change.
func newCollector(t *testing.T, s3 *servers.S3, policy string) *collector {
	t.Helper()
	ports := freePorts(t, 10)
	output, err := os.Create(filepath.Join(t.TempDir(), "collector.log"))
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{otlp: ports[0], health: ports[1], metrics: ports[2], jaeger: ports[3], zipkin: ports[4], red: ports[7], configs: []string{"config.yaml"}, output: output, binary: build(t)}
	_, metricsPort, _ := net.SplitHostPort(c.metrics)
	c.env = []string{
		"WEIR_OTLP_GRPC=" + c.otlp, "WEIR_OTLP_HTTP=" + ports[5], "WEIR_HEALTH=" + c.health,
		"WEIR_JAEGER_GRPC=" + c.jaeger, "WEIR_JAEGER_HTTP=" + ports[6], "WEIR_ZIPKIN=" + c.zipkin,
		"WEIR_SAMPLING_HTTP=" + ports[8], "WEIR_SAMPLING_GRPC=" + ports[9], "WEIR_METRICS_PORT=" + metricsPort, "WEIR_POLICY=" + policy, "WEIR_QUEUE=" + t.TempDir(),
		"AWS_ACCESS_KEY_ID=" + s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3.SecretKey, "AWS_EC2_METADATA_DISABLED=true",
		"HOME=" + t.TempDir(), "WEIR_ARCHIVE_FLUSH=1s", "WEIR_RED_METRICS=" + c.red, "WEIR_RED_FLUSH=100ms",
	}
	t.Cleanup(func() {
		c.kill(t)
		if t.Failed() {
			log, _ := os.ReadFile(output.Name())
			t.Logf("weir-collector said:\n%s", log[max(0, len(log)-8000):])
		}
		_ = output.Close()
	})
	return c
}

// build builds the collector where its sources have changed.
func build(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../tools/collector.sh")
	cmd.Stderr = t.Output()
	path, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(path))
}

// start runs it, and returns when it is ready.
func (c *collector) start(t *testing.T) {
	t.Helper()
	var args []string
	for _, file := range c.configs {
		args = append(args, "--config", file)
	}
	c.process = exec.Command(c.binary, args...)
	c.process.Env, c.process.Stdout, c.process.Stderr = c.env, c.output, c.output
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func(p *exec.Cmd) { _ = p.Wait(); close(exited) }(c.process)
	c.exited = exited
	eventually(t, 30*time.Second, "the collector is ready", func() bool {
		select {
		case <-exited:
			t.Fatal("the collector ended")
		default:
		}
		return get(t, "http://"+c.health+"/") != ""
	})
}

// kill ends it with SIGKILL, as a crash would.
func (c *collector) kill(t *testing.T) {
	t.Helper()
	if c.process == nil {
		return
	}
	_ = c.process.Process.Kill()
	<-c.exited
	c.process = nil
}

// client gives an OTLP client.
func (c *collector) client(t *testing.T) ptraceotlp.GRPCClient {
	t.Helper()
	conn, err := grpc.NewClient(c.otlp, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ptraceotlp.NewGRPCClient(conn)
}

// send sends one request and says whether the collector has acknowledged it.
func send(ctx context.Context, client ptraceotlp.GRPCClient, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := client.Export(ctx, ptraceotlp.NewExportRequestFromTraces(request(n)))
	return err
}

// metric sums the samples of a metric of the collector whose labels hold all of the texts.
func (c *collector) metric(t *testing.T, name string, labels ...string) int {
	t.Helper()
	sum := 0
	line := regexp.MustCompile(`(?m)^` + name + `(?:\{([^}]*)\})? (\S+)$`)
	for _, m := range line.FindAllStringSubmatch(get(t, "http://"+c.metrics+"/metrics"), -1) {
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		if containsAll(m[1], labels) {
			sum += int(value)
		}
	}
	return sum
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// get gives the body of a good answer, or "".
func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", within, what)
		case <-tick.C:
		}
	}
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	addresses := make([]string, n)
	for i := range addresses {
		var err error
		if addresses[i], err = servers.FreeAddress(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return addresses
}

// writePolicy writes the documents of the test fleet into a folder of their own. Percentages replace the defaults.
func writePolicy(t *testing.T, s3 *servers.S3, classes map[string]float64) string {
	t.Helper()
	var b bytes.Buffer
	for _, class := range []string{"main", "api", "background"} {
		fmt.Fprintf(&b, "kind: Service\nmetadata: {name: svc-%s, namespace: shop}\nspec:\n  class: %s\n  endpoints: {static: [{address: 127.0.0.1, port: 9}]}\n---\n", class, class)
	}
	fmt.Fprintf(&b, "kind: Retention\nmetadata: {name: default}\nspec:\n  archive: {bucket: \"s3://traces/weir\", endpoint: \"%s\"}\n", s3.Endpoint)
	if len(classes) > 0 {
		b.WriteString("---\nkind: Sampling\nmetadata: {name: default}\nspec:\n  classes:\n")
		for class, percent := range classes {
			fmt.Fprintf(&b, "    %s: %v\n", class, percent)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
