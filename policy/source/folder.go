package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinenativeops/weir/policy"
)

const (
	maxFile = 16 << 20 // bytes; a policy file larger than that is a mistake
	// trust is how much older than its reading a file must be, so that another one would have another time.
	trust = 2 * time.Second
)

// folder is what a path held when it last held something: the files in a directory, or a file.
type folder struct {
	path  string
	files []policy.File
	marks []mark // of each of the files
	// plain: files are those of a directory as it was last looked at, in order, so that one can be changed by itself.
	plain   bool
	problem string // why files are not what is there; "": they are
	blank   int    // how many of the files are kept though they have been emptied
}

// mark is by what a file is known to be as it was, without being read.
type mark struct {
	info    fs.FileInfo
	read    time.Time
	emptied bool // the file has been emptied since: what it held stays
}

// same says whether a file is certainly as it was.
func (m *mark) same(info fs.FileInfo) bool {
	return m.info != nil && os.SameFile(m.info, info) && m.info.Size() == info.Size() && m.info.ModTime().Equal(info.ModTime()) &&
		m.read.Sub(info.ModTime()) > trust
}

// found is a file that is there.
type found struct {
	policy.File
	mark
}

// look looks at all that is there, and reads what is not known. What can't be read, or would be nothing, leaves what was
// held, as the folder's problem. The error is of a path that can't be read.
func (f *folder) look(directory func(string)) (changed bool, err error) {
	all, plain, err := f.readPath(directory)
	switch {
	case err != nil:
		f.plain, f.problem = false, "can't be read, so what it held stays in force: "+err.Error()
		return false, err
	case len(all) == 0 && len(f.files) > 0:
		f.plain, f.problem = false, "holds no documents any more, so what it held stays in force; to take everything away, leave a .yaml file with a comment in it"
		return false, nil
	}
	next := &folder{path: f.path, plain: plain, files: make([]policy.File, 0, len(all)), marks: make([]mark, 0, len(all))}
	for i := range all {
		f.keepEmptied(&all[i])
		next.insert(i, all[i])
	}
	changed = !slices.EqualFunc(f.files, next.files, func(a, b policy.File) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) })
	*f = *next
	return changed, nil
}

// keepEmptied has what was held stand in for a file that has been emptied since.
func (f *folder) keepEmptied(one *found) {
	if len(bytes.TrimSpace(one.Data)) > 0 {
		return
	}
	if at, ok := f.find(one.Name); ok && len(bytes.TrimSpace(f.files[at].Data)) > 0 {
		one.File, one.emptied = f.files[at], true
	}
}

// problems tells where files are not what is there.
func (f *folder) problems() (problems []policy.Problem) {
	if f.problem != "" {
		problems = append(problems, policy.Problem{File: f.path, Message: f.problem})
	}
	if f.blank == 0 || f.problem != "" {
		return problems
	}
	for i := range f.marks {
		if f.marks[i].emptied {
			problems = append(problems, policy.Problem{
				File: f.files[i].Name, Message: "the file is empty, so what it held stays in force; to take its documents away, delete it or leave a comment in it",
			})
		}
	}
	return problems
}

// find gives where a file is, or would be.
func (f *folder) find(name string) (at int, ok bool) {
	if !f.plain { // which may be in another order
		at = slices.IndexFunc(f.files, func(one policy.File) bool { return one.Name == name })
		return at, at >= 0
	}
	return slices.BinarySearchFunc(f.files, name, func(one policy.File, name string) int { return compareWalk(one.Name, name) })
}

// compareWalk is the order in which a directory is walked: name by name, what is in a folder where that is.
func compareWalk(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

func (f *folder) insert(at int, one found) {
	f.files, f.marks = slices.Insert(f.files, at, one.File), slices.Insert(f.marks, at, one.mark)
	if one.emptied {
		f.blank++
	}
}

func (f *folder) remove(at int) {
	if f.marks[at].emptied {
		f.blank--
	}
	f.files, f.marks = slices.Delete(f.files, at, at+1), slices.Delete(f.marks, at, at+1)
}

// change reads files of some names anew. It is not ok where that may not be all that has changed.
func (f *folder) change(names map[string]bool) (changed, ok bool) {
	if names == nil {
		return false, false
	}
	for name := range names {
		if _, in := within(f.path, name); !in && filepath.Base(name) != swapped {
			continue
		}
		one, ok := f.changeOne(name)
		if !ok {
			return changed, false
		}
		changed = changed || one
	}
	return changed, true
}

func (f *folder) changeOne(name string) (changed, ok bool) {
	if !f.plain || hidden(filepath.Base(name)) {
		return false, false
	}
	at, known := f.find(name)
	one, err := readFile(name, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist) && known && len(f.files) > 1:
		f.remove(at)
		return true, true
	case errors.Is(err, fs.ErrNotExist) && !known && !f.under(name):
		return false, true
	case err != nil || one.info.IsDir() || !isPolicy(name):
		return false, false
	}
	f.keepEmptied(&one)
	changed = !known || !bytes.Equal(f.files[at].Data, one.Data)
	if known {
		f.remove(at)
	}
	f.insert(at, one)
	return changed, true
}

