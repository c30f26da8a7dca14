package mesh_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// world is some documents that refer to each other, each in a file of its own.
func world(r *rand.Rand) map[string]string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	files := make(map[string]string)
	for i := range 4 {
		name := fmt.Sprintf("s%d", i)
		if r.IntN(6) > 0 {
			files[name] = fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {versions: [{name: v1, requestHeaders: {set: {x-a: %q}}}], endpoints: {static: [{address: 10.0.0.%s, port: 1}]}%s}\n",
				name, pick("1", "2"), pick("1", "2"), pick("", ", affinity: {header: x-u}"))
		}
		if r.IntN(3) > 0 {
			files["r"+name] = fmt.Sprintf("kind: Route\nmetadata: {name: %s}\nspec: {service: s%d, rules: [{match: {headers: [{name: x, present: true}]}, loadTest: {%s}}, {to: [{service: s%d, version: v1, weight: %s}, {}]%s}]}\n",
				name, i, pick("requests: 5", "until: 2030-01-01T00:00:00Z"), r.IntN(4), pick("1", "9"), pick("", ", rateLimit: {requests: 5, per: second}"))
		}
		if r.IntN(3) == 0 {
			files["l"+name] = fmt.Sprintf("kind: RateLimit\nmetadata: {name: %s}\nspec: {service: s%d, limits: [{requests: %s, per: hour}]}\n", name, r.IntN(4), pick("1", "2"))
		}
	}
	files["g"] = "kind: Gateway\nmetadata: {name: g}\nspec: {listeners: [{name: a, port: 1}], services: [" + pick(`"*"`, "s0", `"s[12]"`, "s3") + "]}\n"
	return files
}

// TestResolverGivesTheSame: whatever was resolved before, the model is the one that it is from nothing; and what depends
// on nothing that has changed is the same service.
func TestResolverGivesTheSame(t *testing.T) {
	kept := 0
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		var resolver mesh.Resolver
		var last *policy.Set
		now, known := time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC), make(map[*mesh.Service]bool)
		all := world(r)
		for round := range 60 {
			for name, text := range world(r) { // a few are as in another world
				if r.IntN(8) == 0 {
					all[name] = text
				}
			}
			if r.IntN(10) == 0 {
				delete(all, fmt.Sprintf("%ss%d", []string{"", "r", "l"}[r.IntN(3)], r.IntN(4)))
			}
			if round == 30 {
				now = now.AddDate(2, 0, 0)
			}
			var files []policy.File
			for name, text := range all {
				files = append(files, policy.File{Name: name, Data: []byte(text)})
			}
			last, _ = policy.Load(files, last)
			got, want := resolver.At(last, now), mesh.At(last, now)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, round %d: the model is not what it is from nothing", seed, round)
			}
			if a, b := resolver.NextEnd(now), mesh.NextEnd(last, now); !a.Equal(b) || resolver.AnyEnded(now) != mesh.AnyEnded(last, now) {
				t.Fatalf("seed %d, round %d: load tests end at %s, want %s", seed, round, a, b)
			}
			if again := resolver.At(last, now); len(got.Limits) > 0 && &again.Limits[0] != &got.Limits[0] {
				t.Fatalf("seed %d, round %d: the limits are made anew where nothing has changed", seed, round)
			}
			for _, s := range got.Services {
				if known[s] {
					kept++
				}
				known[s] = true
			}
		}
	}
	if kept < 1000 {
		t.Errorf("only %d services were kept", kept)
	}
}
