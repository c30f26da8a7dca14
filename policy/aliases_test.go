package policy_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestAliasesStandForTheirAnchors(t *testing.T) {
	set, problems := load("kind: Service\nmetadata: {name: &n cart}\nspec:\n  class: *n\n"+
		"  endpoints: {static: [&e {address: 10.0.0.1, port: 80}, *e]}\n", nil)
	if len(problems) > 0 || len(set.Services) != 1 || set.Services[0].Spec.Class != "cart" || len(set.Services[0].Spec.Endpoints.Static) != 2 {
		t.Errorf("problems %v, services %+v", problems, set.Services)
	}
}

func TestAliasesAreBounded(t *testing.T) {
	bomb := "kind: Service\nmetadata: {name: s}\nspec:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	for _, c := range []struct{ text, want string }{
		{bomb, "policy.yaml:8:"},
		{bomb, "stand for more than 100000 values"},
		{"kind: Service\nspec: &a\n  hosts: [*a]\n", "policy.yaml:3:11: the alias *a is within what it stands for"},
		{"kind: Service\nspec: &a\n  hosts: [*a]\n", "no end"},
	} {
		_, problems := load(c.text, nil)
		if len(problems) != 1 || !strings.Contains(problems[0].String(), c.want) {
			t.Errorf("got %v, want one problem with %q", problems, c.want)
		}
	}
}
