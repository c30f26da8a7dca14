package main

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
)

// newWorld is a world with its documents written, and nothing running.
func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), root: root, s3: &servers.S3{Endpoint: "http://127.0.0.1:7"}}
	if err := w.takePorts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.writePolicy(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) load(t *testing.T) *policy.Set {
	t.Helper()
	set, problems, err := source.New([]string{w.policy}, slog.New(slog.DiscardHandler)).Load()
	if err != nil || len(problems) > 0 {
		t.Fatalf("the documents are refused: %v %v", err, problems)
	}
	return set
}

// wantCanary: the judge's shares are those of the documents.
func wantCanary(t *testing.T, set *policy.Set, generation string) {
	t.Helper()
	for _, route := range set.Routes {
		for _, rule := range route.Spec.Rules {
			if rule.Name != "canary" {
				continue
			}
			if got := rule.ResponseHeaders.Set["x-demo-generation"]; got != generation {
				t.Errorf("the canary's generation is %q, want %q", got, generation)
			}
			v1, v2 := *rule.To[0].Weight, *rule.To[1].Weight
			if got := 100 * float64(v2) / float64(v1+v2); got != canaryShares[generation] {
				t.Errorf("generation %s gives %v %% to v2, and the judge wants %v", generation, got, canaryShares[generation])
			}
			return
		}
	}
	t.Error("no rule is called canary")
}

func TestJudgeKnowsTheDocuments(t *testing.T) {
	w := newWorld(t)
	set := w.load(t)
	wantCanary(t, set, "1")
	for name, c := range classes {
		if got := set.Sampling.Spec.Classes[name]; got != c.percent {
			t.Errorf("class %s is kept at %v %%, and the judge wants %v", name, got, c.percent)
		}
	}
	for _, s := range set.Services {
		if _, ok := classes[s.Spec.Class]; !ok {
			t.Errorf("%s is of class %s, which the judge does not know", s.Metadata.Name, s.Spec.Class)
		}
	}
	if saved := w.editPolicy(); saved.IsZero() {
		t.Error("the edit was not made")
	}
	wantCanary(t, w.load(t), "2")
}

func TestDocumentsHaveOwnPorts(t *testing.T) {
	w := newWorld(t)
	var text strings.Builder
	for _, name := range []string{"api", "gateway", "services", "telemetry"} {
		data, err := os.ReadFile(w.policy + "/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	for _, port := range examplePorts {
		if strings.Contains(text.String(), "port: "+port) || strings.Contains(text.String(), "127.0.0.1:"+port) {
			t.Errorf("the example's port %s is left:\n%s", port, text.String())
		}
		if !strings.Contains(text.String(), w.ports[port]) {
			t.Errorf("no document has %s, for the example's %s", w.ports[port], port)
		}
	}
	if !strings.Contains(text.String(), w.s3.Endpoint) {
		t.Errorf("the archive is not at %s", w.s3.Endpoint)
	}
}
