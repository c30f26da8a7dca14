package policy_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/policy"
)

// TestSchemas holds deploy/schema against the Go types; -update writes it.
func TestSchemas(t *testing.T) {
	for _, kind := range policy.Kinds() {
		got, err := policy.Schema(kind)
		if err != nil {
			t.Fatal(err)
		}
		file := "../deploy/schema/" + strings.ToLower(kind) + ".json"
		if golden.Updating() {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): run `make golden`", file, err)
		}
	}
}
