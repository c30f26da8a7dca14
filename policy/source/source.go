// Package source is where documents come from: files and directories, read as one set and watched.
//
// A directory's documents are its *.yaml and *.yml files, at any depth; hidden entries are left out. A mounted ConfigMap,
// whose files are links into a hidden directory that the kubelet swaps, is read from that directory, and again if it was
// swapped meanwhile: its documents are all of one generation.
//
// What happens by accident changes nothing and is reported: a path that is gone, a directory without documents left, and
// a file with nothing but white space in it, as a full disk or a writer that was interrupted leaves it. What those held
// stays. What is done on purpose is done: a file that is deleted from a directory that keeps others takes its documents
// along, and so does one of which only a comment is left.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/machinenativeops/weir/policy"
)

const (
	quick  = 4 * time.Millisecond   // nothing more has come for so long, of a change by itself and with all files closed,
	settle = 20 * time.Millisecond  // or else for so long,
	atMost = 200 * time.Millisecond // and nothing is waited for longer than so; who has changed nothing for so long makes a change by itself
	patrol = 2 * time.Second        // how often is looked without being told, where notices get lost
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
	held  map[string]*folder // what each path held when it last held something
	dirty bool               // of which something has not been loaded
	last  *policy.Set

	state    *state // nil: nothing outlives the process
	restored bool   // last is from the state, and nobody has been told what of it is in force
}

// New gives a source of the documents at paths. It reads nothing yet.
func New(paths []string, log *slog.Logger) *Source {
	return &Source{paths: slices.Clone(paths), log: log, held: make(map[string]*folder)}
}

// Load reads everything once. The error is of a path that was never there, or can't be read.
func (s *Source) Load() (*policy.Set, []policy.Problem, error) {
	files, problems, err := s.read(nil, func(string) {})
	if err != nil {
		return nil, nil, err
	}
	set, more := s.load(files)
	return set, append(problems, more...), nil
}

func (s *Source) load(files []policy.File) (*policy.Set, []policy.Problem) {
	set, problems := policy.Load(files, s.last)
	s.last, s.dirty = set, false
	return set, problems
}

// Run calls apply with the documents as they are, and again after each change of them, until ctx is done. apply is
// called from Run's goroutine. The error is Load's at the start, or the watcher's.
//
// Where the system has no watcher left, which others on the machine may have used up, changes are seen within 2 s.
func (s *Source) Run(ctx context.Context, apply func(Update)) error {
	w := watch{source: s, apply: apply}
	if watcher, err := newWatcher(); err == nil {
		defer func() { _ = watcher.Close() }()
		w.watcher = watcher
	} else {
		s.log.Warn("policy can't be watched, and is looked at instead (on Linux, fs.inotify.max_user_instances says how many may watch)",
			"every", patrol, "error", err)
	}
	if err := w.look(time.Now(), nil); err != nil {
		return err
	}
	s.keep()
	return w.run(ctx)
}

var newWatcher = fsnotify.NewWatcher

// watch is one Run.
type watch struct {
	source   *Source
	watcher  *fsnotify.Watcher // nil: nobody tells of changes
	apply    func(Update)
	problems []policy.Problem // of reading, when it was last applied
	set      *policy.Set      // last applied
	all      []policy.Problem // last applied
}

// burst is changes that have not been looked at.
type burst struct {
	first, last time.Time
	names       map[string]bool // nil: anything may have changed
	alone       bool            // nothing was looked at shortly before
}

// run can, in one pass, note a change, look because writing has paused, look because it is time, or end.
func (w *watch) run(ctx context.Context) error {
	patrols := time.NewTicker(patrol)
	defer patrols.Stop()
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	var now *burst // nil: nothing has changed
	var looked time.Time
	note := func(name string, everything bool) {
		at := time.Now()
		if now == nil {
			now = &burst{first: at, names: make(map[string]bool), alone: at.Sub(looked) > atMost}
		}
		now.last = at
		if everything {
			now.names = nil
		} else if now.names != nil {
			now.names[name] = true
		}
		quiet.Reset(now.wait(at))
	}
	var events chan fsnotify.Event
	var failures chan error
	if w.watcher != nil {
		events, failures = w.watcher.Events, w.watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-events:
			if !ok {
				return errors.New("watch policy: the watcher ended")
			}
			if concerns(w.source.paths, event.Name) {
				note(filepath.Clean(event.Name), false)
			}
		case err := <-failures:
			w.source.log.Warn("watch policy", "error", err)
			note("", true) // notices may be lost
		case <-quiet.C:
			if now.alone && !now.closed() {
				now.alone = false
				quiet.Reset(now.wait(time.Now()))
				continue
			}
			w.again(now.first, now.names)
			now, looked = nil, time.Now()
		case <-patrols.C:
			w.again(time.Now(), nil)
		}
	}
}

