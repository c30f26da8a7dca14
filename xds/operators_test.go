package xds_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// withHeader is documents of which a rule sets headers to the values.
func withHeader(values ...string) string {
	var b strings.Builder
	b.WriteString("kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: http, port: 80}]}\n---\n" +
		"kind: Service\nmetadata: {name: s}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}\n---\n" +
		"kind: Route\nmetadata: {name: s}\nspec:\n  service: s\n  rules:\n    - requestHeaders:\n        set:\n")
	for i, v := range values {
		fmt.Fprintf(&b, "          x-%d: '%s'\n", i, v)
	}
	return b.String()
}

// TestEnvoyKnowsTheOperators: all that documents may say, in every form.
func TestEnvoyKnowsTheOperators(t *testing.T) {
	values := append(policy.Operators(), "100%%", "%START_TIME(%Y/%m/%dT%H:%M:%S.%3f%z)%", "%REQ(a?b):0%", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "a%%b%%%PROTOCOL%",
		"%PROTOCOL()%", "%FILTER_STATE(x)%", "%REQ(x):99999%")
	text, err := xds.Render(view(t, withHeader(values...), edge), false)
	if err != nil {
		t.Fatal(err)
	}
	envoytest.Validate(t, static(t, text))
}

func TestOperatorsThatEnvoyLacksAreRefused(t *testing.T) {
	for value, want := range map[string]string{
		"%FOO%": "no command operator", "%UPSTREAM_CLUSTR%": `did you mean "UPSTREAM_CLUSTER"`, "%REQ%": "lacks", "%REQ(x:y)%": "name of a header", "%RESP(a b)%": "name of a header", "%REQ()%": "lacks",
		"%REQ( )%": "lacks", "%PROTOCOL(x)%": "takes nothing", "%PROTOCOL:5%": "takes nothing", "50%": "want Envoy",
		"%protocol%": "want Envoy", "%REQ(x)): 5%": "want Envoy", "%START_TIME:5%": "no length", "%CLUSTER_METADATA(x:y):5%": "no length",
		"%FILTER_STATE(x:y)%": "PLAIN", "%REQ(x)": "want Envoy", "%REQ(x):%": "want Envoy",
	} {
		_, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(withHeader(value))}}, nil)
		if len(problems) != 1 || !strings.Contains(problems[0].String(), want) {
			t.Errorf("%s: %v, want %s", value, problems, want)
		}
	}
}
