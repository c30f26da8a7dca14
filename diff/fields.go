package diff

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// field is one that differs.
type field struct{ path, from, to string }

// fields gives what differs between two values of one type, by the names that documents have for it. Those left out,
// by path, are not looked at.
func fields(a, b any, without ...string) []field {
	w := walker{without: without}
	w.value("", reflect.ValueOf(a), reflect.ValueOf(b))
	return w.found
}

type walker struct {
	without []string
	found   []field
}

func (w *walker) differ(path string, a, b reflect.Value) {
	w.found = append(w.found, field{path, say(a), say(b)})
}

func (w *walker) value(path string, a, b reflect.Value) {
	if slices.Contains(w.without, path) || same(a, b) {
		return
	}
	if _, leaf := reflect.TypeAssert[fmt.Stringer](a); leaf {
		w.differ(path, a, b)
		return
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			w.differ(path, a, b)
			return
		}
		w.value(path, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			name, inline := policy.FieldName(a.Type().Field(i))
			switch {
			case inline:
				w.value(path, a.Field(i), b.Field(i))
			case name != "":
				w.value(join(path, name), a.Field(i), b.Field(i))
			}
		}
	case reflect.Map:
		w.mapping(path, a, b)
	case reflect.Slice:
		w.list(path, a, b)
	default:
		w.differ(path, a, b)
	}
}

// same is equality in which an empty list or map is as good as none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len()+b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func (w *walker) mapping(path string, a, b reflect.Value) {
	keys := make(map[string]reflect.Value)
	for _, v := range []reflect.Value{a, b} {
		for _, k := range v.MapKeys() {
			keys[k.String()] = k
		}
	}
	for _, name := range union(keys, nil) {
		x, y := a.MapIndex(keys[name]), b.MapIndex(keys[name])
		switch {
		case !x.IsValid():
			w.found = append(w.found, field{join(path, name), none, say(y)})
		case !y.IsValid():
			w.found = append(w.found, field{join(path, name), say(x), none})
		default:
			w.value(join(path, name), x, y)
		}
	}
}

// few is how many plain values a list has that is told whole.
const few = 5

// list tells short lists of plain values whole, and others item by item: what is different in those that are the same
// ones, and what is in one of the lists only.
func (w *walker) list(path string, a, b reflect.Value) {
	gone, come := onlyIn(a, b), onlyIn(b, a)
	plain := a.Type().Elem().Kind() != reflect.Struct
	if plain && max(a.Len(), b.Len()) <= few || len(gone)+len(come) == 0 { // or another order
		w.differ(path, a, b)
		return
	}
	for _, i := range gone {
		k := slices.IndexFunc(come, func(j int) bool { return sameOne(a.Index(i), b.Index(j), i == j) })
		if k < 0 {
			w.found = append(w.found, field{fmt.Sprintf("%s[%d]", path, i), say(a.Index(i)), none})
			continue
		}
		w.value(fmt.Sprintf("%s[%d]", path, come[k]), a.Index(i), b.Index(come[k]))
		come = slices.Delete(come, k, k+1)
	}
	for _, i := range come {
		w.found = append(w.found, field{fmt.Sprintf("%s[%d]", path, i), none, say(b.Index(i))})
	}
}

// sameOne says whether an item of a list has become the other: they have one name, or else one place.
func sameOne(a, b reflect.Value, place bool) bool {
	if a.Kind() != reflect.Struct {
		return false
	}
	for _, name := range []string{"Name", "Header", "By", "Version"} { // what items are told apart by, where they have it
		if f := a.FieldByName(name); f.IsValid() && !f.IsZero() {
			return same(f, b.FieldByName(name))
		}
	}
	return place
}

// onlyIn gives the indexes of what is in a and not, or not as often, in b.
func onlyIn(a, b reflect.Value) []int {
	taken := make([]bool, b.Len())
	var only []int
next:
	for i := range a.Len() {
		for j := range b.Len() {
			if !taken[j] && same(a.Index(i), b.Index(j)) {
				taken[j] = true
				continue next
			}
		}
		only = append(only, i)
	}
	return only
}

// say writes a value in one line, as a document would, without what is not set.
func say(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return none
		}
		return say(v.Elem())
	}
	if s, ok := reflect.TypeAssert[fmt.Stringer](v); ok {
		text := s.String()
		if _, ok := s.(policy.Duration); ok { // 10m0s is 10m to people
			text = zeroes.ReplaceAllString(text, "$1")
		}
		return text
	}
	switch v.Kind() {
	case reflect.Struct:
		return "{" + strings.Join(members(v), ", ") + "}"
	case reflect.Map:
		return sayMap(v)
	case reflect.Slice:
		if v.Len() == 0 {
			return none
		}
		all := make([]string, v.Len())
		for i := range all {
			all[i] = say(v.Index(i))
		}
		return "[" + strings.Join(all, ", ") + "]"
	case reflect.String:
		return sayText(v.String())
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

func members(v reflect.Value) []string {
	var all []string
	for i := range v.NumField() {
		name, inline := policy.FieldName(v.Type().Field(i))
		switch {
		case inline:
			all = append(all, members(v.Field(i))...)
		case name != "" && !empty(v.Field(i)):
			all = append(all, name+": "+say(v.Field(i)))
		}
	}
	return all
}

// empty says whether a field is not set, or a list or a mapping with nothing in it.
func empty(v reflect.Value) bool {
	k := v.Kind()
	return v.IsZero() || (k == reflect.Slice || k == reflect.Map) && v.Len() == 0
}

func sayMap(v reflect.Value) string {
	if v.Len() == 0 {
		return none
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	all := make([]string, len(keys))
	for i, k := range keys {
		all[i] = sayText(k.String()) + ": " + say(v.MapIndex(k))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

var zeroes = regexp.MustCompile(`([hm])(0m)?0s$`)

var plainText = regexp.MustCompile(`^[A-Za-z0-9/.*%_:+=<>~^$@-]+$`)

func sayText(s string) string {
	switch {
	case s == "":
		return none
	case plainText.MatchString(s) && s != none:
		return s
	default:
		return strconv.Quote(s)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
