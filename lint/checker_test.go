package lint_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// doubtful is some documents about which there are warnings, many of which others could make good.
func doubtful(r *rand.Rand) map[string]string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	files := make(map[string]string)
	for i := range 4 {
		name := fmt.Sprintf("s%d", i)
		if r.IntN(6) > 0 {
			files[name] = fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {versions: [{name: v1}, {name: v2}], timeout: %s, retries: {perTry: 2s%s}, endpoints: {static: [%s]}}\n",
				name, pick("1s", "10s"), pick("", ", on: [5xx]"), pick("", "{address: 10.0.0.1, port: 1, labels: {version: v1}}", "{address: 10.0.0.1, port: 1, labels: {version: v1}}, {address: 10.0.0.2, port: 1}"))
			if r.IntN(5) == 0 {
				files[name] = fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {versions: [{name: v1}, {name: v2}], endpoints: {none: true}}\n", name)
			}
		}
		if r.IntN(3) > 0 {
			files["r"+name] = fmt.Sprintf("kind: Route\nmetadata: {name: %s}\nspec: {service: s%d, rules: [{match: {path: {prefix: /a}}%s}, {match: {path: {%s}}, to: [{service: s%d, version: v%d, weight: %s}, {}]}]}\n",
				name, i, pick("", ", retries: {perTry: 9s}", ", mirror: [{service: s1, version: v2}]"), pick("prefix: /a/b", "regex: /b.*", "prefix: /c"), r.IntN(4), 1+r.IntN(2), pick("0", "9"))
		}
		if r.IntN(3) == 0 {
			files["l"+name] = fmt.Sprintf("kind: RateLimit\nmetadata: {name: %s}\nspec: {service: s%d, scope: %s, onError: deny, limits: [{requests: 1, per: hour}]}\n", name, r.IntN(4), pick("local", "global"))
		}
	}
	files["g"] = "kind: Gateway\nmetadata: {name: g}\nspec: {listeners: [{name: a, port: 1}], services: [" + pick(`"*"`, "s0", `"s[12]"`, "x/s3") + "]}\n"
	return files
}

// TestCheckerGivesTheSame: whatever was checked before, the warnings are those of the set by itself.
func TestCheckerGivesTheSame(t *testing.T) {
	warned := make(map[string]bool)
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		var resolver mesh.Resolver
		var checker lint.Checker
		var last *policy.Set
		all := doubtful(r)
		for round := range 50 {
			for name, text := range doubtful(r) {
				if r.IntN(6) == 0 {
					all[name] = text
				}
			}
			if r.IntN(6) == 0 {
				delete(all, fmt.Sprintf("%ss%d", []string{"", "r", "l"}[r.IntN(3)], r.IntN(4)))
			}
			var files []policy.File
			for name, text := range all {
				files = append(files, policy.File{Name: name, Data: []byte(text)})
			}
			var problems []policy.Problem
			last, problems = policy.Load(files, last)
			model := resolver.At(last, time.Time{})
			got, want := checker.Check(last, model, len(problems) == 0), lint.Check(last, mesh.Build(last), len(problems) == 0)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, round %d: warnings are\n%v, want\n%v", seed, round, got, want)
			}
			for _, w := range got {
				warned[w.Name] = true
			}
		}
	}
	if len(warned) < 8 {
		t.Errorf("only these warnings have come: %v", warned)
	}
}
