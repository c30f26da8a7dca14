package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/policy"
)

func load(text string, last *policy.Set) (*policy.Set, []policy.Problem) {
	return policy.Load([]policy.File{{Name: "policy.yaml", Data: []byte(text)}}, last)
}

// TestGolden holds documents against every error that they must give, or else against what they mean.
func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		set, problems := load(string(files["policy.yaml"]), nil)
		if len(problems) > 0 {
			var text bytes.Buffer
			for _, p := range problems {
				fmt.Fprintln(&text, p)
			}
			return map[string][]byte{"error.txt": text.Bytes()}
		}
		text, err := json.MarshalIndent(set, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{"set.json": append(text, '\n')}
	})
}

const checkout = `
kind: Service
metadata: {name: checkout}
spec: {versions: [{name: v1}], endpoints: {static: [{address: 10.0.0.1, port: 80}]}}
---
kind: Route
metadata: {name: checkout}
spec: {service: checkout, rules: [{name: all, to: [{version: v1}]}]}
`

// good is the set of checkout.
func good(t *testing.T) *policy.Set {
	t.Helper()
	set, problems := load(checkout, nil)
	for _, p := range problems {
		t.Fatal(p)
	}
	return set
}

func TestRefusedDocumentKeepsItsLastGoodVersion(t *testing.T) {
	last := good(t)
	more := "---\nkind: Service\nmetadata: {name: other}\nspec: {endpoints: {static: [{address: 10.0.0.2, port: 80}]}}\n"
	set, problems := load(strings.Replace(checkout, "name: all", "title: all", 1)+more, last)
	if len(problems) != 1 || len(set.Routes) != 1 || set.Routes[0].Spec.Rules[0].Name != "all" {
		t.Errorf("got problems %v and routes %+v, want the last good route", problems, set.Routes)
	}
	if len(set.Services) != 2 {
		t.Errorf("one document's mistake holds up another: %d services", len(set.Services))
	}
}

func TestRefusedDocumentKeepsWhatItRefersTo(t *testing.T) {
	last := good(t)
	for what, text := range map[string]string{
		"a service gone": checkout[strings.Index(checkout, "---"):],
		"a version gone": strings.Replace(checkout, "versions: [{name: v1}]", "versions: [{name: v2}]", 1),
	} {
		set, problems := load(text, last)
		if len(problems) != 1 || len(set.Services) != 1 || set.Services[0].Spec.Versions[0].Name != "v1" || len(set.Routes) != 1 {
			t.Errorf("%s: problems %v, services %+v, routes %d", what, problems, set.Services, len(set.Routes))
		}
	}
}

func TestUnreadableFileKeepsItsDocuments(t *testing.T) {
	last := good(t)
	set, problems := load(checkout+"---\n\tx: [", last)
	if len(problems) != 1 || len(set.Services) != 1 || len(set.Routes) != 1 {
		t.Errorf("problems %v, %d services, %d routes", problems, len(set.Services), len(set.Routes))
	}
}

func TestRemovedDocumentIsGone(t *testing.T) {
	set, problems := load("# nothing\n", good(t))
	if len(problems) > 0 || len(set.Services)+len(set.Routes) > 0 {
		t.Errorf("problems %v, %d services", problems, len(set.Services))
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(checkout)
	f.Add("kind: Mesh\nmetadata: {name: m}\nspec: {tracing: {collector: \"a:1\"}, accessLog: {to: otlp, only: {status: \">=500\"}}}")
	f.Add("a: &a [*a]\n---\n? {}\n: 1")
	f.Fuzz(func(t *testing.T, text string) {
		set, problems := load(text, nil)
		again, more := load(text, set)
		if len(problems) != len(more) {
			t.Fatalf("problems differ the second time: %v, %v", problems, more)
		}
		a, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(again); !bytes.Equal(a, b) {
			t.Fatalf("sets differ:\n%s\n%s", a, b)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintln(&text, "---"+strings.ReplaceAll(checkout, "checkout", fmt.Sprintf("checkout-%d", i)))
	}
	files := []policy.File{{Name: "policy.yaml", Data: []byte(text.String())}}
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := policy.Load(files, nil); len(problems) > 0 {
			b.Fatal(problems[0])
		}
	}
}

// TestNamesThatProxiesWouldConfuse: a version of a service without a namespace, and a service of a namespace, are one name to
// proxies.
func TestNamesThatProxiesWouldConfuse(t *testing.T) {
	const plain = "kind: Service\nmetadata: {name: a}\nspec: {versions: [{name: c}, {name: b}], endpoints: {static: [{address: 10.0.0.1, port: 1}]}}\n"
	const spaced = "kind: Service\nmetadata: {name: b, namespace: a}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}\n"
	for _, c := range [][3]string{
		{plain, spaced, "2.yaml:2:18: Service a/b: metadata.name"},
		{spaced, plain, "2.yaml:3:37: Service a: spec.versions[1].name"},
	} {
		_, problems := policy.Load([]policy.File{{Name: "1.yaml", Data: []byte(c[0])}, {Name: "2.yaml", Data: []byte(c[1])}}, nil)
		if len(problems) != 1 || !strings.HasPrefix(problems[0].String(), c[2]+`: proxies would know it as "a/b"`) {
			t.Errorf("want %s, got %v", c[2], problems)
		}
	}
}
