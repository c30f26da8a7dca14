package lint_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// BenchmarkCheck is what weir serve pays for warnings at each change: many services, and one with very many rules, each
// of which is held against those before it.
func BenchmarkCheck(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "kind: Service\nmetadata: {name: s%d}\nspec: {versions: [{name: v1}], endpoints: {static: [{address: 10.0.0.1, port: 80, labels: {version: v1}}]}}\n---\n", i)
		fmt.Fprintf(&text, "kind: Route\nmetadata: {name: s%d}\nspec:\n  service: s%d\n  rules:\n", i, i)
		for j := range map[bool]int{true: 500, false: 5}[i == 0] {
			form := []string{"prefix: /%d", "exact: /%d/a", "regex: \"/%d/[a-z]+/.*\""}[j%3]
			fmt.Fprintf(&text, "    - {match: {path: {"+form+"}, headers: [{name: x-a, regex: \"%d[a-z]\"}]}}\n", j, j)
		}
		text.WriteString("---\n")
	}
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text.String())}}, nil)
	if len(problems) > 0 {
		b.Fatal(problems[0])
	}
	model := mesh.Build(set)
	b.ReportAllocs()
	for b.Loop() {
		lint.Check(set, model, true)
	}
}
