package compat

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// Loader reads files and directories again when they change.
type Loader struct {
	paths []string
	log   *slog.Logger
	sum   uint64 // of what was read last
}

// NewLoader gives one of paths, each a file or a directory, in which files that end in .yaml or .yml count, in
// subdirectories too; hidden ones don't.
func NewLoader(paths []string, log *slog.Logger) *Loader { return &Loader{paths: paths, log: log} }

// Load reads everything. An error tells all that is wrong, a line each.
func (l *Loader) Load() ([]*ratelimit.Domain, error) {
	files, sum, err := read(l.paths)
	l.sum = sum
	if err != nil {
		return nil, err
	}
	domains, problems := Parse(files)
	if len(problems) > 0 {
		lines := make([]string, len(problems))
		for i, p := range problems {
			lines[i] = p.String()
		}
		return nil, errors.New(strings.Join(lines, "\n"))
	}
	if len(domains) == 0 {
		return nil, fmt.Errorf("%s: no domain is configured there", strings.Join(l.paths, ", "))
	}
	return domains, nil
}

// often is how often files are looked at. They are few and small, and mounts of a Kubernetes cluster and of a network
// tell nobody of their changes.
const often = 500 * time.Millisecond

// Run puts in force what changes until ctx is done. What can't be read, or is wrong, is logged once and changes nothing.
func (l *Loader) Run(ctx context.Context, apply func([]*ratelimit.Domain)) error {
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		before := l.sum
		if _, sum, _ := read(l.paths); sum == before {
			continue
		}
		domains, err := l.Load()
		if err != nil {
			l.log.Error("rate limit configuration refused: the last good one stays in force", "error", err)
			continue
		}
		apply(domains)
		l.log.Info("rate limit configuration in force", "domains", len(domains))
	}
}

// read gives all files, in order, and a sum of them and of the error.
func read(paths []string) (files []File, sum uint64, err error) {
	h := fnv.New64a()
	for _, path := range paths {
		var names []string
		if names, err = list(path); err != nil {
			break
		}
		for _, name := range names {
			var data []byte
			if data, err = os.ReadFile(name); err != nil {
				break
			}
			files = append(files, File{name, data})
			_, _ = fmt.Fprintf(h, "%d %s %d ", len(name), name, len(data))
			_, _ = h.Write(data)
		}
	}
	if err != nil {
		_, _ = h.Write([]byte(err.Error()))
	}
	return files, h.Sum64(), err
}

func list(path string) (names []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != path && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name)):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}
