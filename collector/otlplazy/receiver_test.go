package otlplazy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/servers"
)

// next is what is behind the receiver.
type next struct {
	takes bool  // undecoded requests
	drops bool  // what it is given
	err   error // that it answers with
	wait  func()

	mu    sync.Mutex
	calls int
	came  []string // requests of spans in protobuf, decoded or not
	info  client.Info
}

func (n *next) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (n *next) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if n.wait != nil {
		n.wait()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	n.info = client.FromContext(ctx)
	if n.err != nil {
		return n.err
	}
	if n.takes {
		data, spans, _ := lazy.Take(ctx)
		if n.drops {
			return nil
		}
		if data != nil {
			if spans == 0 || td.SpanCount() != 0 {
				return fmt.Errorf("%d spans in a request, and %d beside it", spans, td.SpanCount())
			}
			n.came = append(n.came, string(data))
			return nil
		}
	}
	if td.SpanCount() > 0 {
		n.came = append(n.came, string(marshal(td)))
	}
	return nil
}

// all gives what has come, and how often it was called.
func (n *next) all() (came []string, calls int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.came, n.calls
}

func marshal(td ptrace.Traces) []byte {
	data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		panic(err)
	}
	return data
}

// world is a receiver that listens.
type world struct {
	testing.TB
	factory receiver.Factory
	next    *next
	logs    consumertest.LogsSink
	metrics consumertest.MetricsSink
	told    *componenttest.Telemetry
	grpc    string
	http    string
	conn    *grpc.ClientConn
	all     []component.Component
}

func start(t testing.TB, n *next, settings map[string]any) *world {
	t.Helper()
	return startOf(t, NewFactory(), n, settings)
}

// theirs is the collector's own receiver.
var theirs = otlpreceiver.NewFactory()

func startOf(t testing.TB, f receiver.Factory, n *next, settings map[string]any) *world {
	t.Helper()
	w := &world{TB: t, factory: f, next: n, grpc: address(t), http: address(t), told: componenttest.NewTelemetry()}
	cfg := f.CreateDefaultConfig()
	w.unmarshal(cfg, map[string]any{"protocols": map[string]any{
		"grpc": map[string]any{"endpoint": w.grpc}, "http": map[string]any{"endpoint": w.http},
	}})
	w.unmarshal(cfg, settings)
	w.all = w.components(cfg)
	for _, r := range w.all {
		require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
		t.Cleanup(func() { require.NoError(t, r.Shutdown(context.WithoutCancel(t.Context()))) })
	}
	var err error
	w.conn, err = grpc.NewClient(w.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = w.conn.Close()
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, w.told.Shutdown(context.WithoutCancel(t.Context())))
	})
	return w
}

func (w *world) unmarshal(cfg component.Config, settings map[string]any) {
	w.Helper()
	require.NoError(w, confmap.NewFromStringMap(settings).Unmarshal(cfg))
	require.NoError(w, confmap.Validate(cfg))
}

// components are those that a collector would make for traces, metrics and logs.
func (w *world) components(cfg component.Config) []component.Component {
	w.Helper()
	f := w.factory
	set := receivertest.NewNopSettings(f.Type())
	set.TelemetrySettings = w.told.NewTelemetrySettings()
	traces, err := f.CreateTraces(w.Context(), set, cfg, w.next)
	require.NoError(w, err)
	metrics, err := f.CreateMetrics(w.Context(), set, cfg, &w.metrics)
	require.NoError(w, err)
	logs, err := f.CreateLogs(w.Context(), set, cfg, &w.logs)
	require.NoError(w, err)
	return []component.Component{traces, metrics, logs}
}

func address(t testing.TB) string {
	t.Helper()
	a, err := servers.FreeAddress(t.Context())
	require.NoError(t, err)
	return a
}

// export sends a request of spans by gRPC.
func (w *world) export(data []byte, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(w.Context(), "tenant", "shop"), 10*time.Second)
	defer cancel()
	var reply []byte
	err := w.conn.Invoke(ctx, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", data, &reply, append(options, grpc.ForceCodec(raw{}))...)
	if err == nil && len(reply) > 0 && w.factory != theirs { // whose partial_success is set and empty, which OTLP forbids
		w.Errorf("the answer is %x", reply)
	}
	return err
}

// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

func (raw) Name() string { return "proto" }

// post sends a request by HTTP. Headers are names and values in turn.
func (w *world) post(path, contentType string, body []byte, headers ...string) (*http.Response, string) {
	return w.request(http.MethodPost, path, body, append(headers, "Content-Type", contentType)...)
}

