package lint

import (
	"fmt"
	"reflect"
	"regexp/syntax"
	"strings"
	"sync"

	"github.com/machinenativeops/weir/policy"
)

// mostAlternatives is how many rules are still better than one regex.
const mostAlternatives = 4

// plain is a regex, or one of its alternatives, that says no more than a plain condition does.
type plain struct {
	text  string
	kind  plainKind
	empty bool // of a prefix: what it begins may be empty, as in v1.* and not in v1.+
}

type plainKind int

const (
	plainExact    plainKind = iota // exactly the text
	plainPrefix                    // the text and whatever comes then
	plainSegments                  // the text, or the text, a slash and whatever comes then
)

// plainOf gives what a regex, matched against a whole string, says plainly, if it does.
func plainOf(pattern string) ([]plain, bool) {
	// A | in a quotation parts nothing, and flags go on behind a |.
	if strings.Contains(pattern, `\Q`) || strings.Contains(strings.ReplaceAll(pattern, "(?:", ""), "(?") {
		return nil, false
	}
	var all []plain
	for part := range strings.SplitSeq(ungrouped(pattern), "|") {
		one, ok := plainPart(part)
		if !ok {
			return nil, false
		}
		all = append(all, one)
	}
	return all, true
}

// ungrouped takes the anchors and one group away that are around all of a pattern. Where that cuts a pattern in the
// wrong place, its parts are no patterns any more.
func ungrouped(pattern string) string {
	inner := strings.TrimPrefix(pattern, "^")
	if cut, ok := strings.CutSuffix(inner, "$"); ok && !strings.HasSuffix(cut, `\`) {
		inner = cut
	}
	body, opened := strings.CutPrefix(inner, "(")
	body, closed := strings.CutSuffix(body, ")")
	if !opened || !closed || strings.HasSuffix(body, `\`) {
		return pattern
	}
	return strings.TrimPrefix(body, "?:")
}

func plainPart(pattern string) (plain, bool) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return plain{}, false
	}
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	if len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts = parts[1:]
	}
	if n := len(parts); n > 0 && parts[n-1].Op == syntax.OpEndText {
		parts = parts[:n-1]
	}
	var out plain
	if len(parts) > 0 && parts[0].Op == syntax.OpLiteral && parts[0].Flags&syntax.FoldCase == 0 {
		out.text, parts = string(parts[0].Rune), parts[1:]
	}
	switch {
	case len(parts) == 0:
		return out, true
	case len(parts) > 1:
		return plain{}, false
	}
	last := parts[0]
	switch {
	case isAny(last):
		out.kind, out.empty = plainPrefix, last.Op == syntax.OpStar
		return out, true
	case last.Op == syntax.OpQuest && isBelow(last.Sub[0]) && out.text != "":
		out.kind = plainSegments
		return out, true
	}
	return plain{}, false
}

// isAny is .* and .+.
func isAny(re *syntax.Regexp) bool {
	return (re.Op == syntax.OpStar || re.Op == syntax.OpPlus) && (re.Sub[0].Op == syntax.OpAnyCharNotNL || re.Sub[0].Op == syntax.OpAnyChar)
}

// isBelow is /.* in whatever group.
func isBelow(re *syntax.Regexp) bool {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	return re.Op == syntax.OpConcat && len(re.Sub) == 2 &&
		re.Sub[0].Op == syntax.OpLiteral && string(re.Sub[0].Rune) == "/" && isAny(re.Sub[1]) && re.Sub[1].Op == syntax.OpStar
}

// regexes warns of regexes in a rule that say no more than plain conditions do.
func (p page) regexes(r *policy.Rule, path string) {
	// A limit of a rule's own is shared by all it matches, and a rule can be split only where it stands.
	splits := func(at string) bool { return r.RateLimit == nil && strings.HasPrefix(at, path+".match.") }
	eachRegex(reflect.ValueOf(r).Elem(), path, func(at, pattern string, ofPath bool) {
		all, ok := plainOf(pattern)
		if !ok || len(all) > mostAlternatives || len(all) > 1 && !splits(at) {
			return
		}
		say := sayValue
		if ofPath {
			say = sayPath
		}
		words := make([]string, len(all))
		for i, one := range all {
			if words[i] = say(one); words[i] == "" {
				return
			}
		}
		if len(words) > 1 {
			p.warn(SimpleRegex, at, "%q is a list of plain conditions: write a rule for each, with %s", pattern, strings.Join(words, " and "))
			return
		}
		p.warn(SimpleRegex, at, "%q is a plain condition: write %s", pattern, words[0])
	})
}

// sayPath says a condition on a path, or "" where that can't be.
func sayPath(c plain) string {
	trimmed := segments(c.text)
	switch {
	case c.kind == plainPrefix && trimmed == "":
		return "no path, which takes every one"
	case !strings.HasPrefix(c.text, "/"):
		return ""
	case c.kind == plainExact:
		return fmt.Sprintf("exact: %q", c.text)
	case c.kind == plainSegments && trimmed == c.text:
		return fmt.Sprintf("prefix: %q", c.text)
	case c.kind == plainPrefix && c.text == trimmed+"/":
		return fmt.Sprintf("prefix: %q, which takes %s itself too", trimmed, trimmed)
	case c.kind == plainPrefix && trimmed == c.text:
		return fmt.Sprintf("prefix: %q, which is of whole segments, unless %s-other is meant too", c.text, c.text)
	default:
		return ""
	}
}

// sayValue says a condition on a header, a parameter or a cookie, or "" where that can't be.
func sayValue(c plain) string {
	switch {
	case c.kind == plainExact && c.text != "":
		return fmt.Sprintf("exact: %q", c.text)
	case c.kind == plainPrefix && c.text == "" && c.empty:
		return "present: true"
	case c.kind == plainPrefix && c.text == "":
		return "present: true, which takes an empty value too"
	case c.kind == plainPrefix && c.empty:
		return fmt.Sprintf("prefix: %q", c.text)
	case c.kind == plainPrefix:
		return fmt.Sprintf("prefix: %q, which takes %s itself too", c.text, c.text)
	default:
		return ""
	}
}

// eachRegex calls f for each regex that is a condition, wherever in v it is.
func eachRegex(v reflect.Value, path string, f func(at, pattern string, ofPath bool)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachRegex(v.Elem(), path, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachRegex(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	case reflect.Struct:
		if m, ok := reflect.TypeAssert[policy.StringMatch](v); ok && m.Regex != nil {
			f(path+".regex", *m.Regex, true)
		}
		if m, ok := reflect.TypeAssert[policy.NamedMatch](v); ok && m.Regex != nil {
			f(path+".regex", *m.Regex, false)
		}
		for _, field := range conditional(v.Type()) {
			if value := v.Field(field.index); !value.IsZero() {
				eachRegex(value, path+field.path, f)
			}
		}
	default:
	}
}

// conditionalField is one that may have a condition somewhere.
type conditionalField struct {
	index int
	path  string // from the struct on: .NAME, or "" where its fields stand in its place
}

// conditional gives such fields of a struct. Types that refer to themselves are none of a document's.
func conditional(t reflect.Type) (fields []conditionalField) {
	if known, ok := conditionalFields.Load(t); ok {
		return known.([]conditionalField)
	}
	for i := range t.NumField() {
		name, inline := policy.FieldName(t.Field(i))
		if name != "" {
			name = "." + name
		}
		if (name != "" || inline) && mayHaveCondition(t.Field(i).Type) {
			fields = append(fields, conditionalField{i, name})
		}
	}
	conditionalFields.Store(t, fields)
	return fields
}

var conditionalFields sync.Map // what conditional gave, by type

func mayHaveCondition(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return mayHaveCondition(t.Elem())
	case reflect.Struct:
		return t == reflect.TypeFor[policy.StringMatch]() || t == reflect.TypeFor[policy.NamedMatch]() || len(conditional(t)) > 0
	default:
		return false
	}
}
