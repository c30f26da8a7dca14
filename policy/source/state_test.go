package source_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy/source"
)

// life is a source from its start until it has said something once: what is in force, how many problems, what it logs.
func life(t *testing.T, state string, paths ...string) (names string, problems int, log string) {
	t.Helper()
	var b bytes.Buffer
	s := source.New(paths, slog.New(slog.NewTextHandler(&b, nil)))
	if err := s.Keep(state); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := s.Run(ctx, func(u source.Update) {
		for _, s := range u.Set.Services {
			names += s.Metadata.Name + " "
		}
		problems = len(u.Problems)
		cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, problems, b.String()
}

func lives(t *testing.T, state, path, names string, problems int) (log string) {
	t.Helper()
	gotNames, gotProblems, log := life(t, state, path)
	if gotNames != names || gotProblems != problems {
		t.Fatalf("got services %q and %d problems, want %q and %d\n%s", gotNames, gotProblems, names, problems, log)
	}
	return log
}

func TestLastGoodDocumentsOutliveTheProcess(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "new", "state")
	a, b, kept := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml"), filepath.Join(state, source.StateFile)
	write(t, a, "# the first\n"+service("a")+"---\n"+service("c"))
	write(t, b, service("b"))
	lives(t, state, dir, "a b c ", 0)
	for name, mode := range map[string]os.FileMode{state: 0o700, kept: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %o", name, info.Mode(), err, mode)
		}
	}
	broken := strings.Replace(service("a"), "port: 80", "port: no", 1)
	write(t, a, broken+"---\n"+service("c"))
	if log := lives(t, state, dir, "a b c ", 1); !strings.Contains(log, `document="Service a"`) {
		t.Errorf("it is not said which documents are old ones:\n%s", log)
	}
	lives(t, state, dir, "a b c ", 1)        // what was kept is kept on
	write(t, a, "\t[")                       // all of a file that is no YAML
	lives(t, state, dir, "a b c ", 1)        //
	write(t, a, broken+"---\n"+service("d")) // c is gone on purpose
	lives(t, state, dir, "a b d ", 1)
	do(t, os.Remove(b))
	lives(t, state, dir, "a d ", 1)
	write(t, a, "")
	lives(t, state, dir, "a d ", 1)
	do(t, os.Remove(a))
	lives(t, state, dir, "a d ", 1)
	do(t, os.Remove(dir))
	lives(t, state, dir, "a d ", 1)
	do(t, os.Mkdir(dir, 0o700))
	write(t, b, service("b"))
	lives(t, state, dir, "b ", 0)
}

// TestKeptDocumentsAreWhereTheyWere: what is told of a document by its line stays right.
func TestKeptDocumentsAreWhereTheyWere(t *testing.T) {
	a, state := filepath.Join(t.TempDir(), "a.yaml"), t.TempDir()
	write(t, a, "# one\n\n"+service("a")+"...\n# two \u2028 and three\n---\n\n"+service("b")+"---\r\n"+service("c"))
	line := func() (lines [3]int) {
		s := source.New([]string{a}, slog.New(slog.DiscardHandler))
		do(t, s.Keep(state))
		ctx, cancel := context.WithCancel(t.Context())
		do(t, s.Run(ctx, func(u source.Update) {
			for i, s := range u.Set.Services {
				lines[i] = s.Origin.Line
			}
			cancel()
		}))
		return lines
	}
	want := line()
	do(t, os.Remove(a))
	if got := line(); got != want {
		t.Errorf("lines %v, want %v", got, want)
	}
}

// TestDamagedStateIsSetAside: neither a crash in the middle of a write nor a broken disk stops a start.
func TestDamagedStateIsSetAside(t *testing.T) {
	a, state := filepath.Join(t.TempDir(), "a.yaml"), t.TempDir()
	kept := filepath.Join(state, source.StateFile)
	write(t, a, service("a"))
	lives(t, state, a, "a ", 0)
	whole, err := os.ReadFile(kept)
	do(t, err)
	write(t, kept+".new", string(whole[:len(whole)/2])) // a crash before the rename
	write(t, a, "\t[")
	lives(t, state, a, "a ", 1)
	for _, damaged := range []string{"", "x", string(whole[:len(whole)-9]), strings.Replace(string(whole), "10.0.0.1", "10.0.0.2", 1)} {
		write(t, kept, damaged)
		log := lives(t, state, a, "", 1)
		if aside, err := os.ReadFile(kept + ".damaged"); err != nil || string(aside) != damaged || !strings.Contains(log, "set aside") {
			t.Errorf("%q: set aside is %q, %v\n%s", damaged, aside, err, log)
		}
	}
	write(t, a, service("b"))
	lives(t, state, a, "b ", 0)
}

func TestStateThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	if err := source.New(nil, slog.New(slog.DiscardHandler)).Keep(file); err == nil {
		t.Error("no error")
	}
}
