package source

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWhoWritesIsWaitedFor: a file that is open for writing is not known to be whole, whatever it holds.
func TestWhoWritesIsWaitedFor(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.yaml")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if closed(name) {
		t.Error("it is open for writing, and said to be closed")
	}
	_ = f.Close()
	if !closed(name) {
		t.Error("nobody writes it any more")
	}
	if err := os.Remove(name); err != nil || !closed(name) {
		t.Error("what is gone is not closed")
	}
}
