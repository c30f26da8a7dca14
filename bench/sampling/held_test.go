package sampling

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/machinenativeops/weir/processors/adaptivesampling"
)

const holds = "WEIR_BENCH_HOLDS" // which processor a process of this test is to hold traces with

// TestHeldMemory holds 100,000 traces of eight spans with five attributes in each processor, each in a process of its own,
// and prints what they take. The live heap is what does not depend on when garbage was collected.
func TestHeldMemory(t *testing.T) {
	if which := os.Getenv(holds); which != "" {
		hold(t, which)
		return
	}
	heap := map[string]float64{}
	for _, which := range []string{"weir", "tail_sampling"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestHeldMemory$", "-test.v")
		cmd.Env = append(os.Environ(), holds+"="+which)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", which, err, out)
		}
		_, rest, _ := strings.Cut(string(out), "held: ")
		line, _, _ := strings.Cut(rest, "\n")
		var live, resident float64
		if _, err := fmt.Sscanf(line, "heap %f MB, resident %f MB", &live, &resident); err != nil {
			t.Fatalf("%s said %q: %v", which, out, err)
		}
		heap[which] = live
		t.Logf("%-14s live heap %5.0f MB, resident %5.0f MB", which, live, resident)
	}
	if part := heap["weir"] / heap["tail_sampling"]; part > 0.25 {
		t.Errorf("weir's heap is %.2f of tail_sampling's, want a quarter", part)
	}
}

func hold(t *testing.T, which string) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(policy, "wait: 1s", "wait: 10m", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	factory, settings := adaptivesampling.NewFactory(), map[string]any{"policy": []any{file}}
	if which == "tail_sampling" {
		factory, settings = tailsamplingprocessor.NewFactory(), map[string]any{
			"decision_wait": "10m", "num_traces": 1_000_000,
			"policies": []any{map[string]any{"name": "rate", "type": "probabilistic", "probabilistic": map[string]any{"sampling_percentage": 50}}},
		}
	}
	p := started(t, factory, settings)
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 / 125 {
		td := batch(random)
		for _, rs := range td.ResourceSpans().All() {
			for _, span := range rs.ScopeSpans().At(0).Spans().All() {
				span.Attributes().PutStr("http.request.method", "GET")
				span.Attributes().PutStr("url.path", "/items/of/some/kind")
				span.Attributes().PutInt("http.response.status_code", 200)
				span.Attributes().PutStr("server.address", "checkout.shop")
				span.Attributes().PutStr("user.id", fmt.Sprint(random.Uint64N(1e6)))
			}
		}
		if err := p.ConsumeTraces(t.Context(), td); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second) // until queues inside are empty
	resident := residentMB(t)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("held: heap %.1f MB, resident %.1f MB\n", float64(m.HeapAlloc)/(1<<20), resident)
	if err := p.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func started(tb testing.TB, factory processor.Factory, settings map[string]any) processor.Traces {
	tb.Helper()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		tb.Fatal(err)
	}
	p, err := factory.CreateTraces(tb.Context(), processortest.NewNopSettings(factory.Type()), cfg, consumertest.NewNop())
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.Start(tb.Context(), componenttest.NewNopHost()); err != nil {
		tb.Fatal(err)
	}
	return p
}

func residentMB(t *testing.T) float64 {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages float64
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * float64(os.Getpagesize()) / (1 << 20)
}
