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
	"bytes"
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

	state    *state // nil: nothing outlives the process
	restored bool   // last is from the state, and nobody has been told what of it is in force
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
	s.keep()
	return w.run(ctx)
}

// watch is one Run.
type watch struct {
	source   *Source
	watcher  *fsnotify.Watcher
	apply    func(Update)
	seen     uint64           // hash of the files last loaded
	problems []policy.Problem // of reading them
	set      *policy.Set      // last applied
	all      []policy.Problem // last applied
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
		case event, ok := <-w.watcher.Events:
			if !ok {
				return errors.New("watch policy: the watcher ended")
			}
			if !concerns(w.source.paths, event.Name) {
				continue
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
	w.source.keep()
}

// look reads, and applies what it read if that is new.
func (w *watch) look(seen time.Time) error {
	w.watchDirectories()
	files, problems, err := w.source.read()
	if err != nil {
		return err
	}
	hash := hashFiles(files)
	if w.set != nil && hash == w.seen && reflect.DeepEqual(problems, w.problems) {
		return nil
	}
	w.seen, w.problems = hash, problems
	set, more := policy.Load(files, w.source.last)
	w.source.last = set
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
				File: path, Message: "holds no documents any more, so what it held stays in force; to take everything away, leave a .yaml file with a comment in it",
			})
			found = held
		default:
			problems = append(problems, keepEmptied(found, held)...)
		}
		s.held[path] = found
		files = append(files, found...)
	}
	return files, problems, nil
}

// keepEmptied puts what was held in the place of each file that has been emptied since.
func keepEmptied(found, held []policy.File) (problems []policy.Problem) {
	for i, f := range found {
		if len(bytes.TrimSpace(f.Data)) > 0 {
			continue
		}
		for _, before := range held {
			if before.Name == f.Name && len(bytes.TrimSpace(before.Data)) > 0 {
				found[i] = before
				problems = append(problems, policy.Problem{
					File: f.Name, Message: "the file is empty, so what it held stays in force; to take its documents away, delete it or leave a comment in it",
				})
			}
		}
	}
	return problems
}

// swapped is the link that the kubelet lets point at another folder when what is mounted changes. All else that it puts
// into a mount are links through this one.
const swapped = "..data"

var errSwapping = errors.New("it is swapped again and again while it is read")

// readPath reads a file, or the documents of a directory sorted by name.
func readPath(path string) ([]policy.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := readFile(path)
		return []policy.File{{Name: path, Data: data}}, err
	}
	for range 10 {
		folder, err := os.Readlink(filepath.Join(path, swapped))
		if err != nil { // no mount
			return readDirectory(path)
		}
		files, err := readMount(path, folder)
		if now, e := os.Readlink(filepath.Join(path, swapped)); e == nil && now == folder {
			return files, err
		}
	}
	return nil, fmt.Errorf("%s: %w", path, errSwapping)
}

// readMount reads the folder that a mounted directory's links lead to now, and what others have put beside them.
func readMount(path, folder string) ([]policy.File, error) {
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(path, folder)
	}
	mounted, err := readDirectory(folder)
	if err != nil {
		return nil, err
	}
	for i, f := range mounted {
		inside, err := filepath.Rel(folder, f.Name)
		if err != nil {
			return nil, err
		}
		mounted[i].Name = filepath.Join(path, inside)
	}
	beside, err := readDirectory(path)
	if err != nil {
		return nil, err
	}
	files := append(mounted, beside...)
	slices.SortFunc(files, func(a, b policy.File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// readDirectory reads what is in a directory itself: not what leads through swapped.
func readDirectory(path string) ([]policy.File, error) {
	var files []policy.File
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
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
		case d.IsDir() || !isPolicy(d.Name()):
			return nil
		}
		if to, err := os.Readlink(p); err == nil && strings.HasPrefix(to, swapped+"/") {
			return nil
		}
		data, err := readFile(p)
		files = append(files, policy.File{Name: p, Data: data})
		return err
	})
	return files, err
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes are more than a policy file has (%d)", name, info.Size(), maxFile)
	}
	return os.ReadFile(name)
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isPolicy(name string) bool {
	ext := filepath.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}
