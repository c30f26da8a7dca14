package nowait_test

import (
	"net"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/nowait"
)

// Whoever keeps the only processor busy, since something was read, lets others have a turn if it is announced. Without that this
// goes on until it is given up: nothing else here makes a system call.
func TestAnnounce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	a, b := plain(t, "tcp")
	file, err := b.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	// Another process writes, while this one sleeps.
	other := exec.Command("sh", "-c", "sleep 0.3; echo; exec sleep 60")
	other.Stdout = file
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
	_ = file.Close()
	if _, err := nowait.Conn(a).Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	nowait.Announce()
	var ran atomic.Bool
	go func() { ran.Store(true) }()
	for begun := time.Now(); !ran.Load() && time.Since(begun) < 20*time.Second; {
	}
	if !ran.Load() {
		t.Error("nobody else had a turn")
	}
}