// under says whether any file is in a folder.
func (f *folder) under(name string) bool {
	at, _ := f.find(name + "/")
	return at < len(f.files) && strings.HasPrefix(f.files[at].Name, name+"/")
}

var errSwapping = errors.New("it is swapped again and again while it is read")

// readPath reads a file, or the documents of a directory in the order in which it is walked; plain says that it is one
// which is no mount.
func (f *folder) readPath(directory func(string)) (all []found, plain bool, err error) {
	directory(filepath.Dir(f.path))
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, false, err
	}
	if !info.IsDir() {
		one, err := readFile(f.path, f.known)
		return []found{one}, false, err
	}
	for range 10 {
		folder, err := os.Readlink(filepath.Join(f.path, swapped))
		if err != nil { // no mount
			all, err := f.readDirectory(f.path, directory)
			return all, true, err
		}
		all, err := f.readMount(folder, directory)
		if now, e := os.Readlink(filepath.Join(f.path, swapped)); e == nil && now == folder {
			return all, false, err
		}
	}
	return nil, false, fmt.Errorf("%s: %w", f.path, errSwapping)
}

// readMount reads the folder that a mounted directory's links lead to now, and what others have put beside them.
func (f *folder) readMount(folder string, directory func(string)) ([]found, error) {
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(f.path, folder)
	}
	mounted, err := f.readDirectory(folder, func(string) {})
	if err != nil {
		return nil, err
	}
	for i, one := range mounted {
		inside, err := filepath.Rel(folder, one.Name)
		if err != nil {
			return nil, err
		}
		mounted[i].Name = filepath.Join(f.path, inside)
	}
	beside, err := f.readDirectory(f.path, directory)
	if err != nil {
		return nil, err
	}
	all := append(mounted, beside...)
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// readDirectory reads what is in a directory itself: not what leads through swapped.
func (f *folder) readDirectory(path string, directory func(string)) ([]found, error) {
	var names []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == path:
			directory(p)
			return nil
		case hidden(d.Name()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			directory(p)
			return nil
		case !isPolicy(d.Name()):
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if to, err := os.Readlink(p); err == nil && strings.HasPrefix(to, swapped+"/") {
				return nil
			}
		}
		names = append(names, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return readFiles(names, f.known)
}

// readFiles reads files, over all processors: what takes time is asking the system, and not the disk.
func readFiles(names []string, known func(string) *found) ([]found, error) {
	all, errs := make([]found, len(names)), make([]error, len(names))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(len(names), runtime.GOMAXPROCS(0)) {
		readers.Go(func() {
			for i := int(next.Add(1)); i <= len(names); i = int(next.Add(1)) {
				all[i-1], errs[i-1] = readFile(names[i-1], known)
			}
		})
	}
	readers.Wait()
	return all, errors.Join(errs...)
}

// known gives a file as it was last read, or nil.
func (f *folder) known(name string) *found {
	if at, ok := f.find(name); f.plain && ok {
		return &found{f.files[at], f.marks[at]}
	}
	return nil
}

// readFile reads a file, unless it is known and certainly as it was.
func readFile(name string, known func(string) *found) (one found, err error) {
	one.Name, one.read = name, time.Now()
	if one.info, err = os.Stat(name); err != nil {
		return one, err
	}
	if known != nil {
		if before := known(name); before != nil && before.same(one.info) {
			return *before, nil
		}
	}
	if one.info.Size() > maxFile {
		return one, fmt.Errorf("%s: %d bytes are more than a policy file has (%d)", name, one.info.Size(), maxFile)
	}
	one.Data, err = os.ReadFile(name)
	return one, err
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isPolicy(name string) bool {
	ext := filepath.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}