func (w *world) request(method, path string, body []byte, headers ...string) (*http.Response, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, "http://"+w.http+path, bytes.NewReader(body))
	require.NoError(w, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(w, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(w, err)
	return res, string(text)
}

// spans are some, with names of so many bytes.
func spans(n, bytes int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "shop")
	of := rs.ScopeSpans().AppendEmpty().Spans()
	for i := range n {
		s := of.AppendEmpty()
		s.SetTraceID([16]byte{1, byte(i)})
		s.SetSpanID([8]byte{2, byte(i)})
		s.SetName(strings.Repeat(string(rune('a'+i%26)), bytes))
		s.Attributes().PutInt("n", int64(i))
	}
	return td
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// TestSpansAsTheyCame: whatever a request comes by, whoever is behind and whether or not it is decoded, the same spans arrive
// once, and are counted.
func TestSpansAsTheyCame(t *testing.T) {
	var json ptrace.JSONMarshaler
	for name, c := range map[string]struct {
		factory   receiver.Factory
		settings  map[string]any
		takes     bool
		callsEach int // of the next component, for a request in protobuf
	}{
		"theirs":             {theirs, nil, false, 1},
		"decoded":            {NewFactory(), nil, true, 1},
		"undecoded":          {NewFactory(), map[string]any{"undecoded": true}, true, 1},
		"which nobody takes": {NewFactory(), map[string]any{"undecoded": true}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := &next{takes: c.takes}
			w := startOf(t, c.factory, n, c.settings)
			var want []string
			for _, td := range []ptrace.Traces{spans(1, 5), spans(20, 100), spans(50, 10_000)} { // in one frame and in many
				data := marshal(td)
				text, err := json.MarshalTraces(td)
				require.NoError(t, err)
				require.NoError(t, w.export(data))
				require.NoError(t, w.export(data, grpc.UseCompressor("gzip")))
				require.NoError(t, w.export(data, grpc.UseCompressor("zstd")))
				for _, answer := range []struct {
					kind    string
					body    []byte
					headers []string
					want    string
				}{
					{typeProtobuf, data, nil, ""},
					{typeProtobuf, gzipped(data), []string{"Content-Encoding", "gzip"}, ""},
					{typeJSON, text, nil, "{}"},
					{typeJSON + "; charset=utf-8", gzipped(text), []string{"Content-Encoding", "gzip"}, "{}"},
				} {
					res, body := w.post("/v1/traces", answer.kind, answer.body, answer.headers...)
					if kind, _, _ := strings.Cut(answer.kind, ";"); res.StatusCode != http.StatusOK || body != answer.want && c.factory != theirs || res.Header.Get("Content-Type") != kind {
						t.Errorf("%s: %s %q %q", answer.kind, res.Status, res.Header, body)
					}
				}
				for range 7 {
					want = append(want, string(data))
				}
			}
			came, calls := n.all()
			require.Equal(t, want, came)
			if inProtobuf, inJSON := 5*3, 2*3; calls != inProtobuf*c.callsEach+inJSON {
				t.Errorf("%d calls for %d requests in protobuf and %d in JSON", calls, inProtobuf, inJSON)
			}
			w.accepted("grpc", 3*(1+20+50))
			w.accepted("http", 4*(1+20+50))
		})
	}
}

// accepted checks how many spans the receiver says it has taken.
func (w *world) accepted(transport string, want int64) {
	w.Helper()
	w.counted("otelcol_receiver_accepted_spans", transport, want)
}

func sumOf(m metricdata.Metrics, transport string) (sum int64) {
	for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
		if by, _ := point.Attributes.Value("transport"); by.AsString() == transport {
			sum += point.Value
		}
	}
	return sum
}

func (w *world) counted(name, transport string, want int64) {
	w.Helper()
	m, err := w.told.GetMetric(name)
	require.NoError(w, err)
	if got := sumOf(m, transport); got != want {
		w.Errorf("%s is %d by %s, want %d", name, got, transport, want)
	}
}

