package collector_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // what collectors compress with
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/servers"
)

// lazyConfig has each request come undecoded, and decoded, to the sampler and on to a server of its own. BETWEEN is what is
// between memory_limiter and the sampler, behind the first receiver.
const lazyConfig = `
receivers:
  otlp_lazy:
    protocols:
      grpc: {endpoint: "UNDECODED", max_recv_msg_size_mib: 1}
      http: {endpoint: "HTTP"}
  otlp_lazy/tls: {protocols: {grpc: {endpoint: "TLS", tls: {cert_file: CERT, key_file: KEY, client_ca_file: CERT}}}}
  otlp_lazy/decoded: {undecoded: false, protocols: {grpc: {endpoint: "DECODED"}, http: {endpoint: "HTTPDECODED"}}}
processors:
  memory_limiter/undecoded: {check_interval: 1s, limit_mib: 1000}
  memory_limiter/decoded: {check_interval: 1s, limit_mib: 1000}
  adaptive_sampling: {policy: [POLICY]}
  batch:
exporters:
  otlp_grpc/undecoded: {endpoint: "SINKU", tls: {insecure: true}, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
  otlp_grpc/decoded: {endpoint: "SINKD", tls: {insecure: true}, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
extensions: {health_check: {endpoint: "${env:WEIR_HEALTH}"}}
service:
  extensions: [health_check]
  pipelines:
    traces: {receivers: [otlp_lazy, otlp_lazy/tls], processors: [memory_limiter/undecoded, BETWEENadaptive_sampling], exporters: [otlp_grpc/undecoded]}
    traces/decoded: {receivers: [otlp_lazy/decoded], processors: [memory_limiter/decoded, adaptive_sampling], exporters: [otlp_grpc/decoded]}
    logs: {receivers: [otlp_lazy], exporters: [otlp_grpc/undecoded]}
    metrics: {receivers: [otlp_lazy], exporters: [otlp_grpc/undecoded]}
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: "${env:WEIR_METRICS_PORT}"}}}}]}}
`

// everything keeps all spans of the test fleet.
const everything = "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 100, health: 100, executions: 100}}\n"

// sink is a server that takes what a collector sends on.
type sink struct {
	address string

	mu      sync.Mutex // guards everything below
	refuses bool
	spans   []string // with their resources
	logs    []string
	metrics []string
}

func newSink(t *testing.T) *sink {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &sink{address: l.Addr().String()}
	s := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(s, &sinkOfSpans{sink: k})
	plogotlp.RegisterGRPCServer(s, &sinkOfLogs{sink: k})
	pmetricotlp.RegisterGRPCServer(s, &sinkOfMetrics{sink: k})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return k
}

type sinkOfSpans struct {
	ptraceotlp.UnimplementedGRPCServer
	*sink
}

func (s *sinkOfSpans) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses {
		return ptraceotlp.NewExportResponse(), status.Error(codes.Unavailable, "the sink is full")
	}
	for _, rs := range r.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				s.spans = append(s.spans, oneSpan(rs, ss, span))
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

// oneSpan is all that is said of a span.
func oneSpan(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans, span ptrace.Span) string {
	td := ptrace.NewTraces()
	one := td.ResourceSpans().AppendEmpty()
	rs.Resource().CopyTo(one.Resource())
	one.SetSchemaUrl(rs.SchemaUrl())
	scope := one.ScopeSpans().AppendEmpty()
	ss.Scope().CopyTo(scope.Scope())
	scope.SetSchemaUrl(ss.SchemaUrl())
	span.CopyTo(scope.Spans().AppendEmpty())
	text, err := new(ptrace.JSONMarshaler).MarshalTraces(td)
	if err != nil {
		panic(err)
	}
	return string(text)
}

type sinkOfLogs struct {
	plogotlp.UnimplementedGRPCServer
	*sink
}

func (s *sinkOfLogs) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := r.MarshalJSON()
	s.logs = append(s.logs, string(text))
	return plogotlp.NewExportResponse(), err
}

type sinkOfMetrics struct {
	pmetricotlp.UnimplementedGRPCServer
	*sink
}

func (s *sinkOfMetrics) Export(_ context.Context, r pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := r.MarshalJSON()
	s.metrics = append(s.metrics, string(text))
	return pmetricotlp.NewExportResponse(), err
}

