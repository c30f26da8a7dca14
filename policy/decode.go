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
// of stopping at the first.
type decoder struct {
	file     string
	document Key
	problems []Problem
	places   *places         // for the checks that come after it
	zeros    map[string]bool // paths at which a value was written that is 0
	at       []step          // from the whole of it to where the decoder is
}

// step is one from a value to one in it. Where a decoder is is hardly ever told, so that the path is put together only then.
type step struct {
	field string
	index int // of an item, from 1; 0: it is a field
}

func (d *decoder) path() (path string) {
	for _, s := range d.at {
		if s.index > 0 {
			path = item(path, s.index-1)
		} else {
			path = join(path, s.field)
		}
	}
	return path
}

func (d *decoder) enter(s step) { d.at = append(d.at, s) }

func (d *decoder) leave() { d.at = d.at[:len(d.at)-1] }

func item(path string, index int) string { return path + "[" + strconv.Itoa(index) + "]" }

func placeOf(n *yaml.Node) Place { return Place{Line: n.Line, Column: n.Column} }

func (d *decoder) problem(n *yaml.Node, suggestion, format string, args ...any) {
	d.problemAt(placeOf(n), d.path(), suggestion, format, args...)
}

func (d *decoder) problemAt(n Place, path, suggestion, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		File: d.file, Line: n.Line, Column: n.Column, Document: d.document, Path: path,
		Message: fmt.Sprintf(format, args...), DidYouMean: suggestion,
	})
}

// scalar is a type that reads itself from a YAML scalar.
type scalar interface{ parse(s string) error }

// field decodes a field of the document itself.
func (d *decoder) field(name string, n *yaml.Node, into reflect.Value) {
	d.enter(step{field: name})
	d.value(n, into.Elem())
	d.leave()
}

func (d *decoder) value(n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if v.Kind() == reflect.Pointer {
		if n.Tag == "!!null" && v.Type().Elem().Kind() == reflect.Struct {
			d.problem(n, "", "want a mapping of fields, got nothing: write {} for the defaults")
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	d.fill(n, v)
	if n.Kind == yaml.ScalarNode && v.IsZero() {
		put(&d.zeros, d.path())
	}
}

func (d *decoder) fill(n *yaml.Node, v reflect.Value) {
	if s, ok := reflect.TypeAssert[scalar](v.Addr()); ok {
		d.own(n, s)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v)
	case reflect.Slice:
		d.slice(n, v)
	case reflect.Map:
		d.mapping(n, v)
	default:
		d.plain(n, v)
	}
}

func (d *decoder) own(n *yaml.Node, s scalar) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, "", "want a single value, got %s", kindName(n))
		return
	}
	if err := s.parse(n.Value); err != nil {
		d.problem(n, "", "%s", err)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	d.pairs(n, func(key, value *yaml.Node) {
		index, ok := fields[key.Value]
		if !ok {
			if what, later := laterFields[generic(d.document.Kind, d.path())]; later {
				d.problem(key, "", "%s", what)
				return
			}
			d.problem(key, closest(key.Value, fields), "unknown field")
			return
		}
		d.value(value, v.FieldByIndex(index))
	})
	if r, ok := reflect.TypeAssert[*Rule](v.Addr()); ok && r.LoadTest != nil {
		r.LoadTest.written, _ = hashNode(n)
	}
}

// pairs calls f for each key of a mapping, being there, and reports what is no mapping and keys that come twice.
func (d *decoder) pairs(n *yaml.Node, f func(key, value *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, "", "want a mapping of fields, got %s", kindName(n))
		return
	}
	twice := repeated(n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		d.enter(step{field: key.Value})
		if twice[key] {
			d.problem(key, "", "this field is given twice")
		} else {
			f(key, value)
		}
		d.leave()
	}
}

// repeated gives the keys of a mapping that it has had before.
func repeated(n *yaml.Node) (twice map[*yaml.Node]bool) {
	const few = 16
	if len(n.Content) <= 2*few { // to look at them all is quicker than to note them
		for i := 2; i < len(n.Content); i += 2 {
			for j := 0; j < i; j += 2 {
				if n.Content[j].Value == n.Content[i].Value {
					put(&twice, n.Content[i])
				}
			}
		}
		return twice
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		if seen[n.Content[i].Value] {
			put(&twice, n.Content[i])
		}
		seen[n.Content[i].Value] = true
	}
	return twice
}

func (d *decoder) slice(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, "", "want a list, got %s", kindName(n))
		return
	}
	if len(n.Content) == 0 {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // which is not nil
	}
	v.Grow(len(n.Content))
	v.SetLen(len(n.Content))
	for i, item := range n.Content {
		d.enter(step{index: i + 1})
		d.value(item, v.Index(i))
		d.leave()
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	if texts, ok := reflect.TypeAssert[map[string]string](v); ok { // most are
		d.pairs(n, func(key, value *yaml.Node) {
			one := value.Value
			if value.Kind != yaml.ScalarNode || value.Tag != "!!str" || one == "" {
				one = ""
				d.value(value, reflect.ValueOf(&one).Elem())
			}
			texts[key.Value] = one
		})
		return
	}
	d.pairs(n, func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, item)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

func (d *decoder) plain(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || !setPlain(n, v) {
		d.problem(n, "", "want %s, got %s", plainKinds[v.Kind()], kindName(n))
	}
}

var plainKinds = map[reflect.Kind]string{
	reflect.String: "text", reflect.Int: "a whole number", reflect.Float64: "a number", reflect.Bool: "true or false",
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