// TestLogsAndMetrics: they come on the same ports, decoded.
func TestLogsAndMetrics(t *testing.T) {
	w := start(t, &next{takes: true}, map[string]any{"undecoded": true})
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("hello")
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("calls")
	m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(3)

	_, err := plogotlp.NewGRPCClient(w.conn).Export(t.Context(), plogotlp.NewExportRequestFromLogs(ld))
	require.NoError(t, err)
	_, err = pmetricotlp.NewGRPCClient(w.conn).Export(t.Context(), pmetricotlp.NewExportRequestFromMetrics(md))
	require.NoError(t, err)
	for _, kind := range []string{typeProtobuf, typeJSON} {
		logs, metrics := plogotlp.NewExportRequestFromLogs(ld).MarshalProto, pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto
		if kind == typeJSON {
			logs, metrics = plogotlp.NewExportRequestFromLogs(ld).MarshalJSON, pmetricotlp.NewExportRequestFromMetrics(md).MarshalJSON
		}
		for path, marshal := range map[string]func() ([]byte, error){"/v1/logs": logs, "/v1/metrics": metrics} {
			body, err := marshal()
			require.NoError(t, err)
			if res, text := w.post(path, kind, body); res.StatusCode != http.StatusOK {
				t.Errorf("%s in %s: %s %q", path, kind, res.Status, text)
			}
			if res, text := w.post(path, kind, []byte("\x0a\x05")); res.StatusCode != http.StatusBadRequest {
				t.Errorf("a malformed request to %s in %s: %s %q", path, kind, res.Status, text)
			}
		}
	}
	require.Equal(t, []plog.Logs{ld, ld, ld}, w.logs.AllLogs())
	require.Equal(t, []pmetric.Metrics{md, md, md}, w.metrics.AllMetrics())
	w.counted("otelcol_receiver_accepted_log_records", "http", 2)
	w.counted("otelcol_receiver_accepted_metric_points", "http", 2)
}

// TestNothingIn: a request without items is answered well, and nobody hears of it.
func TestNothingIn(t *testing.T) {
	for _, undecoded := range []bool{false, true} {
		w := start(t, &next{}, map[string]any{"undecoded": undecoded})
		for _, data := range [][]byte{nil, marshal(spans(0, 0))} {
			require.NoError(t, w.export(data))
			res, _ := w.post("/v1/traces", typeProtobuf, data)
			require.Equal(t, http.StatusOK, res.StatusCode)
		}
		res, _ := w.post("/v1/logs", typeJSON, []byte("{}"))
		require.Equal(t, http.StatusOK, res.StatusCode)
		if _, calls := w.next.all(); calls != 0 || len(w.logs.AllLogs()) != 0 {
			t.Errorf("undecoded: %v: %d calls", undecoded, calls)
		}
	}
}

// TestMalformed: what is no request is refused for good, in the sender's encoding, and handed on to nobody.
func TestMalformed(t *testing.T) {
	for _, undecoded := range []bool{false, true} {
		w := start(t, &next{takes: true}, map[string]any{"undecoded": undecoded})
		data := marshal(spans(3, 5))
		for _, bad := range [][]byte{data[:len(data)-1], append([]byte{0x0a, 0xff}, data...), []byte("{}")} {
			if err := w.export(bad); status.Code(err) != codes.InvalidArgument {
				t.Errorf("undecoded: %v: %v", undecoded, err)
			}
			res, body := w.post("/v1/traces", typeProtobuf, bad)
			var s spb.Status
			require.NoError(t, proto.Unmarshal([]byte(body), &s))
			if res.StatusCode != http.StatusBadRequest || s.GetCode() != int32(codes.InvalidArgument) || res.Header.Get("Content-Type") != typeProtobuf {
				t.Errorf("undecoded: %v: %s %q %v", undecoded, res.Status, res.Header, &s)
			}
		}
		for _, bad := range []string{"{", "\xff\xfe"} { // which the answer may repeat
			res, body := w.post("/v1/traces", typeJSON, []byte(bad))
			var s spb.Status
			require.NoError(t, protojson.Unmarshal([]byte(body), &s))
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(s.GetMessage(), "not an OTLP export request: ") {
				t.Errorf("undecoded: %v: %q: %s %v", undecoded, bad, res.Status, &s)
			}
		}
		if _, calls := w.next.all(); calls != 0 {
			t.Errorf("undecoded: %v: %d calls", undecoded, calls)
		}
	}
}