// sorted gives the spans that have come, in an order that is the same wherever they came by.
func (k *sink) sorted() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(slices.Values(k.spans))
}

func (k *sink) refuse(refuses bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuses = refuses
}

// lazyWorld is a real collector with two receivers that take the same and hand it on in different ways.
type lazyWorld struct {
	*testing.T
	collector          *collector
	undecoded, decoded *sink
	grpc, http         [2]string // addresses of the receivers that hand on undecoded, and decoded
	tls                string
	cert, key          string
	replace            []string
	conns              map[string]*grpc.ClientConn
}

func newLazyWorld(t *testing.T, documents string) *lazyWorld {
	t.Helper()
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &lazyWorld{T: t, undecoded: newSink(t), decoded: newSink(t), conns: map[string]*grpc.ClientConn{}}
	ports := freePorts(t, 5)
	w.grpc, w.http, w.tls = [2]string{ports[0], ports[1]}, [2]string{ports[2], ports[3]}, ports[4]
	w.cert, w.key = servers.RedisCertificate(t)
	w.replace = []string{
		"SINKU", w.undecoded.address, "SINKD", w.decoded.address, "HTTPDECODED", w.http[1], "HTTP", w.http[0], "UNDECODED", w.grpc[0],
		"DECODED", w.grpc[1], "TLS", w.tls, "CERT", w.cert, "KEY", w.key, "POLICY", policy,
	}
	w.collector = newCollector(t, new(servers.S3), policy)
	w.collector.configs = []string{filepath.Join(dir, "collector.yaml")}
	w.write("")
	w.collector.start(t)
	return w
}

