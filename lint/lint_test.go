package lint_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: files["policy.yaml"]}}, nil)
		for _, p := range problems {
			t.Error(p)
		}
		var text bytes.Buffer
		for _, w := range lint.Check(set, mesh.Build(set), true) {
			fmt.Fprintln(&text, w)
		}
		return map[string][]byte{"warnings.txt": text.Bytes()}
	})
}

// TestWhatIsMissingIsNotHeldAgainstOthers: a refused Route might have used the version, a refused service have been
// what the gateway is for.
func TestWhatIsMissingIsNotHeldAgainstOthers(t *testing.T) {
	text := `
kind: Gateway
metadata: {name: edge}
spec: {listeners: [{name: http, port: 80}], services: [refused]}
---
kind: Service
metadata: {name: s}
spec: {versions: [{name: v1}], endpoints: {static: [{address: 10.0.0.1, port: 80}]}, retries: {attempts: 1, on: [5xx]}}
---
kind: Route
metadata: {name: s}
spec: {service: s, rules: [{match: {methods: [GET]}, to: [{version: v1}], timeot: 1s}]}
`
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: []byte(text)}}, nil)
	if len(problems) != 1 {
		t.Fatal(problems)
	}
	var names []string
	for _, w := range lint.Check(set, mesh.Build(set), false) {
		names = append(names, w.Name)
	}
	if got, want := fmt.Sprint(names), fmt.Sprint([]string{lint.VersionWithoutEndpoints, lint.EndpointWithoutVersion}); got != want {
		t.Errorf("%s, want what the service says of itself: %s", got, want)
	}
	if n := len(lint.Check(set, mesh.Build(set), true)); n <= len(names) {
		t.Errorf("%d warnings of the whole set: that proves nothing", n)
	}
}
