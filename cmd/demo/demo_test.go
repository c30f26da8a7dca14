package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestMain lets the test binary be the sample services, as the demo's own binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "service" {
		main()
		return
	}
	os.Exit(m.Run())
}

// programs builds what the demo runs, into a folder as make build does.
func programs(t *testing.T, root string) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "weir"), "github.com/machinenativeops/weir/cmd/weir")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	collector, err := exec.Command(filepath.Join(root, "tools", "collector.sh")).Output()
	if err != nil {
		t.Fatalf("build weir-collector: %v", err)
	}
	if err := os.Symlink(strings.TrimSpace(string(collector)), filepath.Join(bin, "weir-collector")); err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestDemo(t *testing.T) {
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), root: root, bin: programs(t, root)}
	var out bytes.Buffer
	if err := w.demonstrate(t.Context(), &out, 20*time.Second); err != nil {
		t.Errorf("%v\n%s", err, &out)
		for _, p := range w.processes {
			t.Logf("%s said at last:\n%s", p.Name, p.Tail(1000))
		}
	}
	t.Logf("%s", &out)
	for _, p := range w.processes {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID())); err == nil {
			t.Errorf("%s is still there", p.Name)
		}
	}
}
