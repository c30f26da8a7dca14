package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/policy"
)

func TestTable(t *testing.T) {
	o := good()
	o.elapsed = 12 * time.Second
	o.counts.failed = 3
	o.ended = []string{"weir", "api-v1"}
	const want = `
12s                        requests 1000  failed 3   429 20
api, generation 1          v1 90.0 %      v2 10.0 %  of 1000
api, generation 2          v1 50.0 %      v2 50.0 %  of 1000
spans of class api         in 1000        kept 300   30.0 %, want 30 %
spans of class background  in 1000        kept 50    5.0 %, want 5 %
spans of class default     in 1000        kept 200   20.0 %, want 20 %
spans of class executions  in 1000        kept 500   50.0 %, want 50 %
spans of class health      in 1000        kept 10    1.0 %, want 1 %
spans of class main        in 1000        kept 200   20.0 %, want 20 %
archive                    objects 3; one read back holds 40 spans
parts                      ended: weir, api-v1
policy changed             4s ago
the demo's edit            30ms from saving to the first answer by it
`
	var got bytes.Buffer
	printTable(&got, o, "4s ago")
	if got.String() != want[1:] {
		t.Errorf("got:\n%s\nwant:%s", got.String(), want)
	}
}

func TestTableOfNothing(t *testing.T) {
	var got bytes.Buffer
	printTable(&got, observations{}, "not yet")
	if s := got.String(); !strings.Contains(s, "in 0") || strings.Contains(s, "NaN") || strings.Contains(s, "the demo's edit") {
		t.Errorf("before anything was seen:\n%s", s)
	}
}

func TestScreenDrawsOverItself(t *testing.T) {
	var terminal, file bytes.Buffer
	for _, s := range []*screen{{out: &terminal, terminal: true}, newScreen(&file)} {
		s.draw(good(), "")
		s.draw(good(), "")
	}
	if up := "\x1b[13A\x1b[J"; strings.Count(terminal.String(), up) != 1 {
		t.Errorf("the second table does not go up 13 lines to the first:\n%q", terminal.String())
	}
	if strings.Contains(file.String(), "\x1b") {
		t.Errorf("a file gets a terminal's codes:\n%q", file.String())
	}
}

func TestChangeText(t *testing.T) {
	var s weirStatus
	s.Policy.Applied, s.Policy.Took = time.Unix(100, 0), "5ms"
	if got, want := changeText(s, time.Unix(107, 0), "/run/policy"), "7s ago, in force after 5ms"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Policy.Problems = []policy.Problem{{File: "/run/policy/api.yaml", Line: 12, Column: 7, Path: "spec.rules[1].to[0].weigth", Message: "unknown field", DidYouMean: "weight"}}
	const want = `7s ago, in force after 5ms; 1 refused: api.yaml:12:7: spec.rules[1].to[0].weigth: unknown field (did you mean "weight"?)`
	if got := changeText(s, time.Unix(107, 0), "/run/policy"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEffects(t *testing.T) {
	var got bytes.Buffer
	if all := printEffects(&got, []effect{{"this", true, "so"}, {"that", false, "no"}}); all || got.String() != "seen     this  so\nMISSING  that  no\n" {
		t.Errorf("all %v of:\n%s", all, got.String())
	}
	if !printEffects(&got, []effect{{"this", true, "so"}}) {
		t.Error("one effect, and it was seen, is not all of them")
	}
}