// TestOldRequests: what was sent before there were scopes is decoded, which makes it new.
func TestOldRequests(t *testing.T) {
	w := start(t, &next{takes: true}, map[string]any{"undecoded": true})
	field := func(b []byte, number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	span := field(nil, 5, []byte("GET /old"))
	require.NoError(t, w.export(field(nil, 1, field(nil, 1000, field(nil, 2, span)))))
	came, _ := w.next.all()
	require.Len(t, came, 1)
	request := ptraceotlp.NewExportRequest()
	require.NoError(t, request.UnmarshalProto([]byte(came[0])))
	require.Equal(t, "GET /old", request.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Name())
}

// TestRefused: what the next component refuses, the sender is told to send again, unless that is in vain.
func TestRefused(t *testing.T) {
	throttled, err := status.New(codes.ResourceExhausted, "slowly").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(7 * time.Second)})
	require.NoError(t, err)
	data := marshal(spans(4, 5))
	for name, c := range map[string]struct {
		err        error
		grpc       codes.Code
		http       int
		retryAfter string
	}{
		"busy":      {errors.New("no room"), codes.Unavailable, http.StatusServiceUnavailable, ""},
		"permanent": {consumererror.NewPermanent(errors.New("never")), codes.Internal, http.StatusInternalServerError, ""},
		"throttled": {fmt.Errorf("next: %w", throttled.Err()), codes.ResourceExhausted, http.StatusTooManyRequests, "7"},
		"its own":   {status.Error(codes.PermissionDenied, "not you"), codes.PermissionDenied, http.StatusForbidden, ""},
	} {
		for by, w := range map[string]*world{
			"theirs": startOf(t, theirs, &next{err: c.err}, nil), "decoded": start(t, &next{err: c.err}, nil),
			"undecoded": start(t, &next{err: c.err}, map[string]any{"undecoded": true}),
		} {
			t.Run(name+" "+by, func(t *testing.T) {
				w.TB = t
				if err := w.export(data); status.Code(err) != c.grpc || !strings.Contains(err.Error(), c.err.Error()) {
					t.Errorf("by gRPC: %v", err)
				}
				res, body := w.post("/v1/traces", typeJSON, []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a"}]}]}]}`))
				if res.StatusCode != c.http || res.Header.Get("Retry-After") != c.retryAfter {
					t.Errorf("by HTTP: %s %q", res.Status, res.Header)
				}
				var s spb.Status
				require.NoError(t, protojson.Unmarshal([]byte(body), &s))
				require.Equal(t, c.grpc, codes.Code(s.GetCode()))
				if _, calls := w.next.all(); calls != 2 {
					t.Errorf("%d calls for 2 requests", calls)
				}
				w.accepted("grpc", 0)
				w.counted("otelcol_receiver_refused_spans", "grpc", 4)
				w.counted("otelcol_receiver_refused_spans", "http", 1)
			})
		}
	}
}

// TestHTTPAsItIsSpoken: what is no export is refused as the collector's own receiver does.
func TestHTTPAsItIsSpoken(t *testing.T) {
	settings := map[string]any{"protocols": map[string]any{"http": map[string]any{"max_request_body_size": 1000, "traces_url_path": "/spans"}}}
	w, stock := start(t, &next{}, settings), startOf(t, theirs, &next{}, settings)
	long := marshal(spans(1, 2000))
	for _, c := range []struct {
		method, path, kind, encoded string
		body                        []byte
		want                        int
	}{
		{http.MethodGet, "/spans", typeProtobuf, "", nil, http.StatusMethodNotAllowed},
		{http.MethodPost, "/spans", "text/plain", "", nil, http.StatusUnsupportedMediaType},
		{http.MethodPost, "/spans", "", "", nil, http.StatusUnsupportedMediaType},
		{http.MethodPost, "/v1/traces", typeProtobuf, "", nil, http.StatusNotFound},
		{http.MethodPost, "/spans", typeProtobuf, "", long, http.StatusRequestEntityTooLarge},
		{http.MethodPost, "/spans", typeProtobuf, "gzip", gzipped(long), http.StatusRequestEntityTooLarge},
		{http.MethodPost, "/spans", typeProtobuf, "gzip", long[:500], http.StatusBadRequest},
		{http.MethodPost, "/spans", typeJSON, "rot13", []byte("{}"), http.StatusBadRequest},
		{http.MethodPost, "/spans", typeProtobuf + "; a", "", marshal(spans(1, 500)), http.StatusUnsupportedMediaType},
		{http.MethodPost, "/spans", typeProtobuf, "", marshal(spans(1, 500)), http.StatusOK},
	} {
		res, body := w.request(c.method, c.path, c.body, "Content-Type", c.kind, "Content-Encoding", c.encoded)
		if res.StatusCode != c.want {
			t.Errorf("%s %s of %s (%s): %s %q, want %d", c.method, c.path, c.kind, c.encoded, res.Status, body, c.want)
		}
		if c.want == http.StatusRequestEntityTooLarge {
			continue // theirs is 400, which says less
		}
		if their, _ := stock.request(c.method, c.path, c.body, "Content-Type", c.kind, "Content-Encoding", c.encoded); their.StatusCode != res.StatusCode {
			t.Errorf("%s %s of %s (%s): %s, and theirs %s", c.method, c.path, c.kind, c.encoded, res.Status, their.Status)
		}
	}
}

