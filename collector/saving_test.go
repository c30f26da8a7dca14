package collector_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/machinenativeops/weir/internal/servers"
)

const (
	demoClasses = "  classes: {main: 20, api: 30, background: 5, health: 1, executions: 50}\n" // examples/demo's

	// The gateway's span is the root of every trace, so that its operation is what a trace is judged by.
	demoKeeps = demoClasses + `  operations:
    - {service: edge, operation: "GET /", percent: 20}
    - {service: edge, operation: "GET /items", percent: 30}
    - {service: edge, operation: "GET /limited", percent: 30}
    - {service: edge, operation: "GET /job", percent: 5}
    - {service: edge, operation: "GET /healthz", percent: 1}
    - {service: edge, operation: "GET /run", percent: 50}
  keep: {errors: true, slowerThan: 1s}
  wait: 2s
`
	demoKeepsAll = "  classes: {main: 100, api: 100, background: 100, health: 100, executions: 100, default: 100}\n"
)

// TestSaving holds what Weir claims: of the demo's mix of traffic, of which one trace in a hundred fails and one in a
// hundred is slow, 50 to 90 % fewer bytes are archived, and every trace that failed or was slow is there whole.
func TestSaving(t *testing.T) {
	everything, sent := archiveDemo(t, demoKeepsAll)
	for id, tr := range sent {
		if tr.archived != tr.spans {
			t.Fatalf("everything is kept, but of trace %s %d of %d spans are archived", id, tr.archived, tr.spans)
		}
	}
	sampled, sent := archiveDemo(t, demoKeeps)
	var matter, kept int
	for id, tr := range sent {
		if tr.archived != 0 && tr.archived != tr.spans {
			t.Errorf("trace %s is split: %d of %d spans are archived", id, tr.archived, tr.spans)
		}
		if tr.archived > 0 {
			kept++
		}
		if tr.failed || tr.slow {
			matter++
			if tr.archived == 0 {
				t.Errorf("trace %s is lost: it failed %v, was slow %v", id, tr.failed, tr.slow)
			}
		}
	}
	saved := 100 * (1 - float64(sampled)/float64(everything))
	t.Logf("%.1f %% fewer bytes archived: %d instead of %d; %d of %d traces, among them all %d that failed or were slow", saved, sampled, everything, kept, len(sent), matter)
	if saved < 50 || saved > 90 {
		t.Errorf("%.1f %% fewer bytes are archived, want 50 to 90", saved)
	}
	if matter < 100 {
		t.Errorf("only %d traces failed or were slow: this says little", matter)
	}
}

// archiveDemo sends the demo's mix through a collector with its documents, of which the Sampling is another, and gives how
// many bytes are archived then, and of which traces.
func archiveDemo(t *testing.T, sampling string) (bytes int64, traces map[pcommon.TraceID]*demoTrace) {
	t.Helper()
	server := servers.Minio(t)
	archived := newBucket(t, server)
	c := newCollector(t, server, writeDemo(t, server, sampling))
	c.start(t)
	client := c.client(t)
	mix, spans := newDemoMix(), 0
	for range 30 { // seconds
		for _, td := range mix.second() {
			spans += td.SpanCount()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, err := client.Export(ctx, ptraceotlp.NewExportRequestFromTraces(td))
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 60*time.Second, "everything is judged and archived", func() bool {
		kept := c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="kept"`)
		dropped := c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="dropped"`)
		return kept+dropped == spans && c.metric(t, "otelcol_exporter_sent_spans(?:_total)?") == kept
	})
	for _, o := range archived.objects(t) {
		for _, rs := range o.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, span := range ss.Spans().All() {
					mix.traces[span.TraceID()].archived++
				}
			}
		}
	}
	c.kill(t)
	return archived.bytes(t), mix.traces
}

// bytes is how large the archive is.
func (b bucket) bytes(t *testing.T) (sum int64) {
	t.Helper()
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			sum += *o.Size
		}
	}
	return sum
}

// writeDemo writes the demo's documents with another Sampling.
func writeDemo(t *testing.T, server *servers.S3, sampling string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"services.yaml", "telemetry.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "examples", "demo", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "telemetry.yaml" && !strings.Contains(string(text), demoClasses) {
			t.Fatalf("the demo's classes are others than the test's:\n%s", text)
		}
		mine := strings.NewReplacer("http://127.0.0.1:9000", server.Endpoint, "s3://traces", "s3://traces/weir", demoClasses, sampling).Replace(string(text))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(mine), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// demoFlows are the requests of the demo: how many a second, which service, and which others it calls (cmd/demo).
var demoFlows = []struct {
	aSecond             int
	host, path, service string
	calls               []string
}{
	{50, "main.demo", "/", "main", []string{"api", "executions"}},
	{125, "api.demo", "/items", "api", nil},
	{20, "api.demo", "/limited", "api", nil},
	{20, "api.demo", "/limited", "", nil}, // refused by the gateway
	{67, "background.demo", "/job", "background", nil},
	{67, "health.demo", "/healthz", "health", nil},
	{33, "executions.demo", "/run", "executions", nil},
}

// demoTrace is what is known of a trace that was sent.
type demoTrace struct {
	spans, archived int
	failed, slow    bool
}

// demoMix makes the demo's traces, the same ones every time. They are made as Envoy and the sample services make them.
type demoMix struct {
	random *rand.Rand
	now    time.Time
	traces map[pcommon.TraceID]*demoTrace

	batches map[string]ptrace.Traces // of this second, by service
	trace   *demoTrace
	id      pcommon.TraceID
}

