package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
)

const (
	cleanDocuments = `kind: Service
metadata: {name: cart}
spec:
  versions: [{name: v1}]
  endpoints: {static: [{address: 10.0.0.1, port: 80, labels: {version: v1}}]}
`
	doubtfulDocuments = cleanDocuments + `---
kind: Route
metadata: {name: cart}
spec:
  service: cart
  rules: [{name: all}, {name: late, match: {methods: [GET]}}]
`
	refusedDocuments = doubtfulDocuments + "---\nkind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [], services: [nobody]}\n"
)

// weir runs a command line as main does.
func weir(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return weirReading(t, "", args...)
}

// weirReading does so with a text on standard input.
func weirReading(t *testing.T, text string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(append([]string{}, args...)) // of none at all, cobra would take the test's own
	root.SetIn(strings.NewReader(text))
	root.SetOut(&out)
	root.SetErr(&errs)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // of a server that should not have started
	defer cancel()
	code = exitCode(root.ExecuteContext(ctx), &errs)
	return out.String(), errs.String(), code
}

// file writes documents and gives their path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWarningsRefuseNothing(t *testing.T) {
	clean, doubtful, refused := file(t, cleanDocuments), file(t, doubtfulDocuments), file(t, refusedDocuments)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string // the beginning of each line
	}{
		{[]string{clean}, 0, "valid: ", ""},
		{[]string{clean, "--strict"}, 0, "valid: ", ""},
		{[]string{doubtful}, 0, "valid: ", doubtful + ":11:24: warning: Route cart: spec.rules[1]: \n1 warning\n"},
		{[]string{doubtful, "--strict"}, 1, "valid: ", doubtful + ":11:24: warning: \n1 warning\n"},
		{[]string{refused}, 1, "", refused + ":15:19: Gateway edge: spec.listeners: \n" + refused + ":11:24: warning: \n1 error, 1 warning\n"},
	} {
		stdout, stderr, code := weir(t, append([]string{"validate"}, c.args...)...)
		if code != c.code || !strings.HasPrefix(stdout, c.stdout) || c.stdout == "" && stdout != "" || !begin(stderr, c.stderr) {
			t.Errorf("%v: exit %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
	}
}

// begin says whether the lines of a text begin so.
func begin(text, want string) bool {
	lines, beginnings := strings.Split(text, "\n"), strings.Split(want, "\n")
	if len(lines) != len(beginnings) {
		return false
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, beginnings[i]) {
			return false
		}
	}
	return true
}

func TestWarningsAreInJSON(t *testing.T) {
	for text, want := range map[string]struct {
		code, problems, warnings int
	}{cleanDocuments: {0, 0, 0}, doubtfulDocuments: {0, 0, 1}, refusedDocuments: {1, 1, 1}} {
		stdout, stderr, code := weir(t, "validate", "--output", "json", file(t, text))
		var got struct {
			Valid              bool
			Problems, Warnings []policy.Problem
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if code != want.code || got.Valid != (want.problems == 0) || len(got.Problems) != want.problems || len(got.Warnings) != want.warnings ||
			got.Problems == nil || got.Warnings == nil || stderr != "" {
			t.Errorf("exit %d, %s%s; want %+v", code, stdout, stderr, want)
		}
		if want.warnings > 0 && got.Warnings[0].Line != 11 {
			t.Errorf("the warning has no place: %s", stdout)
		}
	}
}

// TestServeTellsAWarningOnce: a change that leaves a warning as it was, lines aside, does not log it again.
func TestServeTellsAWarningOnce(t *testing.T) {
	var log bytes.Buffer
	p := newTestPlane(t, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
	for i, step := range []struct {
		text   string
		logged int // in all
		inHand float64
	}{
		{cleanDocuments, 0, 0},
		{doubtfulDocuments, 1, 1},
		{"# a comment\n" + doubtfulDocuments, 1, 1},
		{cleanDocuments, 1, 0},
		{doubtfulDocuments, 2, 1},
	} {
		set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(step.text)}}, nil)
		p.apply(source.Update{Set: set, Problems: problems, Read: time.Now()}, time.Now())
		logged := strings.Count(log.String(), "policy warning")
		counted := testutil.ToFloat64(p.warnings.WithLabelValues(lint.UnreachableRule))
		if logged != step.logged || counted != step.inHand || len(p.status().Policy.Warnings) != int(step.inHand) {
			t.Errorf("step %d: %d logged, want %d; %v counted, want %v; %v", i, logged, step.logged, counted, step.inHand, p.status().Policy.Warnings)
		}
	}
	if n := testutil.CollectAndCount(p.warnings); n != len(lint.Names()) {
		t.Errorf("%d series, want one for each of %d warnings", n, len(lint.Names()))
	}
}

// TestExamplesHaveNoWarnings: what people copy is what is meant.
func TestExamplesHaveNoWarnings(t *testing.T) {
	all, err := filepath.Glob("../../examples/*")
	if err != nil || len(all) == 0 {
		t.Fatal("no examples", err)
	}
	for _, path := range all {
		if _, stderr, code := weir(t, "validate", "--strict", path); code != 0 {
			t.Errorf("%s: exit %d\n%s", path, code, stderr)
		}
	}
}
