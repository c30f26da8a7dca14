package envoytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/machinenativeops/weir/internal/servers"
)

// Validate fails the test if Envoy does not accept the bootstrap.
func Validate(tb testing.TB, bootstrap []byte) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	out, err := exec.Command(servers.MustTool(tb, "envoy"), "--mode", "validate", "-c", file, "--use-dynamic-base-id").CombinedOutput()
	if err != nil {
		tb.Errorf("envoy refuses it: %v\n%s\n%s", err, out, bootstrap)
	}
}
