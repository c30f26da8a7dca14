package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
)

func TestDiffsExitCodes(t *testing.T) {
	clean, doubtful, refused := file(t, cleanDocuments), file(t, doubtfulDocuments), file(t, refusedDocuments)
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string // their beginnings
	}{
		{clean + " " + clean, 0, "no change in effect\n", ""},
		{clean + " " + clean + " --exit-code", 0, "no change in effect\n", ""},
		{clean + " - --exit-code", 0, "no change in effect\n", ""},
		{clean + " " + doubtful, 0, "Service cart\n  rule late added: last: ", ""},
		{clean + " " + doubtful + " --exit-code", 1, "Service cart\n", ""},
		{doubtful + " -", 0, "Service cart\n  rule late removed: ", ""},
		{refused + " " + clean, 1, "", refused + ":15:19: Gateway edge: spec.listeners: "},
		{clean + " " + refused, 1, "", refused + ":15:19: "},
		{"- -", 2, "", ""},
		{clean, 2, "", ""},
		{clean + " " + clean + " --output yaml", 2, "", ""},
		{clean + " " + clean + ".not-there", 3, "", ""},
	} {
		stdout, stderr, code := weirReading(t, cleanDocuments, append([]string{"diff"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.HasPrefix(stdout, c.stdout) || c.stdout == "" && stdout != "" || !strings.HasPrefix(stderr, c.stderr) {
			t.Errorf("%s: exit %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
	}
	_, stderr, _ := weirReading(t, refusedDocuments, "diff", refused, "-")
	if strings.Count(stderr, "Gateway edge: ") != 2 || !strings.Contains(stderr, "\n-:15:19: ") {
		t.Errorf("the errors of both sides are wanted:\n%s", stderr)
	}
}

func TestDiffIsJSON(t *testing.T) {
	for text, equal := range map[string]bool{cleanDocuments: true, doubtfulDocuments: false} {
		stdout, _, code := weirReading(t, text, "diff", "-o", "json", file(t, cleanDocuments), "-")
		var got struct {
			Equal            bool
			Changes, Proxies []map[string]any
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
			t.Fatalf("exit %d, %v", code, err)
		}
		if got.Equal != equal || got.Changes == nil || got.Proxies == nil || len(got.Changes) > 0 == equal || len(got.Proxies) > 0 == equal {
			t.Errorf("%s; want equal: %t", stdout, equal)
		}
	}
}

const diffDocs = "../../docs/diff.md"

var (
	diffRun  = regexp.MustCompile("(?s)```console\n\\$ sed (.*?) examples/tour/checkout.yaml \\| weir diff examples/tour -\n(.*?)```")
	sedWords = regexp.MustCompile(`'s/(.*?)/(.*?)/'`)
)

// TestTheDocsOfDiffAreSo runs the example of the page, and holds it to what is printed there; -update rewrites it.
func TestTheDocsOfDiffAreSo(t *testing.T) {
	page, err := os.ReadFile(diffDocs)
	if err != nil {
		t.Fatal(err)
	}
	run := diffRun.FindSubmatchIndex(page)
	if run == nil {
		t.Fatalf("%s has no run of weir diff", diffDocs)
	}
	tour, err := os.ReadFile("../../examples/tour/checkout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	edited := string(tour)
	for _, words := range sedWords.FindAllStringSubmatch(string(page[run[2]:run[3]]), -1) {
		if !strings.Contains(edited, words[1]) {
			t.Errorf("the tour has no %q", words[1])
		}
		edited = strings.ReplaceAll(edited, words[1], words[2])
	}
	stdout, stderr, code := weirReading(t, edited, "diff", "../../examples/tour", "-")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if golden.Updating() {
		if err := os.WriteFile(diffDocs, append(append(page[:run[4]:run[4]], stdout...), page[run[5]:]...), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want := string(page[run[4]:run[5]]); stdout != want {
		t.Errorf("%sthe page says\n%s", stdout, want)
	}
}
