package source_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/machinenativeops/weir/policy/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(name string) string {
	return fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 80}]}}\n", name)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watch runs a source and gives its updates.
func watch(t *testing.T, path string) <-chan source.Update {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	updates, ended := make(chan source.Update, 16), make(chan error, 1)
	go func() {
		ended <- source.New([]string{path}, slog.New(slog.DiscardHandler)).Run(ctx, func(u source.Update) { updates <- u })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return updates
}

// next gives the names of the services in the next update, and its problems.
func next(t *testing.T, updates <-chan source.Update) (names string, problems int) {
	t.Helper()
	select {
	case u := <-updates:
		for _, s := range u.Set.Services {
			names += s.Metadata.Name + " "
		}
		return names, len(u.Problems)
	case <-time.After(10 * time.Second):
		t.Fatal("no update within 10 s")
		return "", 0
	}
}

func expect(t *testing.T, updates <-chan source.Update, names string, problems int) {
	t.Helper()
	gotNames, gotProblems := next(t, updates)
	if gotNames != names || gotProblems != problems {
		t.Fatalf("got services %q and %d problems, want %q and %d", gotNames, gotProblems, names, problems)
	}
}

func none(t *testing.T, updates <-chan source.Update) {
	t.Helper()
	select {
	case u := <-updates:
		t.Fatalf("an update where nothing changed: %+v", u)
	case <-time.After(400 * time.Millisecond):
	}
}

func TestWritesAndRenames(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, service("a"))
	updates := watch(t, dir)
	expect(t, updates, "a ", 0)
	write(t, file, service("b"))
	expect(t, updates, "b ", 0)
	write(t, file, service("b"))
	none(t, updates)
	write(t, filepath.Join(dir, ".a.swp"), "x")
	none(t, updates)
	do(t, os.Mkdir(filepath.Join(dir, "team"), 0o700))
	write(t, filepath.Join(dir, "team", "c.yml"), service("c"))
	expect(t, updates, "b c ", 0)
	tmp := filepath.Join(t.TempDir(), "new")
	write(t, tmp, service("d"))
	do(t, os.Rename(tmp, file))
	expect(t, updates, "c d ", 0)
	write(t, file, "kind: Service\nmetadata: {name: d}\nspec: {nonsense: 1}\n")
	expect(t, updates, "c d ", 2)
	do(t, os.Remove(file))
	expect(t, updates, "c ", 0)
}

func TestEmptiedAndVanishedDirectoriesChangeNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	do(t, os.Mkdir(dir, 0o700))
	write(t, filepath.Join(dir, "a.yaml"), service("a"))
	updates := watch(t, dir)
	expect(t, updates, "a ", 0)
	do(t, os.Remove(filepath.Join(dir, "a.yaml")))
	expect(t, updates, "a ", 1)
	do(t, os.Remove(dir))
	expect(t, updates, "a ", 1)
	do(t, os.Mkdir(dir, 0o700))
	write(t, filepath.Join(dir, "b.yaml"), service("b"))
	for names := ""; names != "b "; {
		names, _ = next(t, updates)
	}
}

