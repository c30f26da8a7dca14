// Package compat reads the configuration files of envoyproxy/ratelimit, as its README describes them, so that its users
// need not rewrite them. It reads them as strictly as that does, and tells everything that is wrong at once, with its
// place.
package compat

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/ratelimit"
)

// File is one as it was read.
type File struct {
	Name string
	Data []byte
}

// Problem is something wrong in a file.
type Problem struct {
	File         string
	Line, Column int
	Path         string // of the field
	Text         string // what is wrong and how to mend it
}

func (p Problem) String() string {
	place := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Path != "" {
		place += p.Path + ": "
	}
	return place + p.Text
}

// Parse reads files, in which domains of the same name are one. With a problem nothing of them is to be put in force.
func Parse(files []File) ([]*ratelimit.Domain, []Problem) {
	p := &parser{domains: map[string]*ratelimit.Domain{}}
	for _, f := range files {
		p.file = f.Name
		p.parse(f.Data)
	}
	out := make([]*ratelimit.Domain, 0, len(p.domains))
	for _, d := range p.domains {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *ratelimit.Domain) int { return cmp.Compare(a.Name, b.Name) })
	return out, p.problems
}

type parser struct {
	file     string
	depth    int // of lists of descriptors within each other
	made     int // descriptors
	merged   int // mappings that are named by <<
	domains  map[string]*ratelimit.Domain
	problems []Problem
}

func (p *parser) problem(n *yaml.Node, path, format string, args ...any) {
	p.problems = append(p.problems, Problem{p.file, n.Line, n.Column, path, fmt.Sprintf(format, args...)})
}

func (p *parser) parse(data []byte) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			p.problem(&yaml.Node{Line: lineOf(err), Column: 1}, "", "not YAML: %s", yamlPlace.ReplaceAllString(err.Error(), ""))
			return
		}
		if doc.Content[0].Tag != null { // a separator with nothing after it
			p.root(doc.Content[0])
		}
	}
}

var yamlPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// lineOf is the one of an error of the library's; 1 where it doesn't say.
func lineOf(err error) int {
	line := 0
	if m := yamlPlace.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	return max(line, 1)
}

func (p *parser) root(n *yaml.Node) {
	f := p.fields(n, "", "domain", "descriptors")
	if f == nil {
		return
	}
	name := p.text(f["domain"], "domain")
	switch {
	case name == "" && f["domain"] != nil && f["domain"].Kind != yaml.ScalarNode:
		return // as is told already
	case name == "":
		p.problem(n, "domain", "missing: name the domain that Envoy's filter asks for")
		return
	case name == mesh.LimitDomain:
		p.problem(f["domain"], "domain", "%q is what Weir's own routes ask for: give it another name, here and in Envoy's filter", name)
		return
	}
	into := p.domains[name]
	if into == nil {
		into = &ratelimit.Domain{Name: name}
		p.domains[name] = into
	}
	into.Descriptors = p.descriptors(f["descriptors"], "descriptors", into.Descriptors)
}

// Tags of what has no value, and of the key that takes other mappings' fields.
const (
	null  = "!!null"
	merge = "!!merge"
)

// fields gives those of a mapping by name; others than these are problems. It gives nil if the node is none.
func (p *parser) fields(n *yaml.Node, path string, known ...string) map[string]*yaml.Node {
	n = behind(n)
	if n.Kind != yaml.MappingNode {
		p.problem(n, path, "want a mapping with %s", strings.Join(known, ", "))
		return nil
	}
	f := make(map[string]*yaml.Node, len(known))
	p.collect(n, path, known, f, 0)
	maps.DeleteFunc(f, func(_ string, value *yaml.Node) bool { return value.Tag == null })
	return f
}

// collect adds a mapping's fields to those that are there, which come first, and then those of the mappings that its <<
// names.
func (p *parser) collect(n *yaml.Node, path string, known []string, f map[string]*yaml.Node, depth int) {
	if depth > 0 {
		p.merged++
	}
	if depth > maxDepth || p.merged > maxDescriptors {
		p.problem(n, path, "<< names too many mappings, or itself")
		return
	}
	own := make(map[string]bool, len(known))
	var others []*yaml.Node
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], behind(n.Content[i+1])
		switch {
		case key.Tag == merge:
			others = append(others, value)
		case !slices.Contains(known, key.Value):
			p.problem(key, join(path, key.Value), "unknown field; there are %s", strings.Join(known, ", "))
		case own[key.Value]:
			p.problem(key, join(path, key.Value), "given twice: remove one")
		default:
			own[key.Value] = true
			if f[key.Value] == nil {
				f[key.Value] = value
			}
		}
	}
	for _, other := range others {
		all := []*yaml.Node{other}
		if other.Kind == yaml.SequenceNode {
			all = other.Content
		}
		for _, o := range all {
			if o = behind(o); o.Kind != yaml.MappingNode {
				p.problem(o, join(path, "<<"), "want a mapping, or a list of them")
				continue
			}
			p.collect(o, path, known, f, depth+1)
		}
	}
}

// behind is the node that an alias stands for.
func behind(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// items gives those of a list; none if there is no such field.
func (p *parser) items(n *yaml.Node, path string) []*yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.problem(n, path, "want a list")
		return nil
	}
	return n.Content
}