// write writes the configuration.
func (w *lazyWorld) write(between string) {
	w.Helper()
	text := strings.NewReplacer(append(w.replace, "BETWEEN", between)...).Replace(lazyConfig)
	if err := os.WriteFile(w.collector.configs[0], []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// export sends spans by gRPC.
func (w *lazyWorld) export(address string, body []byte, options ...grpc.CallOption) error {
	w.Helper()
	conn := w.conns[address]
	if conn == nil {
		creds := insecure.NewCredentials()
		if address == w.tls {
			creds = w.credentials(true)
		}
		conn = w.dial(address, creds)
		w.conns[address] = conn
	}
	return export(w.T, conn, body, options...)
}

func (w *lazyWorld) dial(address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	w.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	return conn
}

func export(t *testing.T, conn *grpc.ClientConn, body []byte, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var reply []byte
	return conn.Invoke(ctx, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", &body, &reply, append(options, grpc.ForceCodec(rawCodec{}))...)
}

// credentials trust the collector, and are trusted by it where they have a certificate of their own.
func (w *lazyWorld) credentials(own bool) credentials.TransportCredentials {
	w.Helper()
	pem, err := os.ReadFile(w.cert)
	if err != nil {
		w.Fatal(err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if own {
		pair, err := tls.LoadX509KeyPair(w.cert, w.key)
		if err != nil {
			w.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config)
}

// post sends by HTTP, and gives the status of the answer.
func (w *lazyWorld) post(address, path, contentType string, body []byte, compressed bool) int {
	w.Helper()
	encoding := ""
	if compressed {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		body, encoding = b.Bytes(), "gzip"
	}
	req, err := http.NewRequestWithContext(w.Context(), http.MethodPost, "http://"+address+path, bytes.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Content-Encoding", encoding)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// smallRequest gives a tenth of a request of the test fleet.
func smallRequest(n int) (td ptrace.Traces, body, json []byte) {
	td = request(n)
	td.ResourceSpans().At(0).ScopeSpans().At(0).Scope().SetName("scope")
	for _, rs := range td.ResourceSpans().All() {
		i := 0
		rs.ScopeSpans().At(0).Spans().RemoveIf(func(s ptrace.Span) bool {
			s.Attributes().PutInt("n", int64(i))
			s.Events().AppendEmpty().SetName("event")
			i++
			return i > 200
		})
	}
	body, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		panic(err)
	}
	if json, err = new(ptrace.JSONMarshaler).MarshalTraces(td); err != nil {
		panic(err)
	}
	return td, body, json
}

// TestUndecodedAndDecoded: whatever spans come by, and whether or not they are handed on undecoded, the real collector keeps the
// same of them, span by span and by whole traces; and they are handed on undecoded.
func TestUndecodedAndDecoded(t *testing.T) {
	for name, documents := range map[string]string{
		"span by span": "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 30}}\n",
		"whole traces": "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 30}, keep: {errors: true}, wait: 1s}\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newLazyWorld(t, documents)
			sent := 0
			for i, address := range w.grpc {
				n := 0
				each := func(send func(body, json []byte) error) {
					td, body, json := smallRequest(n)
					n++
					if err := send(body, json); err != nil {
						t.Fatal(err)
					}
					sent += td.SpanCount()
				}
				posted := func(kind string, body []byte, compressed bool) error {
					if code := w.post(w.http[i], "/v1/traces", kind, body, compressed); code != http.StatusOK {
						return fmt.Errorf("%s: status %d", kind, code)
					}
					return nil
				}
				each(func(body, _ []byte) error { return w.export(address, body) })
				each(func(body, _ []byte) error { return w.export(address, body, grpc.UseCompressor("gzip")) })
				each(func(body, _ []byte) error { return posted("application/x-protobuf", body, false) })
				each(func(body, _ []byte) error { return posted("application/x-protobuf", body, true) })
				each(func(_, json []byte) error { return posted("application/json", json, false) })
			}
			sent /= 2
			eventually(t, 30*time.Second, "everything is judged", func() bool {
				return w.collector.metric(t, "otelcol_weir_sampling_spans(?:_total)?") == 2*sent &&
					w.collector.metric(t, "otelcol_weir_sampling_held_spans") == 0
			})
			eventually(t, 30*time.Second, "the same has come", func() bool {
				got, want := w.undecoded.sorted(), w.decoded.sorted()
				return len(want) > sent/10 && slices.Equal(got, want)
			})
			c := w.collector
			if got := c.metric(t, "otelcol_receiver_accepted_spans(?:_total)?", `receiver="otlp_lazy"`); got != sent {
				t.Errorf("the receiver has accepted %d spans, want %d", got, sent)
			}
			if got := c.metric(t, "otelcol_processor_incoming_items(?:_total)?", `processor="memory_limiter/decoded"`); got != sent {
				t.Errorf("memory_limiter was given %d decoded spans, want %d", got, sent)
			}
			if got := c.metric(t, "otelcol_processor_incoming_items(?:_total)?", `processor="memory_limiter/undecoded"`); got != sent/5 {
				t.Errorf("memory_limiter was given %d decoded spans by a receiver that hands them on undecoded, want those that came in JSON: %d", got, sent/5)
			}
		})
	}
}

// TestWhatIsRefused: the real collector says what will never be taken, and what is to be sent again, which then arrives.
func TestWhatIsRefused(t *testing.T) {
	w := newLazyWorld(t, everything)
	td, body, _ := smallRequest(0)
	for i, address := range w.grpc {
		if err := w.export(address, body[:len(body)-1]); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a malformed request by gRPC: %v", err)
		}
		if code := w.post(w.http[i], "/v1/traces", "application/x-protobuf", body[:len(body)-1], true); code != http.StatusBadRequest {
			t.Errorf("a malformed request by HTTP: status %d", code)
		}
	}
	long := bytes.Repeat(body, 1<<20/len(body)+1)
	if err := w.export(w.grpc[0], long); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an over-long request: %v", err)
	}
	w.undecoded.refuse(true)
	if err := w.export(w.grpc[0], body); status.Code(err) != codes.Unavailable {
		t.Errorf("the next server is full: %v by gRPC", err)
	}
	if code := w.post(w.http[0], "/v1/traces", "application/x-protobuf", body, false); code != http.StatusServiceUnavailable {
		t.Errorf("the next server is full: status %d by HTTP", code)
	}
	w.undecoded.refuse(false)
	if err := w.export(w.grpc[0], body); err != nil {
		t.Fatal(err)
	}
	if got := len(w.undecoded.sorted()); got != td.SpanCount() {
		t.Errorf("%d spans have come of %d", got, td.SpanCount())
	}
}

// TestLazyOverTLS: with client certificates, nobody else's spans are taken.
func TestLazyOverTLS(t *testing.T) {
	w := newLazyWorld(t, everything)
	td, body, _ := smallRequest(0)
	for what, creds := range map[string]credentials.TransportCredentials{"no certificate": w.credentials(false), "no TLS": insecure.NewCredentials()} {
		if err := export(t, w.dial(w.tls, creds), body); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.export(w.tls, body, grpc.UseCompressor("gzip")); err != nil {
		t.Fatal(err)
	}
	if got := len(w.undecoded.sorted()); got != td.SpanCount() {
		t.Errorf("%d spans have come of %d", got, td.SpanCount())
	}
}

// TestOtherSignals: logs and metrics come on the same ports, by gRPC and by HTTP.
func TestOtherSignals(t *testing.T) {
	w := newLazyWorld(t, everything)
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("hello")
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("calls")
	m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(3)
	logs, metrics := plogotlp.NewExportRequestFromLogs(ld), pmetricotlp.NewExportRequestFromMetrics(md)
	conn := w.dial(w.grpc[0], insecure.NewCredentials())
	if _, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), logs); err != nil {
		t.Error(err)
	}
	if _, err := pmetricotlp.NewGRPCClient(conn).Export(t.Context(), metrics); err != nil {
		t.Error(err)
	}
	for path, marshal := range map[string][2]func() ([]byte, error){"/v1/logs": {logs.MarshalProto, logs.MarshalJSON}, "/v1/metrics": {metrics.MarshalProto, metrics.MarshalJSON}} {
		for i, kind := range []string{"application/x-protobuf", "application/json"} {
			body, err := marshal[i]()
			if err != nil {
				t.Fatal(err)
			}
			if code := w.post(w.http[0], path, kind, body, i == 0); code != http.StatusOK {
				t.Errorf("%s in %s: status %d", path, kind, code)
			}
		}
	}
	wantLogs, _ := logs.MarshalJSON()
	wantMetrics, _ := metrics.MarshalJSON()
	if k := w.undecoded; !slices.Equal(k.logs, slices.Repeat([]string{string(wantLogs)}, 3)) || !slices.Equal(k.metrics, slices.Repeat([]string{string(wantMetrics)}, 3)) {
		t.Errorf("what has come: %q %q", k.logs, k.metrics)
	}
}

// TestLazyReload: a component that needs spans decoded may be put before the sampler while the collector runs: from then on they
// are decoded, and none is lost.
func TestLazyReload(t *testing.T) {
	w := newLazyWorld(t, everything)
	td, body, _ := smallRequest(0)
	if err := w.export(w.grpc[0], body); err != nil {
		t.Fatal(err)
	}
	if got := len(w.undecoded.sorted()); got != td.SpanCount() {
		t.Errorf("%d spans have come of %d", got, td.SpanCount())
	}
	w.write("batch, ")
	if err := w.collector.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the collector runs with another configuration", func() bool {
		told := get(t, "http://"+w.collector.metrics+"/metrics") != "" && w.collector.metric(t, "otelcol_receiver_accepted_spans(?:_total)?") == 0
		return told && w.export(w.grpc[0], nil) == nil
	})
	if err := w.export(w.grpc[0], body); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the spans have come", func() bool { return len(w.undecoded.sorted()) == 2*td.SpanCount() })
	if got := w.collector.metric(t, "otelcol_processor_incoming_items(?:_total)?", `processor="memory_limiter/undecoded"`); got != td.SpanCount() {
		t.Errorf("memory_limiter was given %d decoded spans, want %d", got, td.SpanCount())
	}
}

// TestUndecodedWhereItIsWrong: a collector that is told to hand spans on undecoded where they would be lost does not start.
func TestUndecodedWhereItIsWrong(t *testing.T) {
	config := filepath.Join(t.TempDir(), "collector.yaml")
	err := os.WriteFile(config, []byte(`
receivers: {otlp_lazy: {undecoded: true, protocols: {grpc: }}}
exporters: {nop: }
service: {pipelines: {traces: {receivers: [otlp_lazy], exporters: [nop]}}}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), build(t), "validate", "--config", config).CombinedOutput()
	if want := "receivers::otlp_lazy::undecoded: the pipeline traces would get no spans"; err == nil || !strings.Contains(string(output), want) {
		t.Errorf("%v: %s, want %s", err, output, want)
	}
}