// TestLongGRPC: a message over the limit is refused, also where it was short as it came, and one below it is not.
func TestLongGRPC(t *testing.T) {
	w := start(t, &next{takes: true}, map[string]any{"undecoded": true, "protocols": map[string]any{"grpc": map[string]any{"max_recv_msg_size_mib": 1}}})
	long := marshal(spans(11, 100_000))
	for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor("gzip")}} {
		if err := w.export(long, options...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	}
	require.NoError(t, w.export(marshal(spans(10, 100_000))))
}

// TestWhoSends: with include_metadata, components behind know whose request it is, also where it is undecoded.
func TestWhoSends(t *testing.T) {
	w := start(t, &next{takes: true}, map[string]any{"undecoded": true, "protocols": map[string]any{"grpc": map[string]any{"include_metadata": true}}})
	require.NoError(t, w.export(marshal(spans(1, 5))))
	require.Equal(t, []string{"shop"}, w.next.info.Metadata.Get("tenant"))
	require.Contains(t, w.next.info.Addr.String(), "127.0.0.1:")
}

// TestManyAtOnce: requests that come at once do not get into each other, and buffers of those that ended are used again.
func TestManyAtOnce(t *testing.T) {
	n := &next{takes: true}
	w := start(t, n, map[string]any{"undecoded": true})
	var senders sync.WaitGroup
	want := map[string]int{}
	for i := range 8 {
		data := marshal(spans(1+i, 3000*i))
		want[string(data)] = 20
		senders.Go(func() {
			for k := range 20 {
				if k%2 == 0 {
					if err := w.export(data); err != nil {
						t.Error(err)
					}
				} else if res, text := w.post("/v1/traces", typeProtobuf, data); res.StatusCode != http.StatusOK {
					t.Error(res.Status, text)
				}
			}
		})
	}
	senders.Wait()
	got := map[string]int{}
	came, _ := n.all()
	for _, data := range came {
		got[data]++
	}
	require.Equal(t, want, got)
}

// TestStartFails: a taken port is named, and nothing is left listening on the other.
func TestStartFails(t *testing.T) {
	first := start(t, &next{}, nil)
	for _, taken := range []string{"grpc", "http"} {
		w := &world{TB: t, factory: NewFactory(), next: &next{}, told: first.told, grpc: address(t), http: address(t)}
		if taken == "grpc" {
			w.grpc = first.grpc
		} else {
			w.http = first.http
		}
		cfg := defaultConfig().(*Config)
		w.unmarshal(cfg, map[string]any{"protocols": map[string]any{
			"grpc": map[string]any{"endpoint": w.grpc}, "http": map[string]any{"endpoint": w.http},
		}})
		all := w.components(cfg)
		for _, r := range all {
			err := r.Start(t.Context(), componenttest.NewNopHost())
			if err == nil || !strings.Contains(err.Error(), "protocols::"+taken+": ") {
				t.Errorf("%s is taken: %v", taken, err)
			}
		}
		require.True(t, taken == "grpc" || refused(w.grpc), "it listens for gRPC still")
		for _, r := range all {
			require.NoError(t, r.Shutdown(t.Context()))
		}
		require.Empty(t, receivers.of[cfg])
	}
}

// TestShutdownWaits: who has been let in is answered before the receiver ends.
func TestShutdownWaits(t *testing.T) {
	arrived, goOn := make(chan struct{}), make(chan struct{})
	w := start(t, &next{wait: func() { arrived <- struct{}{}; <-goOn }}, nil)
	answer, ended := make(chan error, 1), make(chan error, 1)
	go func() { answer <- w.export(marshal(spans(1, 5))) }()
	<-arrived
	go func() { ended <- w.all[0].Shutdown(context.WithoutCancel(t.Context())) }()
	require.Eventually(t, func() bool { return refused(w.http) && refused(w.grpc) }, 10*time.Second, time.Millisecond)
	close(goOn)
	require.NoError(t, <-answer)
	require.NoError(t, <-ended)
}

// TestShutdownEnds: it does not wait longer than it is given.
func TestShutdownEnds(t *testing.T) {
	arrived, goOn := make(chan struct{}, 2), make(chan struct{})
	w := start(t, &next{wait: func() { arrived <- struct{}{}; <-goOn }}, nil)
	answer := make(chan error, 1)
	go func() { answer <- w.export(marshal(spans(1, 5))) }()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.all[0].Shutdown(ctx) }()
	require.Equal(t, codes.Unavailable, status.Code(<-answer))
	close(goOn)
	require.NoError(t, <-ended)
}

func refused(address string) bool {
	conn, err := new(net.Dialer).Dial("tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}
