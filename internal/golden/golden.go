// Package golden runs tests that are told as txtar archives: a sentence, the input files, and under want/ the files
// that must come of them. `go test -update` rewrites those.
package golden

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the wanted files")

// Updating says whether wanted files are rewritten.
func Updating() bool { return *update }

const prefix = "want/"

// Run tests each archive that the pattern matches: translate gets the input files and gives what is wanted, by name
// without want/. A wanted file that is missing, stale or too many fails.
func Run(t *testing.T, pattern string, translate func(t *testing.T, files map[string][]byte) map[string][]byte) {
	t.Helper()
	archives, err := filepath.Glob(pattern)
	if err != nil || len(archives) == 0 {
		t.Fatalf("%s: no archives (%v)", pattern, err)
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { one(t, file, translate) })
	}
}

func one(t *testing.T, file string, translate func(*testing.T, map[string][]byte) map[string][]byte) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	input, want := make(map[string][]byte), make(map[string][]byte)
	var kept []txtar.File
	for _, f := range archive.Files {
		if name, ok := strings.CutPrefix(f.Name, prefix); ok {
			want[name] = f.Data
			continue
		}
		input[f.Name] = f.Data
		kept = append(kept, f)
	}
	got := translate(t, input)
	if *update {
		for _, name := range slices.Sorted(maps.Keys(got)) {
			kept = append(kept, txtar.File{Name: prefix + name, Data: got[name]})
		}
		archive.Files = kept
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("want/%s: nothing gives it any more; run with -update", name)
		}
	}
	for name, data := range got {
		compare(t, name, data, want[name])
	}
}

func compare(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if bytes.Equal(bytes.TrimRight(got, "\n"), bytes.TrimRight(want, "\n")) {
		return
	}
	g, w := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || !bytes.Equal(g[i], w[i]) {
			t.Errorf("want/%s differs from line %d on; run with -update and read the difference\ngot:  %s\nwant: %s", name, i+1, at(g, i), at(w, i))
			return
		}
	}
}

func at(lines [][]byte, i int) []byte {
	if i < len(lines) {
		return lines[i]
	}
	return []byte("(the end)")
}
