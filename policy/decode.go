package policy

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// decoder fills Go values from YAML nodes, driven by the yaml tags of kinds.go, and collects every mistake instead
// of stopping at the first. It remembers where each path was written, for the checks that come after it.
type decoder struct {
	file     string
	document Key
	problems []Problem
	places   map[string]Place
	zeros    map[string]bool // paths at which a value was written that is 0
}

func placeOf(n *yaml.Node) Place { return Place{Line: n.Line, Column: n.Column} }

func (d *decoder) problem(n *yaml.Node, path, suggestion, format string, args ...any) {
	d.problemAt(placeOf(n), path, suggestion, format, args...)
}

func (d *decoder) problemAt(n Place, path, suggestion, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		File: d.file, Line: n.Line, Column: n.Column, Document: d.document, Path: path,
		Message: fmt.Sprintf(format, args...), DidYouMean: suggestion,
	})
}

// scalar is a type that reads itself from a YAML scalar.
type scalar interface{ parse(s string) error }

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.places[path] = placeOf(n)
	if v.Kind() == reflect.Pointer {
		if n.Tag == "!!null" && v.Type().Elem().Kind() == reflect.Struct {
			d.problem(n, path, "", "want a mapping of fields, got nothing: write {} for the defaults")
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	defer func() {
		if n.Kind == yaml.ScalarNode && v.IsZero() {
			d.zeros[path] = true
		}
	}()
	if s, ok := reflect.TypeAssert[scalar](v.Addr()); ok {
		d.own(n, s, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Slice:
		d.slice(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	default:
		d.plain(n, v, path)
	}
}

func (d *decoder) own(n *yaml.Node, s scalar, path string) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "", "want a single value, got %s", kindName(n))
		return
	}
	if err := s.parse(n.Value); err != nil {
		d.problem(n, path, "", "%s", err)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	d.pairs(n, path, func(key, value *yaml.Node) {
		at := join(path, key.Value)
		index, ok := fields[key.Value]
		if !ok {
			if what, later := laterFields[generic(d.document.Kind, at)]; later {
				d.problem(key, at, "", "%s", what)
				return
			}
			d.problem(key, at, closest(key.Value, fields), "unknown field")
			return
		}
		d.value(value, v.FieldByIndex(index), at)
	})
	if r, ok := reflect.TypeAssert[*Rule](v.Addr()); ok && r.LoadTest != nil {
		r.LoadTest.written, _ = hashNode(n)
	}
}

// pairs calls f for each key of a mapping, and reports what is no mapping and keys that come twice.
func (d *decoder) pairs(n *yaml.Node, path string, f func(key, value *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "", "want a mapping of fields, got %s", kindName(n))
		return
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			d.problem(key, join(path, key.Value), "", "this field is given twice")
			continue
		}
		seen[key.Value] = true
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		f(key, value)
	}
}

func (d *decoder) slice(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "", "want a list, got %s", kindName(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, v.Index(i), path+"["+strconv.Itoa(i)+"]")
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, path, func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, item, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

func (d *decoder) plain(n *yaml.Node, v reflect.Value, path string) {
	want := map[reflect.Kind]string{
		reflect.String: "text", reflect.Int: "a whole number", reflect.Float64: "a number", reflect.Bool: "true or false",
	}[v.Kind()]
	ok := n.Kind == yaml.ScalarNode
	if ok {
		ok = setPlain(n, v)
	}
	if !ok {
		d.problem(n, path, "", "want %s, got %s", want, kindName(n))
	}
}

func setPlain(n *yaml.Node, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		if n.Tag != "!!str" {
			return false
		}
		v.SetString(n.Value)
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if err != nil || n.Tag != "!!int" {
			return false
		}
		v.SetInt(int64(i))
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || n.Tag != "!!int" && n.Tag != "!!float" {
			return false
		}
		v.SetFloat(f)
	case reflect.Bool:
		var b bool
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			return false
		}
		v.SetBool(b)
	default:
		panic("policy: no way to read a " + v.Type().String())
	}
	return true
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		what := map[string]string{"!!str": "the text", "!!int": "the number", "!!float": "the number"}[n.Tag]
		return strings.TrimSpace(fmt.Sprintf("%s %q", what, n.Value))
	default:
		return "something else"
	}
}

// FieldName gives what documents call a field, and whether they have the fields of its type in its place.
func FieldName(f reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name, options == "inline"
}

// fieldsOf gives the fields of a struct by their names in YAML, those of inlined structs among them.
func fieldsOf(t reflect.Type) map[string][]int {
	if known, ok := fieldsOfTypes.Load(t); ok {
		return known.(map[string][]int)
	}
	fields := make(map[string][]int)
	for _, f := range reflect.VisibleFields(t) {
		name, _ := FieldName(f)
		if name != "" {
			fields[name] = f.Index
		}
	}
	fieldsOfTypes.Store(t, fields)
	return fields
}

var fieldsOfTypes sync.Map // what fieldsOf gave, by type

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// generic is a path without its indexes, after its kind: Route.spec.rules[].mirror.
func generic(kind, path string) string {
	var b strings.Builder
	b.WriteString(kind + ".")
	inside := false
	for _, c := range path {
		switch {
		case c == '[':
			inside = true
			b.WriteRune(c)
		case c == ']':
			inside = false
			b.WriteRune(c)
		case !inside:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// closest gives the name that is one or two typing errors away, or "".
func closest[V any](name string, names map[string]V) string {
	best, distance := "", min(len(name)/2, 2)+1
	for candidate := range names {
		d := editDistance(strings.ToLower(name), strings.ToLower(candidate))
		if d < distance || d == distance && best != "" && candidate < best {
			best, distance = candidate, d
		}
	}
	return best
}

// editDistance is the Damerau-Levenshtein distance with adjacent transpositions (optimal string alignment).
func editDistance(a, b string) int {
	previous2, previous, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(previous[j]+1, row[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], previous2[j-2]+1)
			}
		}
		previous2, previous, row = previous, row, previous2
	}
	return previous[len(b)]
}
