package xds_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/catalog"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// pipeline is the way from bytes to a snapshot, as a server goes it again and again.
type pipeline struct {
	set        *policy.Set
	resolver   mesh.Resolver
	translator *xds.Translator
}

func newPipeline() *pipeline { return &pipeline{translator: xds.NewTranslator(xds.Options{})} }

func (p *pipeline) snapshot(t testing.TB, files []policy.File) (*xds.Snapshot, []policy.Problem) {
	t.Helper()
	set, problems := policy.Load(files, p.set)
	p.set = set
	snapshot, err := p.translator.Translate(p.resolver.At(set, time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	return snapshot, problems
}

// TestEditsGiveTheSame: after any edits, right and wrong ones, the snapshot is the one of the set from nothing.
func TestEditsGiveTheSame(t *testing.T) {
	for seed := range uint64(60) {
		a := author{rand.New(rand.NewPCG(seed, 8))}
		all := make(map[string]string)
		p := newPipeline()
		for round := range 20 {
			for _, d := range a.documents() {
				if name := strings.Join(strings.SplitAfterN(d, "\n", 3)[:2], ""); round == 0 || a.IntN(8) == 0 {
					all[name] = d
				}
			}
			for name := range all {
				if a.IntN(40) == 0 {
					delete(all, name)
				} else if a.IntN(40) == 0 {
					all[name] = "kind: Service\nmetadata: {name: broken}\n"
				}
			}
			var files []policy.File
			for name, text := range all {
				files = append(files, policy.File{Name: name, Data: []byte(text)})
			}
			got, _ := p.snapshot(t, files)
			want, err := xds.Translate(mesh.Build(p.set), xds.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Views()) != len(want.Views()) {
				t.Fatalf("seed %d, round %d: %d views, want %d", seed, round, len(got.Views()), len(want.Views()))
			}
			same(t, want, got)
			if got.Version() != want.Version() {
				t.Fatalf("seed %d, round %d: version %s, want %s", seed, round, got.Version(), want.Version())
			}
		}
	}
}

// file is a service with its Route, for a fleet of many.
func file(i, endpoint, weight int) policy.File {
	return policy.File{Name: fmt.Sprintf("policy/s%05d.yaml", i), Data: []byte(catalog.Service(i, endpoint, weight))}
}

func entry(port int) policy.File {
	return policy.File{Name: "policy/edge.yaml", Data: fmt.Appendf(nil,
		"kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: http, port: %d}]}\n", port)}
}

func fleet(n int) []policy.File {
	files := make([]policy.File, n, n+2)
	for i := range files {
		files[i] = file(i, 1, 90)
	}
	return append(files, entry(8080))
}

// TestEditsLeaveNothingBehind: what is kept for the next edit is of the documents as they are, not as they were.
func TestEditsLeaveNothingBehind(t *testing.T) {
	files, p := fleet(50), newPipeline()
	heap := func() uint64 {
		for round := range 300 {
			files[round%50] = file(round%50, 1+round%250, 1+round)
			p.snapshot(t, files)
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	if after := heap(); after > before+before/4 {
		t.Errorf("300 edits more leave %d bytes where there were %d", after, before)
	}
	runtime.KeepAlive(p)
}

// BenchmarkBuild: 10,000 services with a Route each, from bytes to what proxies are served: the first time, and after
// one edit. What is to move the first: YAML. What is to move the others: work that grows with all services.
func BenchmarkBuild(b *testing.B) {
	const n = 10_000
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		files := fleet(n)
		for b.Loop() {
			newPipeline().snapshot(b, files)
		}
	})
	for _, one := range []struct {
		what string
		edit func(files []policy.File, round int) []policy.File
	}{
		{"endpoint", func(files []policy.File, round int) []policy.File {
			files[n/2] = file(n/2, 1+round%250, 90)
			return files
		}},
		{"weight", func(files []policy.File, round int) []policy.File {
			files[n/2] = file(n/2, 1, 1+round)
			return files
		}},
		{"service", func(files []policy.File, round int) []policy.File {
			return append(files[:n+1:n+1], file(n+round%2, 1, 90))
		}},
		{"gateway", func(files []policy.File, round int) []policy.File {
			files[n] = entry(8080 + round%100)
			return files
		}},
	} {
		b.Run(one.what, func(b *testing.B) {
			b.ReportAllocs()
			files, p := fleet(n), newPipeline()
			p.snapshot(b, files)
			runtime.GC()
			round := 0
			for b.Loop() {
				round++
				files = one.edit(files, round)
				if _, problems := p.snapshot(b, files); len(problems) > 0 {
					b.Fatal(problems)
				}
			}
		})
	}
}