func newDemoMix() *demoMix {
	return &demoMix{
		random: rand.New(rand.NewPCG(20261127, 7)), now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
		traces: map[pcommon.TraceID]*demoTrace{},
	}
}

// second gives what comes in one second: a batch of each service, as each sends its own.
func (m *demoMix) second() (batches []ptrace.Traces) {
	m.batches = map[string]ptrace.Traces{}
	for _, f := range demoFlows {
		for range f.aSecond {
			at := m.now.Add(m.upTo(time.Second))
			m.begin()
			root := m.gateway(pcommon.SpanID{}, f.host, f.path, at, f.service == "")
			if f.service != "" {
				m.serve(root, f.service, f.path, f.calls, at)
			}
		}
	}
	m.now = m.now.Add(time.Second)
	for _, service := range []string{"main", "edge", "api", "background", "health", "executions"} {
		batches = append(batches, m.batches[service])
	}
	return batches
}

func (m *demoMix) upTo(d time.Duration) time.Duration {
	return time.Duration(m.random.Int64N(int64(d)))
}

func (m *demoMix) begin() {
	binary.BigEndian.PutUint64(m.id[:8], m.random.Uint64())
	binary.BigEndian.PutUint64(m.id[8:], m.random.Uint64())
	m.trace = &demoTrace{}
	m.traces[m.id] = m.trace
	switch m.random.IntN(100) {
	case 0:
		m.trace.failed = true
	case 1:
		m.trace.slow = true
	}
}

// took is how long something took that usually takes so long.
func (m *demoMix) took(usual time.Duration) time.Duration { return usual/2 + m.upTo(usual) }

func (m *demoMix) span(service string, parent pcommon.SpanID, name string, kind ptrace.SpanKind, at time.Time, took time.Duration) ptrace.Span {
	td, ok := m.batches[service]
	if !ok {
		td = ptrace.NewTraces()
		m.batches[service] = td
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", service)
		if service != "edge" {
			rs.Resource().Attributes().PutStr("service.namespace", "demo")
			rs.Resource().Attributes().PutStr("service.version", "v1")
			rs.ScopeSpans().AppendEmpty().Scope().SetName("weir/demo")
		} else {
			rs.ScopeSpans().AppendEmpty()
		}
	}
	var id pcommon.SpanID
	binary.BigEndian.PutUint64(id[:], m.random.Uint64())
	m.trace.spans++
	span := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().AppendEmpty()
	span.SetTraceID(m.id)
	span.SetSpanID(id)
	span.SetParentSpanID(parent)
	span.SetName(name)
	span.SetKind(kind)
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(at))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(at.Add(took)))
	return span
}

// gateway is Envoy's span. The root of a trace without a service, which is refused, fails or is slow by itself.
func (m *demoMix) gateway(parent pcommon.SpanID, host, path string, at time.Time, refused bool) pcommon.SpanID {
	took, code := m.took(4*time.Millisecond), "200"
	if refused {
		code = "429"
		if m.trace.slow {
			took += time.Second
		}
	}
	span := m.span("edge", parent, "GET "+path, ptrace.SpanKindServer, at, took)
	if refused && m.trace.failed {
		code = "503"
		span.Status().SetCode(ptrace.StatusCodeError)
	}
	var request [16]byte
	binary.BigEndian.PutUint64(request[:8], m.random.Uint64())
	binary.BigEndian.PutUint64(request[8:], m.random.Uint64())
	for _, kv := range [][2]string{
		{"component", "proxy"},
		{"http.method", "GET"},
		{"http.protocol", "HTTP/1.1"},
		{"http.status_code", code},
		{"http.url", "http://" + host + path},
		{"guid:x-request-id", pcommon.TraceID(request).String()},
		{"node_id", "edge"},
		{"peer.address", "127.0.0.1"},
		{"request_size", "0"},
		{"response_size", "8"},
		{"response_flags", "-"},
		{"upstream_cluster", "demo/" + host},
		{"upstream_cluster.name", "demo/" + host},
		{"user_agent", "Go-http-client/1.1"},
		{"user_id", "demo"},
	} {
		span.Attributes().PutStr(kv[0], kv[1])
	}
	return span.SpanID()
}

// serve is the spans of a service: its own, one for each step of the work, and one for each call. The first service of a
// trace is the one in which it fails or is slow.
func (m *demoMix) serve(parent pcommon.SpanID, service, path string, calls []string, at time.Time) {
	first := m.trace.spans == 1
	took := m.took(3 * time.Millisecond)
	if first && m.trace.slow {
		took += time.Second
	}
	own := m.span(service, parent, "GET "+path, ptrace.SpanKindServer, at, took)
	if first && m.trace.failed {
		own.Status().SetCode(ptrace.StatusCodeError)
		own.Status().SetMessage("the database is away")
	}
	id := own.SpanID() // what follows may move the span
	for _, step := range []string{"authorize", "query", "render"} {
		m.span(service, id, step, ptrace.SpanKindInternal, at, m.took(time.Millisecond))
	}
	for _, name := range calls {
		call := m.span(service, id, "call "+name, ptrace.SpanKindClient, at, m.took(4*time.Millisecond)).SpanID()
		m.serve(m.gateway(call, name+".demo", "/"+name, at, false), name, "/"+name, nil, at)
	}
}