// TestMountedConfigMap swaps the files as the kubelet does: through a link to a folder, replaced at once.
func TestMountedConfigMap(t *testing.T) {
	dir := t.TempDir()
	generation := func(n int, name string) string {
		folder := fmt.Sprintf("..2026_%d", n)
		do(t, os.Mkdir(filepath.Join(dir, folder), 0o700))
		write(t, filepath.Join(dir, folder, "a.yaml"), service(name))
		do(t, os.Symlink(folder, filepath.Join(dir, "..data_tmp")))
		do(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		return filepath.Join(dir, folder)
	}
	old := generation(1, "a")
	do(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	updates := watch(t, dir)
	expect(t, updates, "a ", 0)
	generation(2, "b")
	do(t, os.RemoveAll(old))
	expect(t, updates, "b ", 0)
	none(t, updates)
}

func TestPathThatNeverWas(t *testing.T) {
	_, _, err := source.New([]string{filepath.Join(t.TempDir(), "nowhere")}, slog.New(slog.DiscardHandler)).Load()
	if err == nil {
		t.Error("no error")
	}
}

// TestEmptiedFilesChangeNothing: a file without a byte is an accident; one that is deleted, or of comments, is not.
func TestEmptiedFilesChangeNothing(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.yaml")
	write(t, a, service("a"))
	write(t, filepath.Join(dir, "b.yaml"), service("b"))
	updates := watch(t, dir)
	expect(t, updates, "a b ", 0)
	write(t, a, "")
	expect(t, updates, "a b ", 1)
	write(t, a, "\n \n")
	none(t, updates)
	write(t, a, "# nothing here\n")
	expect(t, updates, "b ", 0)
	write(t, a, service("a"))
	expect(t, updates, "a b ", 0)
	do(t, os.Remove(a))
	expect(t, updates, "b ", 0)
}

func TestEmptiedPathChangesNothing(t *testing.T) {
	a := filepath.Join(t.TempDir(), "a.yaml")
	write(t, a, service("a"))
	updates := watch(t, a)
	expect(t, updates, "a ", 0)
	do(t, os.Truncate(a, 0))
	expect(t, updates, "a ", 1)
}

// TestCommentsAreNoChange, unless they move what the documents say.
func TestCommentsAreNoChange(t *testing.T) {
	a := filepath.Join(t.TempDir(), "a.yaml")
	write(t, a, service("a")+"# one\n")
	updates := watch(t, a)
	expect(t, updates, "a ", 0)
	write(t, a, service("a")+"# two\n# three\n")
	none(t, updates)
	write(t, a, "# one\n"+service("a"))
	select {
	case u := <-updates:
		if line := u.Set.Services[0].Origin.Line; line != 2 {
			t.Errorf("it is said to be in line %d", line)
		}
	case <-time.After(10 * time.Second):
		t.Error("what is told of the document is of the line that it was in")
	}
}

// TestSwappedMountIsReadWhole reads while a mount is swapped: each time, all files are of one generation.
func TestSwappedMountIsReadWhole(t *testing.T) {
	const files, swaps = 8, 200
	dir := t.TempDir()
	var folders []string
	swap := func(n int) error {
		folder := filepath.Join(dir, fmt.Sprintf("..%d", n))
		folders = append(folders, folder)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		for i := range files {
			text := service(fmt.Sprintf("s%d-of-%d", i, n))
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600); err != nil {
				return err
			}
		}
		link := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(filepath.Base(folder), link); err != nil {
			return err
		}
		if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
			return err
		}
		if n > 0 {
			return os.RemoveAll(folders[n-1])
		}
		return nil
	}
	do(t, swap(0))
	for i := range files {
		do(t, os.Symlink(fmt.Sprintf("..data/%d.yaml", i), filepath.Join(dir, fmt.Sprintf("%d.yaml", i))))
	}
	ended := make(chan error, 1)
	go func() {
		for n := 1; n <= swaps; n++ {
			if err := swap(n); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for reading := true; reading; {
		select {
		case err := <-ended:
			do(t, err)
			reading = false
		default:
		}
		set, problems, err := source.New([]string{dir}, slog.New(slog.DiscardHandler)).Load()
		if err != nil && strings.Contains(err.Error(), "again and again") {
			continue
		}
		if err != nil || len(problems) > 0 || len(set.Services) != files {
			t.Fatalf("%v, problems %v", err, problems)
		}
		generations := make(map[string]bool)
		for _, s := range set.Services {
			_, of, _ := strings.Cut(s.Metadata.Name, "-of-")
			generations[of] = true
			if filepath.Dir(s.Origin.File) != dir {
				t.Fatalf("the file is said to be %s", s.Origin.File)
			}
		}
		if len(generations) != 1 {
			t.Fatalf("documents of %d generations at once", len(generations))
		}
	}
}
