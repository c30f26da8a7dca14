package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/internal/durable"
	"github.com/machinenativeops/weir/policy"
)

// StateFile is what a source keeps in the folder that [Source.Keep] names. It is YAML: each document in force as it was
// written, under a comment that says where, and on top a comment with a checksum of all that.
const StateFile = "last-good.yaml"

const stateHead = "# The documents that weir had in force last, for its next start. SHA-256 of all below: "

// state is the file where last good documents outlive the process.
type state struct {
	file    string
	kept    *policy.Set // last written
	written []byte
	trouble string // the last error, told once
}

// Keep makes Run keep the documents in force in the folder dir, and begin with those kept there as the last good ones.
// So it is after a restart as it would be without: a document that is there and broken has its last good version in
// force, one whose path is gone or emptied stays, and one that was deleted on purpose is gone.
//
// A crash at any moment leaves the file as it was before or after a change. What can't be read of it is reported and set
// aside. Only one process may keep anything in dir.
func (s *Source) Keep(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep policy: %w", err)
	}
	s.state = &state{file: filepath.Join(dir, StateFile)}
	data, err := os.ReadFile(s.state.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.restore(data)
	}
	if err != nil {
		aside := s.state.file + ".damaged"
		s.log.Error("last good documents can't be read, so that there are none of before this start; their file is set aside",
			"file", s.state.file, "aside", aside, "error", err)
		if err := os.Rename(s.state.file, aside); err != nil {
			s.log.Error("set last good documents aside", "error", err)
		}
	}
	return nil
}

// restore makes what was kept the last good set, and what its files held.
func (s *Source) restore(data []byte) error {
	documents, err := parseState(data)
	if err != nil {
		return err
	}
	files := rewritten(documents)
	set, problems := policy.Load(files, nil)
	for _, p := range problems {
		s.log.Warn("a last good document is refused by this version of Weir", "problem", p.String())
	}
	s.last, s.restored = set, true
	for _, path := range s.paths {
		for _, one := range files {
			if _, ok := within(path, one.Name); !ok {
				continue
			}
			if s.held[path] == nil {
				s.held[path] = &folder{path: path}
			}
			s.held[path].insert(len(s.held[path].files), found{File: one})
		}
	}
	s.log.Info("last good documents read", "file", s.state.file, "documents", len(documents))
	return nil
}

// rewritten makes files of documents, each in its line where that is still free.
func rewritten(documents []policy.Written) []policy.File {
	var files []policy.File
	for i, d := range documents {
		if i == 0 || documents[i-1].File != d.File {
			files = append(files, policy.File{Name: d.File})
		}
		f := &files[len(files)-1]
		if n := len(f.Data); n > 0 && f.Data[n-1] != '\n' {
			f.Data = append(f.Data, '\n')
		}
		between := ""
		if len(f.Data) > 0 && !strings.HasPrefix(d.Text, "---") {
			between = "---\n"
		}
		missing := d.Line - 1 - bytes.Count(f.Data, []byte("\n")) - strings.Count(between, "\n")
		f.Data = append(f.Data, strings.Repeat("\n", max(missing, 0))+between+d.Text...)
	}
	return files
}

// place is what is said above each document.
type place struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	Bytes int    `json:"bytes"`
}

func formatState(documents []policy.Written) ([]byte, error) {
	var body bytes.Buffer
	for _, d := range documents {
		at, err := json.Marshal(place{File: d.File, Line: d.Line, Bytes: len(d.Text)})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&body, "---\n# %s\n%s\n", at, d.Text)
	}
	return fmt.Appendf(nil, "%s%x\n%s", stateHead, sha256.Sum256(body.Bytes()), body.Bytes()), nil
}

var errDamaged = errors.New("it is not as weir wrote it")

func parseState(data []byte) ([]policy.Written, error) {
	head, body, _ := strings.Cut(string(data), "\n")
	if head != fmt.Sprintf("%s%x", stateHead, sha256.Sum256([]byte(body))) {
		return nil, errDamaged
	}
	var documents []policy.Written
	for body != "" {
		line, rest, _ := strings.Cut(strings.TrimPrefix(body, "---\n# "), "\n")
		var at place
		if err := json.Unmarshal([]byte(line), &at); err != nil {
			return nil, err
		}
		if at.Bytes < 0 || at.Bytes+1 > len(rest) {
			return nil, errDamaged
		}
		documents = append(documents, policy.Written{File: at.File, Line: at.Line, Text: rest[:at.Bytes]})
		body = rest[at.Bytes+1:]
	}
	return documents, nil
}

// keep writes the set in force, if that is new. What goes wrong is told, and tried again at the next look.
func (s *Source) keep() {
	if s.state == nil || s.last == s.state.kept {
		return
	}
	data, err := formatState(s.last.Written())
	if err == nil && !bytes.Equal(data, s.state.written) {
		err = durable.Write(s.state.file, data)
	}
	if err != nil {
		if err.Error() != s.state.trouble {
			s.log.Error("last good documents are not kept: they would be missing after a restart", "file", s.state.file, "error", err)
		}
		s.state.trouble = err.Error()
		return
	}
	s.state.kept, s.state.written, s.state.trouble = s.last, data, ""
}

// tellRestored says which documents are in force as they were before this start.
func (s *Source) tellRestored(u Update) {
	if !s.restored {
		return
	}
	s.restored = false
	for _, d := range u.Set.Written() {
		if slices.ContainsFunc(u.Problems, func(p policy.Problem) bool { return p.Document == d.Key }) {
			s.log.Warn("a document is refused, and its last good version of before this start in force", "document", d.Key.String(), "file", d.File)
		}
	}
}
