// Package source is where documents come from: files and directories, read as one set and watched.
//
// A directory's documents are its *.yaml and *.yml files, at any depth; hidden entries are left out, so that a mounted
// ConfigMap, whose files are links into a hidden directory that the kubelet swaps, is read once and whole. A directory
// that is emptied or gone, and a file that is gone, change nothing and are reported: what they held stays.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/fsnotify/fsnotify"

	"github.com/machinenativeops/weir/policy"
)

const (
	settle  = 20 * time.Millisecond  // writing has paused for so long
	atMost  = 200 * time.Millisecond // and nothing is waited for longer than so
	patrol  = 2 * time.Second        // how often is looked without being told, where notices get lost
	maxFile = 16 << 20               // bytes; a policy file larger than that is a mistake
)

// Update is what a source has to say.
type Update struct {
	Set      *policy.Set
	Problems []policy.Problem
	Read     time.Time // when the change was seen
}

// Source reads and watches paths. Its methods are for one goroutine.
type Source struct {
	paths []string
	log   *slog.Logger
	held  map[string][]policy.File // what each path held when it last held something
	last  *policy.Set
}

// New gives a source of the documents at paths. It reads nothing yet.
func New(paths []string, log *slog.Logger) *Source {
	return &Source{paths: slices.Clone(paths), log: log, held: make(map[string][]policy.File)}
}

// Load reads everything once. The error is of a path that was never there, or can't be read.
func (s *Source) Load() (*policy.Set, []policy.Problem, error) {
	files, problems, err := s.read()
	if err != nil {
		return nil, nil, err
	}
	set, more := policy.Load(files, s.last)
	s.last = set
	return set, append(problems, more...), nil
}

// Run calls apply with the documents as they are, and again after each change of them, until ctx is done. apply is
// called from Run's goroutine. The error is Load's at the start, or the watcher's.
func (s *Source) Run(ctx context.Context, apply func(Update)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch policy: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	w := watch{source: s, watcher: watcher, apply: apply}
	if err := w.look(time.Now()); err != nil {
		return err
	}
	return w.run(ctx)
}

// watch is one Run.
type watch struct {
	source   *Source
	watcher  *fsnotify.Watcher
	apply    func(Update)
	seen     uint64 // hash of the files last applied
	problems []policy.Problem
	applied  bool
}

// run can, in one pass, note a change, look because writing has paused, look because it is time, or end.
func (w *watch) run(ctx context.Context) error {
	patrols := time.NewTicker(patrol)
	defer patrols.Stop()
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	var first time.Time // of the changes not looked at yet; zero: none
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.watcher.Events:
			if !ok {
				return errors.New("watch policy: the watcher ended")
			}
			if first.IsZero() {
				first = time.Now()
			}
			quiet.Reset(min(settle, max(0, time.Until(first.Add(atMost)))))
		case err := <-w.watcher.Errors:
			w.source.log.Warn("watch policy", "error", err)
		case <-quiet.C:
			w.again(first)
			first = time.Time{}
		case <-patrols.C:
			w.again(time.Now())
		}
	}
}

func (w *watch) again(seen time.Time) {
	if err := w.look(seen); err != nil {
		w.source.log.Error("read policy", "error", err)
	}
}

// look reads, and applies what it read if that is new.
func (w *watch) look(seen time.Time) error {
	w.watchDirectories()
	files, problems, err := w.source.read()
	if err != nil {
		return err
	}
	hash := hashFiles(files)
	if w.applied && hash == w.seen && reflect.DeepEqual(problems, w.problems) {
		return nil
	}
	w.seen, w.problems, w.applied = hash, problems, true
	set, more := policy.Load(files, w.source.last)
	w.source.last = set
	w.apply(Update{Set: set, Problems: append(slices.Clone(problems), more...), Read: seen})
	return nil
}

// watchDirectories watches every directory that could bring a document. Watching one twice changes nothing.
func (w *watch) watchDirectories() {
	for _, path := range w.source.paths {
		_ = w.watcher.Add(filepath.Dir(path)) // it may be gone for now: patrols look
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			continue
		}
		_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				if p != path && hidden(d.Name()) {
					return fs.SkipDir
				}
				_ = w.watcher.Add(p)
			}
			return nil
		})
	}
}

func hashFiles(files []policy.File) uint64 {
	h := xxhash.New()
	for _, f := range files {
		fmt.Fprintf(h, "%d %s %d ", len(f.Name), f.Name, len(f.Data))
		_, _ = h.Write(f.Data) // a hash takes everything
	}
	return h.Sum64()
}

// read gives every file of every path. What a path held before stands in for nothing.
func (s *Source) read() (files []policy.File, problems []policy.Problem, err error) {
	for _, path := range s.paths {
		found, err := readPath(path)
		held, before := s.held[path]
		switch {
		case err != nil && !before:
			return nil, nil, fmt.Errorf("read policy: %w", err)
		case err != nil:
			problems = append(problems, policy.Problem{
				File: path, Message: "can't be read, so what it held stays in force: " + err.Error(),
			})
			found = held
		case len(found) == 0 && len(held) > 0:
			problems = append(problems, policy.Problem{
				File: path, Message: "holds no documents any more, so what it held stays in force; to take everything away, leave an empty .yaml file",
			})
			found = held
		}
		s.held[path] = found
		files = append(files, found...)
	}
	return files, problems, nil
}

// readPath reads a file, or the documents of a directory sorted by name.
func readPath(path string) ([]policy.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return readFiles([]string{path})
	}
	var names []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == path:
			return nil
		case hidden(d.Name()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.IsDir() && isPolicy(d.Name()):
			names = append(names, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return readFiles(names)
}

func readFiles(names []string) ([]policy.File, error) {
	files := make([]policy.File, 0, len(names))
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.Size() > maxFile {
			return nil, fmt.Errorf("%s: %d bytes are more than a policy file has (%d)", name, info.Size(), maxFile)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, policy.File{Name: name, Data: data})
	}
	return files, nil
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isPolicy(name string) bool {
	ext := filepath.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}
