package envoytest

import (
	"context"
	"maps"
	"net"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what collectors compress with
)

// Collector takes spans and logs over OTLP and keeps what they say.
type Collector struct {
	Address string // HOST:PORT

	mu    sync.Mutex // guards everything below
	spans []map[string]any
	logs  []map[string]any
}

// NewCollector starts one for a test, on a free port.
func NewCollector(tb testing.TB) *Collector {
	tb.Helper()
	return NewCollectorAt(tb, "127.0.0.1:0")
}

// NewCollectorAt starts one for a test at an address.
func NewCollectorAt(tb testing.TB, address string) *Collector {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	c := &Collector{Address: l.Addr().String()}
	s := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(s, &traces{collector: c})
	plogotlp.RegisterGRPCServer(s, &logs{collector: c})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return c
}

// Spans gives the attributes of each span so far, those of its resource among them, and its own
// "name", "kind", "tracestate" and "root".
func (c *Collector) Spans() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]map[string]any(nil), c.spans...)
}

// Logs gives the attributes of each log record so far, those of its resource among them.
func (c *Collector) Logs() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]map[string]any(nil), c.logs...)
}

func merged(all ...pcommon.Map) map[string]any {
	one := make(map[string]any)
	for _, m := range all {
		maps.Copy(one, m.AsRaw())
	}
	return one
}

type traces struct {
	ptraceotlp.UnimplementedGRPCServer
	collector *Collector
}

// Export implements ptraceotlp.GRPCServer.
func (t *traces) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	t.collector.mu.Lock()
	defer t.collector.mu.Unlock()
	for _, resource := range r.Traces().ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				one := merged(resource.Resource().Attributes(), span.Attributes())
				one["name"], one["kind"], one["tracestate"] = span.Name(), span.Kind().String(), span.TraceState().AsRaw()
				one["root"] = span.ParentSpanID().IsEmpty()
				t.collector.spans = append(t.collector.spans, one)
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

type logs struct {
	plogotlp.UnimplementedGRPCServer
	collector *Collector
}

// Export implements plogotlp.GRPCServer.
func (l *logs) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	l.collector.mu.Lock()
	defer l.collector.mu.Unlock()
	for _, resource := range r.Logs().ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				l.collector.logs = append(l.collector.logs, merged(resource.Resource().Attributes(), record.Attributes()))
			}
		}
	}
	return plogotlp.NewExportResponse(), nil
}
