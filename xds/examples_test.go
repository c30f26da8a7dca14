package xds_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// TestExamples: each set of documents under examples is good, and Envoy takes what its gateways are served.
func TestExamples(t *testing.T) {
	dirs, err := filepath.Glob("../examples/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no examples (%v)", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) { example(t, dir) })
	}
}

func example(t *testing.T, dir string) {
	names, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no documents (%v)", err)
	}
	var files []policy.File
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, policy.File{Name: name, Data: text})
	}
	set, problems := policy.Load(files, nil)
	for _, p := range problems {
		t.Error(p)
	}
	snapshot, err := xds.Translate(mesh.Build(set), xds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for p, v := range snapshot.Views() {
		if p.Role != mesh.RoleGateway {
			continue
		}
		text, err := xds.Render(v, false)
		if err != nil {
			t.Fatal(err)
		}
		envoytest.Validate(t, static(t, text))
	}
}
