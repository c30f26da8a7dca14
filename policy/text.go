package policy

import (
	"cmp"
	"slices"
	"strings"
)

// texts are the documents of a file as they are written, by the lines that they begin at.
type texts []text

type text struct {
	line int // from 1
	text string
}

// documentTexts splits a file. Nothing but the end of a document begins a line with --- or ...: YAML keeps them for it.
func documentTexts(data []byte) texts {
	all, begin, line := texts{}, 0, 1
	file := string(data)
	next := 1 // the line that begins at pos
	for pos := 0; pos < len(file); next++ {
		end := pos + lineLength(file[pos:])
		if isMarker(file[pos:end]) {
			all = append(all, text{line, file[begin:pos]})
			begin, line = pos, next
			if file[pos] == '.' { // what ends a document is no part of the next one
				begin, line = end, next+1
			}
		}
		pos = end
	}
	return append(all, text{line, file[begin:]})
}

// at is the text of the document whose first value is on a line.
func (t texts) at(line int) text {
	i, found := slices.BinarySearchFunc(t, line, func(t text, line int) int { return cmp.Compare(t.line, line) })
	if !found {
		i--
	}
	return t[max(i, 0)]
}

// lineLength is the length of the first line and what ends it. YAML has more of those than others.
func lineLength(s string) int {
	i := strings.IndexAny(s, "\r\n\u0085\u2028\u2029")
	switch {
	case i < 0:
		return len(s)
	case strings.HasPrefix(s[i:], "\r\n"):
		return i + 2
	case s[i] == '\r' || s[i] == '\n':
		return i + 1
	case s[i] == "\u0085"[0]:
		return i + len("\u0085")
	default:
		return i + len("\u2028")
	}
}

// Written is a document as it was written.
type Written struct {
	Key  Key
	File string
	Line int // where Text begins, from 1
	Text string
}

// Written gives the documents of a set that somebody wrote, by file and line. Load makes the same set of them.
func (s *Set) Written() []Written {
	var all []Written
	for key, d := range s.table().All() {
		all = append(all, Written{Key: key, File: d.origin.File, Line: d.origin.text.line, Text: d.origin.text.text})
	}
	slices.SortFunc(all, func(a, b Written) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key.String(), b.Key.String()))
	})
	return all
}

func isMarker(line string) bool {
	rest, ok := strings.CutPrefix(line, "---")
	if !ok {
		rest, ok = strings.CutPrefix(line, "...")
	}
	return ok && strings.TrimLeft(rest, " \t\r\n\u0085\u2028\u2029") != rest || ok && rest == ""
}
