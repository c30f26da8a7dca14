package documents

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/machinenativeops/weir/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWatcherHandsOverWhatIsNew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, "20")
	core, logs := observer.New(zapcore.InfoLevel)
	rates := make(chan float64, 100)
	w := NewWatcher([]string{file}, zap.New(core, zap.AddStacktrace(zap.ErrorLevel)), func(s *policy.Set) error {
		rates <- s.Sampling.Spec.Classes["main"]
		if s.Sampling.Spec.Classes["main"] == 99 {
			return errors.New("not that one")
		}
		return nil
	})
	if err := w.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	expect(t, rates, 20)
	write(t, file, "40")
	expect(t, rates, 40)
	write(t, file, "lots")
	said(t, logs, "policy document refused")
	write(t, file, "99")
	expect(t, rates, 99)
	said(t, logs, "policy documents are not applied")
	write(t, file, "50")
	expect(t, rates, 50)
	for _, entry := range logs.All() {
		if entry.Stack != "" {
			t.Errorf("%s: it says where in the program: %s", entry.Message, entry.Stack)
		}
	}
}

func TestWatcherDoesNotStartWithoutDocuments(t *testing.T) {
	w := NewWatcher([]string{filepath.Join(t.TempDir(), "none.yaml")}, zap.NewNop(), func(*policy.Set) error { return nil })
	if err := w.Start(t.Context(), nil); err == nil {
		t.Error("it starts")
	}
	if err := w.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServiceOfAResource(t *testing.T) {
	r := pcommon.NewResource()
	if ref, class := Service(r); ref != (policy.Ref{}) || class != "" {
		t.Errorf("an empty resource is of %s, %s", ref, class)
	}
	r.Attributes().PutStr("service.name", "checkout")
	r.Attributes().PutStr("service.namespace", "shop")
	r.Attributes().PutInt("weir.class", 7)
	if ref, class := Service(r); ref != (policy.Ref{Namespace: "shop", Name: "checkout"}) || class != "7" {
		t.Errorf("got %s, %s", ref, class)
	}
}

func TestMarkedResourcesAreTakenAtTheirWord(t *testing.T) {
	set, problems := policy.Load(nil, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	retention := NewRetention(set)
	r := pcommon.NewResource()
	r.Attributes().PutStr("weir.class", "main")
	if _, class, kept := retention.OfResource(r); class != "main" || kept != "90d" {
		t.Errorf("unmarked: %s, %s", class, kept)
	}
	r.Attributes().PutStr("weir.retention", "7d")
	if _, class, kept := retention.OfResource(r); class != "main" || kept != "7d" {
		t.Errorf("marked: %s, %s", class, kept)
	}
}

func TestSlogReachesZap(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	log := slog.New(zapHandler{zap.New(core)})
	log.Debug("quiet")
	log.With("a", 1).WithGroup("g").Warn("careful", "b", "two")
	if logs.Len() != 1 {
		t.Fatalf("%d lines", logs.Len())
	}
	entry := logs.All()[0]
	fields := entry.ContextMap()
	group, _ := fields["g"].(map[string]any)
	if entry.Level != zapcore.WarnLevel || entry.Message != "careful" || fields["a"] != int64(1) || group["b"] != "two" {
		t.Errorf("got %+v %v", entry.Entry, fields)
	}
}

func write(t *testing.T, file, main string) {
	t.Helper()
	text := "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {main: " + main + "}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// expect waits for the rate; the same documents may be handed over more than once before it.
func expect(t *testing.T, rates <-chan float64, want float64) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case got := <-rates:
			if got == want {
				return
			}
		case <-deadline:
			t.Fatalf("%v %% is not handed over", want)
		}
	}
}

func said(t *testing.T, logs *observer.ObservedLogs, text string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, entry := range logs.All() {
			if strings.Contains(entry.Message, text) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("nobody said %q", text)
		}
	}
}