func (p *parser) text(n *yaml.Node, path string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode {
		p.problem(n, path, "want a text")
		return ""
	}
	return n.Value
}

func (p *parser) boolean(n *yaml.Node, path string) bool {
	if n == nil {
		return false
	}
	var b bool // yes and on too, as in YAML 1.1
	if n.Kind != yaml.ScalarNode || n.Decode(&b) != nil {
		p.problem(n, path, "want true or false")
	}
	return b
}

func (p *parser) descriptors(n *yaml.Node, path string, out []*ratelimit.Descriptor) []*ratelimit.Descriptor {
	if p.depth++; p.depth > maxDepth {
		p.problem(n, path, "more than %d levels of descriptors", maxDepth)
		return out
	}
	defer func() { p.depth-- }()
	seen := make(map[[2]string]bool)
	for _, d := range out {
		seen[[2]string{d.Key, d.Value}] = true
	}
	for i, item := range p.items(n, path) {
		at := fmt.Sprintf("%s[%d]", path, i)
		if p.made++; p.made > maxDescriptors {
			p.problem(item, at, "more than %d descriptors", maxDescriptors)
			return out
		}
		d := p.descriptor(item, at)
		if d == nil {
			continue
		}
		if seen[[2]string{d.Key, d.Value}] {
			p.problem(item, at, "key %q with value %q is there already: remove one, or give it another value", d.Key, d.Value)
			continue
		}
		seen[[2]string{d.Key, d.Value}] = true
		out = append(out, d)
	}
	return out
}

// Bounds of what aliases may unfold to.
const (
	maxDepth       = 64
	maxDescriptors = 100_000
)

func (p *parser) descriptor(n *yaml.Node, path string) *ratelimit.Descriptor {
	f := p.fields(n, path, "key", "value", "rate_limit", "descriptors", "shadow_mode", "detailed_metric", "value_to_metric", "share_threshold", "quota_mode", "metadata")
	if f == nil {
		return nil
	}
	at := func(name string) string { return path + "." + name }
	d := &ratelimit.Descriptor{
		Key: p.text(f["key"], at("key")), Value: p.text(f["value"], at("value")),
		Shadow: p.boolean(f["shadow_mode"], at("shadow_mode")), Quota: p.boolean(f["quota_mode"], at("quota_mode")),
		ShareThreshold: p.boolean(f["share_threshold"], at("share_threshold")),
		DetailedMetric: p.boolean(f["detailed_metric"], at("detailed_metric")), ValueToMetric: p.boolean(f["value_to_metric"], at("value_to_metric")),
	}
	if d.Key == "" {
		p.problem(n, at("key"), "missing: name the key of an entry")
		return nil
	}
	if d.ShareThreshold && !strings.Contains(d.Key+d.Value, "*") {
		p.problem(f["share_threshold"], at("share_threshold"), "only values that match a pattern can share: put a * into value, or remove it")
	}
	d.Limit = p.limit(f["rate_limit"], at("rate_limit"))
	d.Descriptors = p.descriptors(f["descriptors"], at("descriptors"), nil)
	return d
}

func (p *parser) limit(n *yaml.Node, path string) *ratelimit.DescriptorLimit {
	if n == nil {
		return nil
	}
	f := p.fields(n, path, "unit", "requests_per_unit", "unlimited", "name", "replaces")
	if f == nil {
		return nil
	}
	l := &ratelimit.DescriptorLimit{
		Name: p.text(f["name"], path+".name"), Unlimited: p.boolean(f["unlimited"], path+".unlimited"),
		Requests: p.number(f["requests_per_unit"], path+".requests_per_unit"),
	}
	unit := p.text(f["unit"], path+".unit")
	value, ok := ratelimitsvcv3.RateLimitResponse_RateLimit_Unit_value[strings.ToUpper(unit)]
	l.Unit = ratelimitsvcv3.RateLimitResponse_RateLimit_Unit(value)
	ok = ok && value != 0
	switch {
	case l.Unlimited && ok:
		p.problem(f["unit"], path+".unit", "what is unlimited has no unit: remove one of them")
	case !l.Unlimited && f["unit"] == nil:
		p.problem(n, path+".unit", "missing: want "+units)
	case !l.Unlimited && !ok:
		p.problem(f["unit"], path+".unit", "%q is none: want %s", unit, units)
	}
	for i, item := range p.items(f["replaces"], path+".replaces") {
		at := fmt.Sprintf("%s.replaces[%d]", path, i)
		r := p.fields(item, at, "name")
		if r == nil {
			continue
		}
		name := p.text(r["name"], at+".name")
		switch name {
		case "":
			p.problem(item, at+".name", "missing: name the limit that is replaced")
		case l.Name:
			p.problem(item, at+".name", "%q is the name of this limit itself", name)
		default:
			l.Replaces = append(l.Replaces, name)
		}
	}
	return l
}

const units = "second, minute, hour, day, week, month or year"

func (p *parser) number(n *yaml.Node, path string) uint32 {
	if n == nil {
		return 0
	}
	var v uint32 // 1_000 and 0x3e8 too
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&v) != nil {
		p.problem(n, path, "want a whole number from 0 to %d", uint32(math.MaxUint32))
	}
	return v
}
