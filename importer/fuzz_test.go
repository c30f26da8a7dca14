package importer_test

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/machinenativeops/weir/importer"
	"github.com/machinenativeops/weir/policy"
)

// FuzzImport: whatever comes in, what comes out is good.
func FuzzImport(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		f.Fatal("no archives", err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var all []string
		for _, file := range archive.Files {
			if !strings.HasPrefix(file.Name, "want/") {
				all = append(all, string(file.Data))
			}
		}
		f.Add(strings.Join(all, "---\n"))
	}
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		result, err := importer.Import([]policy.File{{Name: "in.yaml", Data: []byte(text)}}, importer.Options{})
		if err == nil {
			mustLoad(t, result.YAML())
		}
	})
}
