package adaptivesampling

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
)

// storageHost is a host with a real file_storage.
type storageHost map[component.ID]component.Component

func (h storageHost) GetExtensions() map[component.ID]component.Component { return h }

var storageID = component.MustNewID("file_storage")

// startStored starts a processor that keeps what it holds in a folder, and gives what ends both.
func startStored(t *testing.T, cfg *Config, folder string, next consumer.Traces) (processor.Traces, func()) {
	t.Helper()
	extension := fileStorage(t, folder)
	host := storageHost{storageID: extension}
	cfg.Storage = &storageID
	set := processortest.NewNopSettings(typ)
	set.ID = component.NewID(typ) // a restarted one has the same
	p, err := NewFactory().CreateTraces(t.Context(), set, cfg, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	return inItsWay(t, p), func() {
		for _, c := range []component.Component{p, extension} {
			if err := c.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
}

func fileStorage(t *testing.T, folder string) extension.Extension {
	t.Helper()
	factory := filestorage.NewFactory()
	cfg := factory.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = folder
	e, err := factory.Create(t.Context(), extensiontest.NewNopSettings(factory.Type()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	return e
}

// crash gives a folder as a process that is killed now would leave it.
func crash(t *testing.T, folder string) string {
	t.Helper()
	left := t.TempDir()
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is stored: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left, filepath.Base(file)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return left
}

func fail(s ptrace.Span) { s.Status().SetCode(ptrace.StatusCodeError) }

func TestHeldOutlivesRestarts(t *testing.T) { bothWays(t, testHeldOutlivesRestarts) }

func testHeldOutlivesRestarts(t *testing.T) {
	high, low := traceID(0xf0000000000000), traceID(0x10000000000000) // above and below the rate of 50 %
	for name, restart := range map[string]func(t *testing.T, folder string, end func()) string{
		"killed": func(t *testing.T, folder string, _ func()) string { return crash(t, folder) },
		"stopped": func(_ *testing.T, folder string, end func()) string {
			end()
			return folder
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder, sink := t.TempDir(), new(consumertest.TracesSink)
			p, end := startStored(t, config(t, rates+held), folder, sink)
			spanOf(t, p, "kept by its rate", high, true, nil)
			spanOf(t, p, "dropped by its rate", low, true, nil)
			if sink.SpanCount() != 0 {
				t.Fatal("traces are not held")
			}
			left := restart(t, folder, end)
			if name == "killed" {
				defer end()
			}
			again := new(consumertest.TracesSink)
			cfg := config(t, rates+held)
			p, end = startStored(t, cfg, left, again)
			defer end()
			spanOf(t, p, "failed", low, false, fail) // of the trace whose root is held
			if got := came(again); len(got) != 2 || got["dropped by its rate"] == (ptrace.Span{}) {
				t.Fatalf("%d spans came with the error, want it and its root", len(got))
			}
			if err := os.WriteFile(cfg.Policy[0], []byte(rates+"  keep: {}\n  wait: 100ms\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return len(came(again)) == 3 })
		})
	}
}

// TestDecisionsOutliveACrash holds that what was decided and noted before a crash is neither decided again nor sent
// again, while the rest of the same batch is still held.
func TestDecisionsOutliveACrash(t *testing.T) { bothWays(t, testDecisionsOutliveACrash) }

func testDecisionsOutliveACrash(t *testing.T) {
	folder, sink := t.TempDir(), new(consumertest.TracesSink)
	p, end := startStored(t, config(t, rates+held), folder, sink)
	defer end()
	failing, waiting := traceID(0x10000000000000), traceID(0x20000000000000)
	td := ptrace.NewTraces()
	spans := resource(td, "checkout", "")
	for name, id := range map[string]pcommon.TraceID{"failing": failing, "waiting": waiting} {
		span := spans.AppendEmpty()
		span.SetName(name)
		span.SetTraceID(id)
		if name == "failing" {
			fail(span)
		}
	}
	if err := p.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	if sink.SpanCount() != 1 {
		t.Fatal("the failed trace is not sent at once")
	}
	var again *consumertest.TracesSink
	eventually(t, func() bool { // until it is noted
		again = new(consumertest.TracesSink)
		p, end := startStored(t, config(t, rates+held), crash(t, folder), again)
		defer end()
		if again.SpanCount() > 0 {
			return false
		}
		spanOf(t, p, "late", failing, false, nil)
		spanOf(t, p, "later", waiting, false, nil)
		return true
	})
	if got := came(again); len(got) != 1 || why(got["late"]) != "ot=th:0" {
		t.Errorf("after the crash came %v, want the late span by the decision from before it", got)
	}
}

// TestDoneWithIsRemoved holds that storage has nothing of spans that are done with.
func TestDoneWithIsRemoved(t *testing.T) {
	folder := t.TempDir()
	p, end := startStored(t, config(t, rates+"  keep: {}\n  wait: 10ms\n"), folder, consumertest.NewNop())
	defer end()
	for i := range uint64(100) {
		spanOf(t, p, "GET /", traceID(i<<48), i%2 == 0, nil)
	}
	eventually(t, func() bool { return stored(t, crash(t, folder)) == 0 })
}

// stored is how many batches and blocks of notes there are.
func stored(t *testing.T, folder string) (n int) {
	t.Helper()
	e := fileStorage(t, folder)
	client, err := e.(storage.Extension).GetClient(t.Context(), component.KindProcessor, component.NewID(typ), "whole")
	if err != nil {
		t.Fatal(err)
	}
	err = client.(storage.Walker).Walk(t.Context(), func(key string, _ []byte) ([]*storage.Operation, error) {
		if key != rangeKey {
			n++
		}
		return nil, nil
	})
	if err = errors.Join(err, client.Close(t.Context()), e.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStorageMustBeThere(t *testing.T) {
	cfg := config(t, rates)
	cfg.Storage = &storageID
	p, err := NewFactory().CreateTraces(t.Context(), processortest.NewNopSettings(typ), cfg, consumertest.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), componenttest.NewNopHost()); err == nil {
		t.Error("it starts without its storage")
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDeepValuesOutliveARestart: what came decoded, and is more than undecoded requests may be, is taken up all the same.
func TestDeepValuesOutliveARestart(t *testing.T) {
	folder := t.TempDir()
	p, end := startStored(t, config(t, rates+held), folder, new(consumertest.TracesSink))
	defer end()
	spanOf(t, p, "deep", traceID(0xf0000000000000), true, func(s ptrace.Span) {
		v := s.Attributes().PutEmpty("a")
		for range 150 {
			v = v.SetEmptySlice().AppendEmpty()
		}
	})
	sink := new(consumertest.TracesSink)
	_, endAgain := startStored(t, config(t, rates+"  keep: {}\n  wait: 100ms\n"), crash(t, folder), sink)
	defer endAgain()
	eventually(t, func() bool { return len(came(sink)) == 1 })
}
