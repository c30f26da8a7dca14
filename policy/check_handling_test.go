package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

func TestBodiesHaveABound(t *testing.T) {
	for n, want := range map[int]int{policy.MaxBody: 0, policy.MaxBody + 1: 3} {
		body := strings.Repeat("x", n)
		_, problems := load(fmt.Sprintf("kind: Service\nmetadata: {name: s}\nspec:\n  endpoints: {static: [{address: 10.0.0.1, port: 1}]}\n"+
			"  maintenance: {body: %s, html: %s}\n---\nkind: Route\nmetadata: {name: r}\nspec: {service: s, rules: [{directResponse: {status: 200, body: %s}}]}\n",
			body, body, body), nil)
		if len(problems) != want {
			t.Errorf("%d bytes: %d problems, want %d", n, len(problems), want)
		}
	}
}
