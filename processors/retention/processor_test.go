package retention

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
)

const text = `
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  class: api
  endpoints: {static: [{address: 127.0.0.1, port: 9}]}
---
kind: Retention
metadata: {name: default}
spec:
  classes: {health: 36h, audit: 365d}
`

func TestConfig(t *testing.T) {
	if err := (&Config{}).Validate(); err == nil {
		t.Error("a configuration without documents is taken")
	}
}

func TestLifecycle(t *testing.T) { processortest.VerifyShutdown(t, NewFactory(), config(t)) }

func TestResourcesAreMarked(t *testing.T) {
	td := ptrace.NewTraces()
	cases := []struct{ service, claimed, class, retention string }{
		{"checkout", "main", "api", "60d"},
		{"other", "main", "main", "90d"},
		{"other", "health", "health", "36h0m0s"},
		{"other", "audit", "audit", "365d"},
		{"other", "", "default", "30d"},
		{"other", "invented", "invented", "30d"},
	}
	for _, tt := range cases {
		rs := td.ResourceSpans().AppendEmpty()
		attributes := rs.Resource().Attributes()
		attributes.PutStr("service.namespace", "shop")
		attributes.PutStr("service.name", tt.service)
		attributes.PutStr("weir.retention", "1000d") // the sender's wish
		if tt.claimed != "" {
			attributes.PutStr("weir.class", tt.claimed)
		}
		rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	}
	sink := new(consumertest.TracesSink)
	p, err := NewFactory().CreateTraces(t.Context(), processortest.NewNopSettings(typ), config(t), sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := p.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	for i, tt := range cases {
		attributes := sink.AllTraces()[0].ResourceSpans().At(i).Resource().Attributes()
		class, _ := attributes.Get("weir.class")
		retention, _ := attributes.Get("weir.retention")
		if class.Str() != tt.class || retention.Str() != tt.retention {
			t.Errorf("%s of class %q: got %s, %s", tt.service, tt.claimed, class.Str(), retention.Str())
		}
	}
}

func config(t *testing.T) *Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Config{Policy: []string{file}}
}
