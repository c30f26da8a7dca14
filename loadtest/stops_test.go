package loadtest_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/loadtest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const documents = `
kind: Service
metadata: {name: s}
spec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}
---
kind: Route
metadata: {name: r}
spec:
  service: s
  rules:
    - {name: load, match: {headers: [{name: x, present: true}]}, loadTest: {requests: 3, stopWhen: {errors: 1}}}
    - {name: default}
`

func load(t *testing.T, text string) *policy.Set {
	t.Helper()
	set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return set
}

// TestStopsAreKept: over a restart, until the rule is edited; a Route that is gone for a while, and edits around the rule,
// change nothing.
func TestStopsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	quiet := slog.New(slog.DiscardHandler)
	open := func() *loadtest.Stops {
		s, err := loadtest.Open(dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	id := mesh.LoadTests(load(t, documents), time.Time{})[0].ID
	stop := loadtest.Stop{ID: id, Rule: "load", At: time.Date(2026, 11, 30, 18, 0, 0, 1, time.UTC), Why: "they failed"}
	s := open()
	s.Keep()
	if _, err := os.Stat(filepath.Join(dir, loadtest.StopsFile)); err == nil {
		t.Error("nothing is kept in a file")
	}
	s.Add([]loadtest.Stop{stop})
	s.Keep()
	for _, c := range []struct {
		name, text string
		stays      bool
	}{
		{"as it was", documents, true},
		{"another layout, with a comment", strings.Replace(documents, "    - {name: load, ", "    # again\n    - {name:   load,\n       ", 1), true},
		{"another rule", documents + "    - {name: more}\n", true},
		{"no Route", documents[:strings.Index(documents, "---")], true},
		{"another bound", strings.Replace(documents, "requests: 3", "requests: 4", 1), false},
		{"another name", strings.Replace(documents, "name: load", "name: load2", 1), false},
		{"no such rule", strings.Replace(documents, "loadTest: {", "timeout: 1s} #", 1), false},
	} {
		s := open()
		s.Forget(load(t, c.text))
		if got, ok := s.Of(id); ok != c.stays || ok && got != stop || s.IDs()[id] != c.stays {
			t.Errorf("%s: %+v, %t", c.name, got, ok)
		}
	}
	s = open()
	s.Forget(load(t, strings.Replace(documents, "requests: 3", "requests: 4", 1)))
	s.Keep()
	if _, ok := open().Of(id); ok {
		t.Error("what is forgotten is back after a restart")
	}
	if none, err := loadtest.Open("", quiet); err != nil || len(none.IDs()) > 0 {
		t.Error(err)
	}
}

// TestDamagedStops: a file that is not as it was written is set aside and told of.
func TestDamagedStops(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, loadtest.StopsFile)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := loadtest.Open(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || len(s.IDs()) > 0 || !strings.Contains(log.String(), "set aside") {
		t.Errorf("%v, %s", err, &log)
	}
	if _, err := os.Stat(file + ".damaged"); err != nil {
		t.Error(err)
	}
	if _, err := loadtest.Open(file+".damaged", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file is taken for a folder")
	}
}
