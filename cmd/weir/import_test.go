package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
)

const aRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{name: edge}]
  hostnames: [cart.example.com]
  rules: [{backendRefs: [{name: cart, port: 80}], unheardOf: 1}]
`

func TestImportsExitCodes(t *testing.T) {
	route := file(t, aRoute)
	for _, c := range []struct {
		args, stdin string
		code        int
		stderr      string // a part of it
	}{
		{"import " + route, "", 0, route + ":7: HTTPRoute default/cart: spec.rules[0].unheardOf: not carried over: Weir does not know this field of HTTPRoute"},
		{"import --namespace shop -", aRoute, 0, "-:7: HTTPRoute shop/cart: spec.rules[0].unheardOf"},
		{"import --strict " + route, "", exitRefused, "not carried over: 2 things"},
		{"import --strict --from istio " + route, "", 0, "not read: only Istio is asked for"},
		{"import " + file(t, "a: [b"), "", exitRefused, "not YAML"},
		{"import /nowhere", "", exitRefused, "/nowhere: no such file"},
		{"import " + t.TempDir(), "", exitRefused, "no .yaml, .yml or .json file is in it"},
		{"import", "", exitUsage, "PATH is missing"},
		{"import --from linkerd " + route, "", exitUsage, "--from linkerd: want one of"},
		{"import --output yaml " + route, "", exitUsage, "--output yaml: want text or json"},
		{"import -o /nowhere/policy.yaml " + route, "", exitFailed, "/nowhere/policy.yaml"},
	} {
		_, stderr, code := weirReading(t, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("weir %s: exit %d, want %d; it says %q, want %q", c.args, code, c.code, stderr, c.stderr)
		}
	}
}

func TestImportIsJSON(t *testing.T) {
	stdout, stderr, code := weir(t, "import", "--output", "json", file(t, aRoute))
	var got struct {
		Documents []struct {
			Kind     string
			Metadata struct{ Name string }
		}
		Notes []struct {
			File, Path, Message string
			Line                int
			Lost                bool
			Document            struct{ Kind, Namespace, Name string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || stderr != "" {
		t.Fatalf("exit %d, %v: %s%s", code, err, stdout, stderr)
	}
	if len(got.Documents) != 2 || got.Documents[1].Kind != "Route" || got.Documents[1].Metadata.Name != "cart" {
		t.Errorf("documents: %+v", got.Documents)
	}
	if len(got.Notes) != 2 || got.Notes[1].Line != 7 || !got.Notes[1].Lost || got.Notes[1].Document.Name != "cart" || got.Notes[1].Path != "spec.rules[0].unheardOf" {
		t.Errorf("notes: %+v", got.Notes)
	}
}

const importDocs = "../../docs/import.md"

var importRun = regexp.MustCompile("(?s)```yaml\n(.*?)```\n\n```console\n(\\$ weir import -o policy.yaml cart.yaml\n.*?)```")

// TestTheDocsOfImportAreSo runs the example of the page, and holds it to what is printed there; -update rewrites it.
func TestTheDocsOfImportAreSo(t *testing.T) {
	docs, err := filepath.Abs(importDocs)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	run := importRun.FindSubmatchIndex(page)
	if run == nil {
		t.Fatalf("%s has no run of weir import", importDocs)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("cart.yaml", page[run[2]:run[3]], 0o600); err != nil {
		t.Fatal(err)
	}
	_, notes, code := weir(t, "import", "-o", "policy.yaml", "cart.yaml")
	documents, err := os.ReadFile("policy.yaml")
	if err != nil || code != 0 {
		t.Fatalf("exit %d: %v", code, err)
	}
	if _, stderr, code := weir(t, "validate", "policy.yaml"); code != 0 {
		t.Errorf("weir validate: exit %d: %s", code, stderr)
	}
	got := "$ weir import -o policy.yaml cart.yaml\n" + notes + "$ cat policy.yaml\n" + string(documents)
	if golden.Updating() {
		if err := os.WriteFile(docs, append(append(page[:run[4]:run[4]], got...), page[run[5]:]...), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want := string(page[run[4]:run[5]]); got != want {
		t.Errorf("%sthe page says\n%s", got, want)
	}
}
