package policy_test

import (
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

func serviceWith(fields string) []policy.File {
	return []policy.File{{Name: "p.yaml", Data: []byte("kind: Service\nmetadata: {name: s}\nspec:\n  port: 80\n  endpoints: {static: [{address: 10.0.0.1}]}\n  " + fields + "\n")}}
}

func TestAZeroThatIsWrittenIsKept(t *testing.T) {
	set, problems := policy.Load(serviceWith("circuitBreaker: {maxConnections: 0, maxPending: 0, maxRequests: 0, maxRetries: 0}"), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if b := set.Services[0].Spec.CircuitBreaker; *b.MaxConnections+*b.MaxPending+*b.MaxRequests+*b.MaxRetries != 0 {
		t.Errorf("%d %d %d %d", *b.MaxConnections, *b.MaxPending, *b.MaxRequests, *b.MaxRetries)
	}
}

func TestAZeroThatMakesNoSenseIsRefused(t *testing.T) {
	for _, fields := range []string{
		"outlierDetection: {consecutive5xx: 0}", "outlierDetection: {interval: 0s}", "outlierDetection: {ejectFor: 0s}",
		"outlierDetection: {maxEjected: 0}", "healthCheck: {interval: 0s}", "healthCheck: {timeout: 0s}",
		"healthCheck: {unhealthy: 0}", "healthCheck: {healthy: 0}",
	} {
		_, problems := policy.Load(serviceWith(fields), nil)
		if len(problems) != 1 || !strings.Contains(problems[0].Message, "more than 0") || problems[0].Line != 6 {
			t.Errorf("%s: %v", fields, problems)
		}
	}
}

func TestAFeatureIsNotTurnedOnByNothing(t *testing.T) {
	for _, fields := range []string{"retries:", "healthCheck:", "outlierDetection: ~", "maintenance:"} {
		_, problems := policy.Load(serviceWith(fields), nil)
		if len(problems) != 1 || !strings.Contains(problems[0].Message, "got nothing") {
			t.Errorf("%s %v", fields, problems)
		}
	}
}
