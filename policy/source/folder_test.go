package source

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

// TestChangesAreReadAsAllIs: who reads only what has changed has the same files and problems, in the same order, as who
// reads everything each time.
func TestChangesAreReadAsAllIs(t *testing.T) {
	alone := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		dir := t.TempDir()
		some, all := New([]string{dir}, slog.New(slog.DiscardHandler)), New([]string{dir}, slog.New(slog.DiscardHandler))
		for step := range 60 {
			names := make(map[string]bool)
			for range 1 + r.IntN(3) {
				for _, name := range disturb(t, r, dir) {
					names[name] = true
				}
			}
			if step == 0 {
				names = nil
			} else if _, ok := some.held[dir].change(map[string]bool{}); ok && some.held[dir].plain {
				alone++
			}
			files, problems, err := some.read(names, func(string) {})
			want, more, err2 := all.read(nil, func(string) {})
			if (err == nil) != (err2 == nil) {
				t.Fatalf("seed %d, step %d: %v, want %v", seed, step, err, err2)
			}
			if !slices.EqualFunc(files, want, func(a, b policy.File) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) }) {
				t.Fatalf("seed %d, step %d, changed %v: files are\n%s, want\n%s", seed, step, names, files, want)
			}
			if !reflect.DeepEqual(problems, more) {
				t.Fatalf("seed %d, step %d, changed %v: problems are\n%v, want\n%v", seed, step, names, problems, more)
			}
		}
	}
	if alone < 1000 {
		t.Errorf("only %d of 1800 changes could be read by themselves", alone)
	}
}

// disturb does something to a directory, and gives the names of what it is told of that.
func disturb(t *testing.T, r *rand.Rand, dir string) []string {
	t.Helper()
	pick := func(all ...string) string { return filepath.Join(dir, all[r.IntN(len(all))]) }
	file := pick("a.yaml", "a/b.yaml", "a.b.yaml", "b/c.yml", "c.yaml", "b/d.yaml", "e.txt", ".f.yaml")
	text := fmt.Sprintf("# %d\n", r.IntN(4))
	switch r.IntN(9) {
	case 0:
		folder := pick("a", "b", "g.yaml")
		_ = os.Mkdir(folder, 0o700) // it may be there
		return []string{folder}
	case 1:
		_ = os.Remove(file) // it may not be there
		return []string{file}
	case 2:
		text = []string{"", " \n"}[r.IntN(2)]
	case 3:
		if r.IntN(4) == 0 {
			folder := pick("a", "b")
			_ = os.RemoveAll(folder)
			return []string{folder}
		}
	case 4:
		to := pick("a.yaml", "c.yaml", "b/d.yaml")
		_ = os.Rename(file, to) // either may not be there
		return []string{file, to}
	}
	_ = os.WriteFile(file, []byte(text), 0o600) // its folder may not be there
	return []string{file}
}

func TestWalkedOrder(t *testing.T) {
	want := []string{"p/a", "p/a/b.yaml", "p/a/c/d.yaml", "p/a.yaml", "p/ab.yaml", "p/b.yaml"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareWalk)
	if !slices.Equal(got, want) {
		t.Error(got)
	}
}
