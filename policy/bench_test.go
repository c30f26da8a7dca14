package policy_test

import (
	"fmt"
	"testing"

	"github.com/machinenativeops/weir/internal/catalog"
	"github.com/machinenativeops/weir/policy"
)

// fleet is a file for each of n services, with its Route.
func fleet(n int) []policy.File {
	files := make([]policy.File, n)
	for i := range files {
		files[i] = fleetFile(i, 1)
	}
	return files
}

func fleetFile(i, endpoint int) policy.File {
	return policy.File{Name: fmt.Sprintf("policy/s%05d.yaml", i), Data: []byte(catalog.Service(i, endpoint, 90))}
}

// BenchmarkLoadFleet: 10,000 services with a Route each, from their bytes. What is to move it: YAML, and work done twice.
func BenchmarkLoadFleet(b *testing.B) {
	files := fleet(10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := policy.Load(files, nil); len(problems) > 0 {
			b.Fatal(problems)
		}
	}
}

// BenchmarkLoadEdit: one endpoint of them changes. What is to move it: work that grows with all documents.
func BenchmarkLoadEdit(b *testing.B) {
	files := fleet(10_000)
	set, _ := policy.Load(files, nil)
	b.ReportAllocs()
	round := 0
	for b.Loop() {
		round++
		files[5000] = fleetFile(5000, 1+round%250)
		var problems []policy.Problem
		if set, problems = policy.Load(files, set); len(problems) > 0 {
			b.Fatal(problems)
		}
	}
}
