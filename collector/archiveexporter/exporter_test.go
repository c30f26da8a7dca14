package archiveexporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/archive"
	"github.com/machinenativeops/weir/policy"
)

// store is as much of an S3 server as PutObject needs. The real one is in the tests of package collector.
type store struct {
	mu      sync.Mutex
	refuse  string // puts of names with this in them fail; "" is none
	puts    map[string]int
	objects map[string][]byte
}

func newStore(t *testing.T) (*store, string) {
	t.Helper()
	s := &store{puts: map[string]int{}, objects: map[string][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	return s, server.URL
}

// ServeHTTP implements [http.Handler].
func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts[r.URL.Path]++
	if err != nil || s.refuse != "" && strings.Contains(r.URL.Path, s.refuse) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.objects[r.URL.Path] = body
}

func (s *store) allow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = ""
}

// names gives the names of all objects, and how often their writing was tried.
func (s *store) names() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := map[string]int{}
	for name := range s.objects {
		written[name] = s.puts[name]
	}
	return written
}

func TestConfig(t *testing.T) {
	c := NewFactory().CreateDefaultConfig().(*Config)
	if err := c.Validate(); err == nil {
		t.Error("a configuration without documents is taken")
	}
	if c.Backoff.MaxElapsedTime != 0 || !c.Backoff.Enabled {
		t.Error("spans are given up")
	}
}

func TestBatchIsSplitByServiceClassAndRetention(t *testing.T) {
	s, endpoint := newStore(t)
	e := start(t, endpoint, func(c *Config) { c.Queue = configoptional.None[exporterhelper.QueueBatchConfig]() })
	td := batch("a", "b", "a", "c")
	if err := e.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(s.names()))
	if len(names) != 3 {
		t.Fatalf("%d objects: %v", len(names), names)
	}
	for i, service := range []string{"a", "b", "c"} {
		prefix := "/bucket/some/prefix/retention=30d/class=background/service=shop." + service + "/date=2026-11-23/hour=12/"
		if !strings.HasPrefix(names[i], prefix) {
			t.Errorf("got %s, want %s…", names[i], prefix)
		}
		s.mu.Lock()
		got, err := archive.Decode(bytes.NewReader(s.objects[names[i]]))
		s.mu.Unlock()
		if want := strings.Count("abac", service); err != nil || got.SpanCount() != want {
			t.Errorf("%s holds %d spans, want %d: %v", names[i], got.SpanCount(), want, err)
		}
	}
	if err := e.ConsumeTraces(t.Context(), batch("a", "b", "a", "c")); err != nil {
		t.Fatal(err)
	}
	if again := slices.Sorted(maps.Keys(s.names())); !slices.Equal(again, names) {
		t.Errorf("the same batch makes other objects: %v", again)
	}
}

func TestOnlyTheRestIsTriedAgain(t *testing.T) {
	s, endpoint := newStore(t)
	s.refuse = "shop.b"
	e := start(t, endpoint, func(c *Config) {
		c.Backoff.InitialInterval, c.Backoff.MaxInterval = 10*time.Millisecond, 10*time.Millisecond
	})
	if err := e.ConsumeTraces(t.Context(), batch("a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the others are written, and b is tried again", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		tries := 0
		for name, n := range s.puts {
			if strings.Contains(name, "shop.b") {
				tries += n
			}
		}
		return len(s.objects) == 2 && tries >= 3
	})
	s.allow()
	wait(t, "b is written", func() bool { return len(s.names()) == 3 })
	for name, tries := range s.names() {
		if !strings.Contains(name, "shop.b") && tries != 1 {
			t.Errorf("%s was written %d times", name, tries)
		}
	}
}

func TestStartWithoutBucketIsRefused(t *testing.T) {
	e, err := NewFactory().CreateTraces(t.Context(), exportertest.NewNopSettings(typ), newConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err == nil || !strings.Contains(err.Error(), "s3.bucket") {
		t.Errorf("got %v", err)
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLocate(t *testing.T) {
	no := false
	doc := &policy.Archive{Bucket: "s3://traces/production", Region: "eu-west-1", Endpoint: "http://minio:9000"}
	for _, tt := range []struct {
		doc      *policy.Archive
		override S3Config
		want     location
	}{
		{doc, S3Config{}, location{"traces", "production", "eu-west-1", "http://minio:9000", true}},
		{doc, S3Config{Bucket: "other"}, location{"other", "", "eu-west-1", "http://minio:9000", true}},
		{doc, S3Config{Prefix: "p", Region: "r", Endpoint: "e", PathStyle: &no}, location{"traces", "p", "r", "e", false}},
		{nil, S3Config{Bucket: "b"}, location{"b", "", "us-east-1", "", false}},
	} {
		if got, err := locate(tt.doc, tt.override); err != nil || got != tt.want {
			t.Errorf("got %+v, want %+v: %v", got, tt.want, err)
		}
	}
	for _, doc := range []*policy.Archive{nil, {}, {Bucket: "traces"}} {
		if got, err := locate(doc, S3Config{}); err == nil {
			t.Errorf("%+v gives %+v", doc, got)
		}
	}
}

func start(t *testing.T, endpoint string, change func(*Config)) exporter.Traces {
	t.Helper()
	c := newConfig(t)
	c.S3 = S3Config{Bucket: "bucket", Prefix: "some/prefix", Endpoint: endpoint}
	change(c)
	e, err := NewFactory().CreateTraces(t.Context(), exportertest.NewNopSettings(typ), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func newConfig(t *testing.T) *Config {
	t.Helper()
	c := NewFactory().CreateDefaultConfig().(*Config)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("kind: Sampling\nmetadata: {name: default}\nspec: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Policy = []string{file}
	return c
}

// batch has one resource a service, with one span each.
func batch(services ...string) ptrace.Traces {
	td := ptrace.NewTraces()
	for i, service := range services {
		rs := td.ResourceSpans().AppendEmpty()
		attributes := rs.Resource().Attributes()
		attributes.PutStr("service.namespace", "shop")
		attributes.PutStr("service.name", service)
		attributes.PutStr("weir.class", "background")
		span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		span.SetName(fmt.Sprint(i))
		span.SetStartTimestamp(1_795_435_200_000_000_000) // 2026-11-23 12:00 UTC
	}
	return td
}

func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}