// wait is how long to wait from now on, if nothing more comes.
func (b *burst) wait(now time.Time) time.Duration {
	pause := settle
	if b.alone {
		pause = quick
	}
	return max(0, min(b.last.Add(pause).Sub(now), b.first.Add(atMost).Sub(now)))
}

// closed says whether all that has changed is known to be written to its end.
func (b *burst) closed() bool {
	for name := range b.names {
		if !closed(name) {
			return false
		}
	}
	return b.names != nil
}

func (w *watch) again(seen time.Time, names map[string]bool) {
	if err := w.look(seen, names); err != nil {
		w.source.log.Error("read policy", "error", err)
	}
	w.source.keep()
}

// look reads files of some names, or all (nil), and applies what it read if that is new.
func (w *watch) look(seen time.Time, names map[string]bool) error {
	files, problems, err := w.source.read(names, w.directory)
	if err != nil {
		return err
	}
	if w.set != nil && !w.source.dirty && reflect.DeepEqual(problems, w.problems) {
		return nil
	}
	w.problems = problems
	set, more := w.source.load(files)
	all := append(slices.Clone(problems), more...)
	if w.set != nil && set.Same(w.set) && reflect.DeepEqual(all, w.all) {
		return nil // a comment
	}
	w.set, w.all = set, all
	u := Update{Set: set, Problems: all, Read: seen}
	w.source.tellRestored(u)
	w.apply(u)
	return nil
}

// directory watches a directory that could bring a document. Watching one twice changes nothing.
func (w *watch) directory(path string) {
	if w.watcher != nil {
		_ = w.watcher.Add(path) // it may be gone for now: patrols look
	}
}

// concerns says whether what happened to name can change what is at paths. In the folder of a path that is a file, or
// whose links are swapped, other things happen too.
func concerns(paths []string, name string) bool {
	name = filepath.Clean(name)
	for _, path := range paths {
		path = filepath.Clean(path)
		if name == path || name == filepath.Join(filepath.Dir(path), swapped) {
			return true
		}
		if inside, ok := within(path, name); ok && (!hidden(filepath.Base(inside)) || inside == swapped) {
			return true
		}
	}
	return false
}

// within gives where a name is in a path; "." is the path itself.
func within(path, name string) (inside string, ok bool) {
	inside, err := filepath.Rel(path, name)
	return inside, err == nil && inside != ".." && !strings.HasPrefix(inside, "../")
}

// read gives every file of every path, of which only those of some names have changed, or any (nil). directory is told of
// each directory that it looks into, before it does. What a path held before stands in for nothing.
func (s *Source) read(names map[string]bool, directory func(string)) (files []policy.File, problems []policy.Problem, err error) {
	for _, path := range s.paths {
		f, before := s.held[path]
		if !before {
			f = &folder{path: path}
		}
		if changed, ok := f.change(names); ok {
			s.dirty = s.dirty || changed
		} else {
			changed, err := f.look(directory)
			if err != nil && !before {
				return nil, nil, fmt.Errorf("read policy: %w", err)
			}
			s.dirty = s.dirty || changed
		}
		s.held[path] = f
		problems = append(problems, f.problems()...)
		if files == nil {
			files = slices.Clip(f.files)
		} else {
			files = append(files, f.files...)
		}
	}
	return files, problems, nil
}

// swapped is the link that the kubelet lets point at another folder when what is mounted changes. All else that it puts
// into a mount are links through this one.
const swapped = "..data"
