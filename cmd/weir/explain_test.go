package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
)

const explainPage = "../../docs/explain.md"

var (
	session  = regexp.MustCompile("(?s)```console\n(.*?)```")
	argument = regexp.MustCompile(`'[^']*'|\S+`)
)

// TestTheExplainPageIsSo holds the runs on the page to what the command prints; -update rewrites them.
func TestTheExplainPageIsSo(t *testing.T) {
	data, err := os.ReadFile(explainPage)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	runs := 0
	page := session.ReplaceAllStringFunc(string(data), func(block string) string {
		var out strings.Builder
		for line := range strings.Lines(session.FindStringSubmatch(block)[1]) {
			command, ok := strings.CutPrefix(line, "$ weir ")
			if !ok {
				continue
			}
			var args []string
			for _, arg := range argument.FindAllString(command, -1) {
				args = append(args, strings.Trim(arg, "'"))
			}
			stdout, stderr, code := weir(t, args...)
			if code != 0 {
				t.Errorf("%sexit %d: %s", line, code, stderr)
			}
			if runs++; out.Len() > 0 {
				out.WriteString("\n")
			}
			out.WriteString(line + stdout)
		}
		return "```console\n" + out.String() + "```"
	})
	if runs == 0 {
		t.Error("the page has no run")
	}
	if golden.Updating() {
		t.Chdir("cmd/weir")
		if err := os.WriteFile(explainPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if page != string(data) {
		t.Errorf("the page shows other runs; go test ./cmd/weir -run ExplainPage -update rewrites them\n%s", page)
	}
}

func TestExplainAsJSON(t *testing.T) {
	stdout, stderr, code := weir(t, "explain", "../../examples/tour", "--output", "json", "--gateway", "edge",
		"--request", "http://checkout.example.com", "--header", "x-user-id: 7", "--remote-address", "10.0.0.1")
	var got struct {
		Request struct {
			Headers []struct{ Name, Value string }
		}
		Rules []struct {
			Rule, Failed string
			Matches      bool
		}
		Taken   struct{ To []struct{ Percent float64 } }
		Outcome struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v: %s%s", code, err, stdout, stderr)
	}
	if len(got.Rules) != 2 || got.Rules[0].Failed != "match.headers[0]" || !got.Rules[1].Matches || len(got.Taken.To) != 2 ||
		got.Taken.To[0].Percent != 90 || got.Outcome.Kind != "forwarded" || got.Request.Headers[0].Value != "10.0.0.1" {
		t.Errorf("%+v", got)
	}
}

func TestExplainSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		code int
		args []string
	}{
		{exitUsage, nil},
		{exitUsage, []string{"--request", "/cart"}},
		{exitUsage, []string{"--request", "http://a", "--header", "x"}},
		{exitUsage, []string{"--request", "http://a", "--remote-address", "localhost"}},
		{exitUsage, []string{"--request", "http://a", "--gateway", "a", "--service", "b"}},
		{exitUsage, []string{"--request", "http://a", "--output", "yaml"}},
		{exitFailed, []string{"--request", "http://a", "--gateway", "nobody"}},
		{exitFailed, []string{"--request", "http://a", "--service", "nobody"}},
	} {
		if stdout, _, code := weir(t, append([]string{"explain", "../../examples/tour"}, c.args...)...); code != c.code || stdout != "" {
			t.Errorf("%v: exit %d, want %d\n%s", c.args, code, c.code, stdout)
		}
	}
	if _, _, code := weir(t, "explain", file(t, refusedDocuments), "--request", "http://a"); code != exitRefused {
		t.Errorf("refused documents: exit %d", code)
	}
}
