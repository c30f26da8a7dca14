package importer

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/policy"
)

// fileName is what the documents are called while they are tried.
const fileName = "import"

// write writes the documents down, once policy.Load takes them all: what it refuses is left out and told.
func (w *world) write(drafts []*draft) []Document {
	for {
		documents, lines := render(drafts)
		var all []byte
		for _, d := range documents {
			all = append(append(all, d.YAML...), "---\n"...)
		}
		_, problems := policy.Load([]policy.File{{Name: fileName, Data: all}}, nil)
		mended := make(map[*draft]bool) // one problem at a time: the others may be of it
		for _, p := range causes(problems) {
			i, here := slices.BinarySearch(lines, p.Line)
			if !here {
				i-- // the document that begins before
			}
			if d := drafts[i]; !mended[d] {
				mended[d] = true
				d.mend(p)
			}
		}
		if len(mended) == 0 {
			return documents
		}
		drafts = slices.DeleteFunc(drafts, func(d *draft) bool { return d.spec == nil })
	}
}

// causes leaves out the problems of documents that need one that is refused: they may be gone with what it is refused for.
func causes(problems []policy.Problem) []policy.Problem {
	all := slices.DeleteFunc(slices.Clone(problems), func(p policy.Problem) bool { return strings.Contains(p.Message, "is refused itself") })
	if len(all) == 0 {
		return problems
	}
	return all
}

// render gives the documents, and the line of each in the file that they make.
func render(drafts []*draft) (documents []Document, lines []int) {
	line := 1
	for _, d := range drafts {
		if d.text == nil {
			d.text = d.yaml()
		}
		one := Document{Key: d.key, YAML: d.text}
		documents, lines = append(documents, one), append(lines, line)
		line += bytes.Count(one.YAML, []byte("\n")) + 1
	}
	return documents, lines
}

var partPattern = regexp.MustCompile(`^spec\.(\w+)(?:\[(\d+)\](?:\.(\w+))?)?`)

// apart are the fields of a rule or a version without which it still takes the same requests to the same place.
var apart = map[string]bool{
	"timeout": true, "retries": true, "mirror": true, "cors": true, "fault": true, "requestHeaders": true, "responseHeaders": true,
}

// mend leaves out what a problem is about: a rule, a listener, a version or a host, or else a field, or else all of it.
func (d *draft) mend(p policy.Problem) {
	d.text = nil
	at, what := d.at, "all"
	part := partPattern.FindStringSubmatch(p.Path)
	var value reflect.Value
	if part != nil {
		value = member(d.spec, part[1])
	}
	switch i, err := strconv.Atoi(append(part, "", "", "")[2]); {
	case !value.IsValid() || value.IsZero() || part[1] == "service":
		d.spec = nil
	case err == nil && apart[part[3]] && i < value.Len() && !member(value.Index(i).Addr().Interface(), part[3]).IsZero():
		what = part[3] + " of " + d.item(part[1], i)
		if part[1] == "rules" {
			at = d.rules[i].at
		}
		member(value.Index(i).Addr().Interface(), part[3]).SetZero()
	case err == nil && value.Kind() == reflect.Slice && i < value.Len():
		what = d.item(part[1], i)
		if part[1] == "rules" {
			at = d.rules[i].at
			d.rules = slices.Delete(d.rules, i, i+1)
		}
		value.Set(reflect.AppendSlice(value.Slice(0, i), value.Slice(i+1, value.Len())))
		if value.Len() == 0 {
			d.emptied(part[1], at)
		}
	case part[1] == "endpoints":
		what = part[1]
		value.Set(reflect.ValueOf(policy.Endpoints{None: true}))
	default:
		what = part[1]
		value.SetZero()
	}
	at.note(true, "%s is left out of %s: %s: %s", what, d.key, p.Path[strings.LastIndexByte(p.Path, '.')+1:], p.Message)
}

// item names a part of a list: a rule by its name, which its place does not tell once others are left out.
func (d *draft) item(list string, i int) string {
	if spec, ok := d.spec.(*policy.RouteSpec); ok && list == "rules" {
		return "the rule " + spec.Rules[i].Name
	}
	return list + "[" + itoa(i) + "]"
}

// emptied deals with a list that has nothing left. Without a Route the service would take every request.
func (d *draft) emptied(list string, at field) {
	spec, isRoute := d.spec.(*policy.RouteSpec)
	switch {
	case isRoute && list == "rules" && !d.closed:
		d.closed, d.rules = true, []*rule{nothing(at, nil)}
		spec.Rules = []policy.Rule{d.rules[0].Rule}
	case list == "rules", list == "listeners", list == "hosts":
		d.spec = nil
	}
}

// member gives a field of a spec by its name in YAML.
func member(spec any, name string) reflect.Value {
	v := reflect.ValueOf(spec).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		if tag, _ := policy.FieldName(f); tag == name {
			return v.FieldByIndex(f.Index)
		}
	}
	return reflect.Value{}
}

// written is a document as it is encoded.
type written struct {
	APIVersion string          `yaml:"apiVersion"`
	Kind       string          `yaml:"kind"`
	Metadata   policy.Metadata `yaml:"metadata"`
	Spec       any             `yaml:"spec"`
}

func (d *draft) yaml() []byte {
	var out bytes.Buffer
	if len(d.origins) > 0 {
		fmt.Fprintf(&out, "# from %s\n", strings.Join(d.origins, ", "))
	}
	var n yaml.Node
	err := n.Encode(written{policy.APIVersion, d.key.Kind, policy.Metadata{Name: d.key.Name, Namespace: d.key.Namespace}, d.spec})
	if err == nil {
		short(&n, 0)
		enc := yaml.NewEncoder(&out)
		enc.SetIndent(2)
		err = cmp.Or(enc.Encode(&n), enc.Close())
	}
	if err != nil {
		panic("importer: encode a document: " + err.Error()) // of plain values: it can't be
	}
	return out.Bytes()
}

// flowWidth is how long a mapping or a list on one line may be.
const flowWidth = 100

// short writes what is short on one line, as people do.
func short(n *yaml.Node, depth int) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			n.Content[i].Style = 0 // retries.on, which YAML 1.1 would take for true
		}
	}
	if depth > 1 && (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) && width(n) <= flowWidth-2*depth {
		n.Style = yaml.FlowStyle
		return
	}
	for i, c := range n.Content {
		if depth == 0 && i%2 == 1 && n.Content[i-1].Value == "metadata" {
			c.Style = yaml.FlowStyle
			continue
		}
		short(c, depth+1)
	}
}

// width is about how long a node is on one line.
func width(n *yaml.Node) int {
	total := len(n.Value)
	if strings.Contains(n.Value, "\n") {
		return flowWidth + 1
	}
	for _, c := range n.Content {
		total += width(c) + 2
	}
	return total
}
