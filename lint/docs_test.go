package lint_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const docs = "../docs/validate.md"

var example = regexp.MustCompile("(?s)```yaml\n(.*?)```\n\n```text\n(.*?)```")

// check gives the warnings about documents, the first of which are in shop.yaml.
func check(t *testing.T, documents ...string) []lint.Warning {
	t.Helper()
	var files []policy.File
	for i, text := range documents {
		files = append(files, policy.File{Name: []string{"shop.yaml", "service.yaml"}[i], Data: []byte(text)})
	}
	set, problems := policy.Load(files, nil)
	for _, p := range problems {
		t.Error(p)
	}
	return lint.Check(set, mesh.Build(set), len(problems) == 0)
}

// TestTheDocsAreSo holds every example of the page on warnings to what is printed under it; -update rewrites that. Each
// warning has a part of the page, and is in it.
func TestTheDocsAreSo(t *testing.T) {
	data, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	_, service, _ := strings.Cut(page, "```yaml\n")
	service, _, _ = strings.Cut(service, "```")
	parts := strings.Split(page, "\n## ")
	told := make(map[string]bool)
	for i, part := range parts {
		title, _, _ := strings.Cut(part, "\n")
		parts[i] = example.ReplaceAllStringFunc(part, func(all string) string {
			yaml, want := example.FindStringSubmatch(all)[1], example.FindStringSubmatch(all)[2]
			documents := []string{yaml, service}
			if strings.Contains(yaml, "kind: Service") {
				documents = documents[:1]
			}
			var text strings.Builder
			for _, w := range check(t, documents...) {
				fmt.Fprintln(&text, w)
				told[w.Name] = true
			}
			if got := text.String(); got != want && !golden.Updating() {
				t.Errorf("%s:\n%sthe page says\n%s", title, got, want)
			}
			return "```yaml\n" + yaml + "```\n\n```text\n" + text.String() + "```"
		})
	}
	for _, name := range lint.Names() {
		if !told[name] || !strings.Contains(page, "\n## "+name+"\n") {
			t.Errorf("the page has no part about %s, or no example of it", name)
		}
	}
	if golden.Updating() {
		if err := os.WriteFile(docs, []byte(strings.Join(parts, "\n## ")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
