package importer

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/policy"
)

// field is a place in an object, which may be absent. To get a field is to promise that it is carried over or told: what
// nobody has got is told at the end.
type field struct {
	of    *object
	key   *yaml.Node // that it stands under, or it itself in a list
	value *yaml.Node // nil: absent
	path  string
}

func (f field) given() bool { return f.value != nil }

func (f field) note(lost bool, format string, args ...any) {
	line := f.of.root.Line
	if f.key != nil {
		line = f.key.Line
	}
	f.of.world.notes = append(f.of.world.notes, Note{
		File: f.of.file, Line: line, Document: f.of.policyKey(), Path: f.path, Lost: lost, Message: fmt.Sprintf(format, args...),
	})
}

// lost tells that the field is not carried over, with all that is in it.
func (f field) lost(format string, args ...any) {
	if f.given() {
		f.skip()
		f.note(true, format, args...)
	}
}

// say tells that the field is carried over in another form.
func (f field) say(format string, args ...any) {
	if f.given() {
		f.note(false, format, args...)
	}
}

// skip passes over the field and all that is in it.
func (f field) skip() {
	if f.given() {
		f.of.used[f.path], f.of.whole[f.path] = true, true
	}
}

// skipFields passes over fields of f.
func (f field) skipFields(names ...string) {
	for _, name := range names {
		f.get(name).skip()
	}
}

// get gives a field of a mapping; of null, and of anything that is not there, an absent one.
func (f field) get(name string) field {
	out := field{of: f.of, path: joinPath(f.path, name)}
	if f.value == nil {
		return out
	}
	f.of.used[f.path] = true
	if f.value.Kind != yaml.MappingNode {
		f.wrong("a mapping")
		return out
	}
	for i := 0; i+1 < len(f.value.Content); i += 2 {
		if f.value.Content[i].Value != name {
			continue
		}
		f.of.used[out.path] = true
		if f.value.Content[i+1].Tag != "!!null" {
			out.key, out.value = f.value.Content[i], f.value.Content[i+1]
		}
		break
	}
	return out
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// wrong tells once that a field has another type than it should.
func (f field) wrong(want string) {
	if !f.of.whole[f.path] {
		f.lost("want %s here", want)
	}
}

// list gives the items of a list.
func (f field) list() []field {
	if !f.given() {
		return nil
	}
	f.of.used[f.path] = true
	if f.value.Kind != yaml.SequenceNode {
		f.wrong("a list")
		return nil
	}
	all := make([]field, len(f.value.Content))
	for i, item := range f.value.Content {
		all[i] = field{of: f.of, key: item, value: item, path: f.path + "[" + strconv.Itoa(i) + "]"}
		f.of.used[all[i].path] = true
	}
	return all
}

// pairs gives the fields of a mapping whose keys are the user's.
func (f field) pairs() []field {
	if !f.given() {
		return nil
	}
	f.of.used[f.path] = true
	if f.value.Kind != yaml.MappingNode {
		f.wrong("a mapping")
		return nil
	}
	var all []field
	for i := 0; i+1 < len(f.value.Content); i += 2 {
		one := f.get(f.value.Content[i].Value)
		one.key = f.value.Content[i]
		all = append(all, one)
	}
	return all
}

// name is the key of one of the pairs.
func (f field) name() string { return f.key.Value }

// text gives a scalar's text, or "".
func (f field) text() string {
	if !f.given() {
		return ""
	}
	if f.value.Kind != yaml.ScalarNode {
		f.wrong("a single value")
		return ""
	}
	return f.value.Value
}

func (f field) texts() []string {
	var all []string
	for _, item := range f.list() {
		all = append(all, item.text())
	}
	return all
}

// labels gives a mapping of texts.
func (f field) labels() map[string]string {
	var all map[string]string
	for _, p := range f.pairs() {
		if all == nil {
			all = make(map[string]string)
		}
		all[p.name()] = p.text()
	}
	return all
}

func (f field) number() int {
	if !f.given() {
		return 0
	}
	n, err := strconv.Atoi(f.text())
	if err != nil {
		f.wrong("a whole number")
		return 0
	}
	return n
}

func (f field) decimal() float64 {
	if !f.given() {
		return 0
	}
	n, err := strconv.ParseFloat(f.text(), 64)
	if err != nil {
		f.wrong("a number")
		return 0
	}
	return n
}

func (f field) yes() bool {
	switch f.text() {
	case "true":
		return true
	case "", "false":
	default:
		f.wrong("true or false")
	}
	return false
}

// What durations Weir takes, beside 0.
const (
	shortest = time.Millisecond
	longest  = time.Hour
)

// span gives a duration, or nil.
func (f field) span() *policy.Duration {
	if !f.given() {
		return nil
	}
	t, err := time.ParseDuration(f.text())
	if err != nil || t < 0 {
		f.wrong("a duration such as 250ms or 1h30m")
		return nil
	}
	return new(policy.Duration(t))
}

// duration gives a duration within what Weir takes of times that requests wait, or nil.
func (f field) duration() *policy.Duration {
	d := f.span()
	if d == nil {
		return nil
	}
	switch t := time.Duration(*d); {
	case t > longest:
		f.lost("Weir's longest duration here is 1h: 1h it is")
		*d = policy.Duration(longest)
	case t != 0 && t < shortest:
		f.lost("Weir's shortest duration is 1ms: 1ms it is")
		*d = policy.Duration(shortest)
	}
	return d
}

// leftovers tells what nobody has got.
func (o *object) leftovers() { o.leftover(field{of: o, value: o.root}) }

func (o *object) leftover(f field) {
	if o.whole[f.path] {
		return
	}
	switch f.value.Kind {
	case yaml.MappingNode:
		seen := make(map[string]bool)
		for i := 0; i+1 < len(f.value.Content); i += 2 {
			key, value := f.value.Content[i], f.value.Content[i+1]
			one := field{of: o, key: key, value: value, path: joinPath(f.path, key.Value)}
			switch {
			case seen[key.Value]:
				one.note(true, "the field is given twice, and the first one holds")
			case o.used[one.path]:
				o.leftover(one)
			case value.Tag != "!!null" && !empty(value):
				one.note(true, "Weir does not know this field of %s", o.kind)
			}
			seen[key.Value] = true
		}
	case yaml.SequenceNode:
		for i, item := range f.value.Content {
			one := field{of: o, key: item, value: item, path: f.path + "[" + strconv.Itoa(i) + "]"}
			if o.used[one.path] {
				o.leftover(one)
			} else if !o.used[f.path] || item.Tag != "!!null" {
				one.note(true, "Weir does not know this field of %s", o.kind)
			}
		}
	}
}

// empty says whether a value is {} or [].
func empty(n *yaml.Node) bool {
	return (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) && len(n.Content) == 0
}

// place is FILE:LINE, for comments and for notes on others.
func (f field) place() string {
	line := f.of.root.Line
	if f.key != nil {
		line = f.key.Line
	}
	return f.of.file + ":" + strconv.Itoa(line)
}

// oneLine makes a text that may come from a policy problem fit a note.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
