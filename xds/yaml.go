package xds

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlOf writes lists by type as the YAML library does, which takes three times as long and keeps all that it has written
// in memory as what it was: what is not plain, the library writes.
func yamlOf(all map[string][]any) ([]byte, error) {
	w := yamlWriter{scalars: make(map[string]string)}
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		w.scalar(kind)
		w.out = append(w.out, ':')
		w.after(all[kind], 0, false)
	}
	if bytes.Contains(w.out, []byte("\u2028")) || bytes.Contains(w.out, []byte("\u2029")) {
		return w.encode(all), w.err // which ends a line for the library, and must be indented after that
	}
	return w.out, w.err
}

type yamlWriter struct {
	out     []byte
	scalars map[string]string // as the library writes them
	err     error             // the first
}

// mapping writes a mapping, the first line of which is indented already.
func (w *yamlWriter) mapping(m map[string]any, depth int) {
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			w.indent(depth)
		}
		w.scalar(key)
		w.out = append(w.out, ':')
		w.after(m[key], depth, false)
	}
}

// after writes what stands after a key, or after the dash of a list, and the end of its line.
func (w *yamlWriter) after(v any, depth int, dash bool) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			w.out = append(w.out, " {}\n"...)
			return
		}
		if w.out = append(w.out, ' '); !dash {
			w.out[len(w.out)-1] = '\n'
			w.indent(depth + 1)
		}
		if !isPlainMapping(v) {
			w.library(v, depth)
			return
		}
		w.mapping(v, depth+1)
		return
	case []any:
		if dash || len(v) == 0 {
			break
		}
		w.out = append(w.out, '\n')
		for _, one := range v {
			w.indent(depth + 1)
			w.out = append(w.out, '-')
			w.after(one, depth+1, true)
		}
		return
	case string:
		if !strings.Contains(v, "\n") {
			w.out = append(w.out, ' ')
			w.scalar(v)
			w.out = append(w.out, '\n')
			return
		}
	case bool:
		w.out = append(strconv.AppendBool(append(w.out, ' '), v), '\n')
		return
	case int64:
		w.out = append(strconv.AppendInt(append(w.out, ' '), v, 10), '\n')
		return
	}
	w.out = append(w.out, ' ')
	w.library(v, depth)
}

func (w *yamlWriter) indent(depth int) {
	for range depth {
		w.out = append(w.out, "  "...)
	}
}

// library has the library write a value, the first line of which is indented already.
func (w *yamlWriter) library(v any, depth int) {
	first := true
	for line := range bytes.Lines(w.encode([]any{v})) {
		if first {
			line, first = line[len("- "):], false
		} else if len(line) > 1 {
			w.indent(depth)
		}
		w.out = append(w.out, line...)
	}
}

func (w *yamlWriter) encode(v any) []byte {
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil && w.err == nil {
		w.err = err
	}
	return text.Bytes()
}

// scalar writes a text of one line.
func (w *yamlWriter) scalar(s string) {
	if isPlain(s) {
		w.out = append(w.out, s...)
		return
	}
	text, ok := w.scalars[s]
	if !ok {
		text = strings.TrimSuffix(string(w.encode(s)), "\n")
		w.scalars[s] = text
	}
	w.out = append(w.out, text...)
}

// isPlain says of some texts that they are written as they are. All short words that mean something else have five
// letters at most.
func isPlain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		case i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '.' || c == '/' || c == '-'):
		default:
			return false
		}
	}
	return len(s) > len("false")
}

// isPlainMapping says of some mappings that the library writes their keys in the order of their bytes, a line each: where
// there are digits, it counts.
func isPlainMapping(m map[string]any) bool {
	for key := range m {
		for i := range len(key) {
			switch c := key[i]; {
			case c < '!' || c > 'z' || i == 100:
				return false
			case (c >= '0' && c <= '9' || c >= 'A' && c <= 'Z') && len(m) > 1:
				return false
			}
		}
	}
	return true
}
