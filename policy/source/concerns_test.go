package source

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
)

func TestWhatConcernsPaths(t *testing.T) {
	for _, c := range []struct {
		path, name string
		want       bool
	}{
		{"/etc/weir/policy", "/etc/weir/policy", true},
		{"/etc/weir/policy", "/etc/weir/policy/team/a.yaml", true},
		{"/etc/weir/policy/", "/etc/weir/policy/team", true},
		{"/etc/weir/policy", "/etc/weir/policy/..data", true},
		{"/etc/weir/policy", "/etc/weir/policy/.a.yaml.swp", false},
		{"/etc/weir/policy", "/etc/weir/policy.log", false},
		{"/etc/weir/policy", "/etc/weir/other", false},
		{"/tmp/a.yaml", "/tmp/a.yaml", true},
		{"/tmp/a.yaml", "/tmp/..data", true},
		{"/tmp/a.yaml", "/tmp/b.yaml", false},
		{"a.yaml", "./a.yaml", true},
		{"a.yaml", "./b.yaml", false},
	} {
		if got := concerns([]string{c.path}, c.name); got != c.want {
			t.Errorf("of %s, %s concerns: %v, want %v", c.path, c.name, got, c.want)
		}
	}
}

// Where the system has no watcher left, changes are seen all the same.
func TestWithoutAWatcher(t *testing.T) {
	defer func(was func() (*fsnotify.Watcher, error)) { newWatcher = was }(newWatcher)
	newWatcher = func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
	file := filepath.Join(t.TempDir(), "a.yaml")
	say := func(name string) {
		text := "kind: Service\nmetadata: {name: " + name + "}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 80}]}}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say("a")
	var log bytes.Buffer
	updates, ended := make(chan Update), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		s := New([]string{filepath.Dir(file)}, slog.New(slog.NewTextHandler(&log, nil)))
		ended <- s.Run(ctx, func(u Update) { updates <- u })
	}()
	for _, name := range []string{"a", "b"} {
		if u := <-updates; u.Set.Services[0].Metadata.Name != name {
			t.Errorf("got %s, want %s", u.Set.Services[0].Metadata.Name, name)
		}
		say("b")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "max_user_instances") {
		t.Errorf("the log says %q", log.String())
	}
}
