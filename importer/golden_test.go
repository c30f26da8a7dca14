package importer_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/importer"
	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// input gives the files of an archive in order.
func input(files map[string][]byte) []policy.File {
	var all []policy.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		all = append(all, policy.File{Name: name, Data: files[name]})
	}
	return all
}

func mustImport(tb testing.TB, files []policy.File) *importer.Result {
	tb.Helper()
	result, err := importer.Import(files, importer.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return result
}

// mustLoad holds documents to be good as they are: what comes out of an import always is.
func mustLoad(tb testing.TB, documents []byte) *policy.Set {
	tb.Helper()
	set, problems := policy.Load([]policy.File{{Name: "documents.yaml", Data: documents}}, nil)
	for _, p := range problems {
		tb.Errorf("%s\n%s", p, documents)
	}
	mesh.Build(set)
	return set
}

func notes(r *importer.Result) []byte {
	var text bytes.Buffer
	for _, n := range r.Notes {
		fmt.Fprintln(&text, n)
	}
	return text.Bytes()
}

func TestImport(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		result := mustImport(t, input(files))
		mustLoad(t, result.YAML())
		if again := mustImport(t, input(files)); !bytes.Equal(again.YAML(), result.YAML()) || !slices.Equal(again.Notes, result.Notes) {
			t.Error("the same input gives another output the second time")
		}
		return map[string][]byte{"documents.yaml": result.YAML(), "notes.txt": notes(result)}
	})
}

// BenchmarkImport imports 1,000 services, each with a VirtualService and a DestinationRule.
func BenchmarkImport(b *testing.B) {
	const one = `---
apiVersion: v1
kind: Service
metadata: {name: s%[1]d}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: s%[1]d}
spec:
  hosts: [s%[1]d, s%[1]d.example.com]
  gateways: [mesh, edge]
  http:
    - {match: [{uri: {prefix: /a}, headers: {x: {exact: y}}}], route: [{destination: {host: s%[1]d, subset: v2}}]}
    - {route: [{destination: {host: s%[1]d, subset: v1}, weight: 90}, {destination: {host: s%[1]d, subset: v2}, weight: 10}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s%[1]d}
spec: {host: s%[1]d, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
`
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, one, i)
	}
	files := []policy.File{{Name: "all.yaml", Data: []byte(text.String())}}
	b.ReportAllocs()
	for b.Loop() {
		if r := mustImport(b, files); len(r.Documents) != 4000 {
			b.Fatal(len(r.Documents))
		}
	}
}
