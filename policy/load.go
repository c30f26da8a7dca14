package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"go.yaml.in/yaml/v3"
)

// spec is what every kind's Spec type can do.
type spec interface {
	// defaults fills in what the document left out.
	defaults(Metadata)
	// check reports what is wrong within the document.
	check(*checker)
	// refer reports what is wrong with what it refers to, which it looks up in the table.
	refer(*checker, table)
}

var newSpec = map[string]func() spec{
	"Mesh":      func() spec { return new(MeshSpec) },
	"Gateway":   func() spec { return new(GatewaySpec) },
	"Service":   func() spec { return new(ServiceSpec) },
	"Route":     func() spec { return new(RouteSpec) },
	"RateLimit": func() spec { return new(RateLimitSpec) },
	"Sampling":  func() spec { return new(SamplingSpec) },
	"Retention": func() spec { return new(RetentionSpec) },
}

// Kinds are the kinds of document, in the order in which they are explained.
func Kinds() []string {
	return []string{"Mesh", "Gateway", "Service", "Route", "RateLimit", "Sampling", "Retention"}
}

// single are the kinds of which a set has one.
var single = map[string]bool{"Mesh": true, "Sampling": true, "Retention": true}

// document is a document of any kind.
type document struct {
	key      Key
	metadata Metadata
	origin   Origin
	spec     spec
	checker  *checker // nil for one that was good before
	refused  bool
}

// table is the documents in force, by key.
type table map[Key]*document

func serviceKey(ref string) Key {
	r := ParseRef(ref, "")
	return Key{Kind: "Service", Namespace: r.Namespace, Name: r.Name}
}

func (t table) service(ref string) *ServiceSpec {
	d := t[serviceKey(ref)]
	if d == nil {
		return nil
	}
	return d.spec.(*ServiceSpec)
}

// Load makes a set of the documents in files. A document with a problem is refused: its last good version, of the set
// last, stays in force together with what that refers to, and without one it is left out. The documents of a file
// that is no YAML at all stay as they were. last may be nil.
//
// After Load, every reference to a service is NAMESPACE/NAME, or NAME where it has no namespace. The problems come
// sorted by place.
func Load(files []File, last *Set) (*Set, []Problem) {
	l := loader{before: last.table(), inForce: make(table)}
	for _, f := range files {
		l.read(f)
	}
	l.admit()
	l.refer()
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return l.inForce.set(), l.problems
}

type loader struct {
	before    table
	documents []*document // as read, in order
	inForce   table
	problems  []Problem
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// read decodes one file.
func (l *loader) read(f File) {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.unreadable(f.Name, err)
			return
		}
		if len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			l.decode(f.Name, n.Content[0])
		}
	}
}

// unreadable reports a file that is no YAML, and keeps what it held before: whatever stood behind the mistake can't
// be known.
func (l *loader) unreadable(file string, err error) {
	p := Problem{File: file, Line: 1, Column: 1, Message: "not YAML: " + err.Error()}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, e := strconv.Atoi(m[1]); e == nil {
			p.Line = line
		}
		p.Message = "not YAML: " + m[2]
	}
	l.problems = append(l.problems, p)
	for _, d := range l.before {
		if d.origin.File == file {
			l.documents = append(l.documents, d)
		}
	}
}

func (l *loader) decode(file string, n *yaml.Node) {
	dec := &decoder{file: file, places: make(map[string]*yaml.Node)}
	d := &document{origin: Origin{File: file, Line: n.Line}}
	var specNode, metaNode *yaml.Node
	dec.pairs(n, "", func(key, value *yaml.Node) {
		dec.places[key.Value] = value
		switch key.Value {
		case "apiVersion":
			if value.Value != APIVersion {
				dec.problem(value, "apiVersion", APIVersion, "unknown apiVersion %q", value.Value)
			}
		case "kind":
			d.key.Kind = value.Value
		case "metadata":
			metaNode = value
		case "spec":
			specNode = value
		default:
			dec.problem(key, key.Value, closest(key.Value, documentFields), "unknown field")
		}
	})
	if metaNode != nil {
		dec.value(metaNode, reflect.ValueOf(&d.metadata).Elem(), "metadata")
	}
	d.key.Namespace, d.key.Name = d.metadata.Namespace, d.metadata.Name
	dec.document = d.key
	for i := range dec.problems {
		dec.problems[i].Document = d.key
	}
	d.checker = &checker{decoder: dec, root: n}
	l.decodeSpec(d, specNode)
	d.refused = len(dec.problems) > 0
	l.problems = append(l.problems, dec.problems...)
	dec.problems = nil
	l.documents = append(l.documents, d)
}

var documentFields = map[string]bool{"apiVersion": true, "kind": true, "metadata": true, "spec": true}

func (l *loader) decodeSpec(d *document, n *yaml.Node) {
	c := d.checker
	build, ok := newSpec[d.key.Kind]
	switch {
	case laterKinds[d.key.Kind]:
		c.problem("kind", "", "this version of Weir does not support the kind %s yet: remove the document", d.key.Kind)
		return
	case d.key.Kind == "":
		c.problem("kind", "", "the kind is missing: want one of %s", strings.Join(Kinds(), ", "))
		return
	case !ok:
		c.problem("kind", closest(d.key.Kind, newSpec), "unknown kind %q: want one of %s", d.key.Kind, strings.Join(Kinds(), ", "))
		return
	}
	c.name("metadata.name", d.metadata.Name)
	if d.metadata.Namespace != "" {
		c.name("metadata.namespace", d.metadata.Namespace)
	}
	d.spec = build()
	if n != nil {
		c.value(n, reflect.ValueOf(d.spec).Elem(), "spec")
		d.origin.Hash = hashNode(n)
	}
	if len(c.problems) == 0 {
		d.spec.defaults(d.metadata)
	}
	d.spec.check(c)
}

// hashNode hashes what a node says, not how it is laid out.
func hashNode(n *yaml.Node) uint64 {
	h := xxhash.New()
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		fmt.Fprintf(h, "%d %s %q %d", n.Kind, n.Tag, n.Value, len(n.Content))
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(n)
	return h.Sum64()
}

// admit puts the documents in force that are good by themselves, and the last good versions of those that are not.
func (l *loader) admit() {
	seen := make(map[Key]*document)
	first := make(map[string]*document)
	for _, d := range l.documents {
		if d.key.Kind == "" || d.key.Name == "" { // refused already, and there is nothing to tell it by
			continue
		}
		other, twice := seen[d.key]
		if !twice && single[d.key.Kind] {
			other, twice = first[d.key.Kind]
		}
		if twice {
			l.refuse(d, "metadata.name", "a set has one %s, and %s:%d has it already", d.key, other.origin.File, other.origin.Line)
			continue
		}
		seen[d.key], first[d.key.Kind] = d, d
		if d.refused {
			l.keep(d.key)
			continue
		}
		l.inForce[d.key] = d
	}
	l.uniqueHosts()
	l.oneRoute()
}

func (l *loader) refuse(d *document, path, format string, args ...any) {
	d.refused = true
	if d.checker == nil {
		return
	}
	d.checker.problem(path, "", format, args...)
	l.take(d)
}

// take moves a document's problems to the loader's.
func (l *loader) take(d *document) {
	l.problems = append(l.problems, d.checker.problems...)
	d.checker.problems = nil
}

// keep puts the last good version of a document in force, if there is one, or takes the document out of force.
func (l *loader) keep(key Key) {
	if d, ok := l.before[key]; ok {
		l.inForce[key] = d
		return
	}
	delete(l.inForce, key)
}

// inOrder gives the documents in force of a kind in the order in which they were read.
func (l *loader) inOrder(kind string) []*document {
	var all []*document
	for _, d := range l.documents {
		if d.key.Kind == kind && l.inForce[d.key] == d {
			all = append(all, d)
		}
	}
	return all
}

func (l *loader) uniqueHosts() {
	owner := make(map[string]*document)
	for _, d := range l.inOrder("Service") {
		for i, host := range d.spec.(*ServiceSpec).Hosts {
			other, taken := owner[host]
			if !taken {
				owner[host] = d
				continue
			}
			l.refuse(d, fmt.Sprintf("spec.hosts[%d]", i), "the host %q is %s's already", host, other.key)
			l.keep(d.key)
			break
		}
	}
}

func (l *loader) oneRoute() {
	owner := make(map[string]*document)
	for _, d := range l.inOrder("Route") {
		service := d.spec.(*RouteSpec).Service
		if other, taken := owner[service]; taken {
			l.refuse(d, "spec.service", "the service %q has a Route already, %s: put the rules together there", service, other.key)
			l.keep(d.key)
			continue
		}
		owner[service] = d
	}
}

// refer refuses documents that refer to what is not in force, until none is left: refusing one may take away what
// another refers to.
func (l *loader) refer() {
	for changed := true; changed; {
		refused := l.refusedKeys()
		changed = false
		for _, d := range l.documents {
			if d.refused || l.inForce[d.key] != d || d.checker == nil {
				continue
			}
			d.checker.refused = refused
			d.spec.refer(d.checker, l.inForce)
			if len(d.checker.problems) == 0 {
				continue
			}
			d.refused, changed = true, true
			l.take(d)
			l.keep(d.key)
		}
	}
	l.keepReferred()
}

func (l *loader) refusedKeys() map[Key]bool {
	keys := make(map[Key]bool)
	for _, d := range l.documents {
		if d.refused {
			keys[d.key] = true
		}
	}
	return keys
}

// keepReferred gives documents that stay in force from before what they refer to, of before as well.
func (l *loader) keepReferred() {
	for key, d := range l.inForce {
		if l.before[key] != d {
			continue
		}
		c := &checker{decoder: &decoder{places: map[string]*yaml.Node{}}, root: &yaml.Node{}}
		d.spec.refer(c, l.inForce)
		if len(c.problems) == 0 {
			continue
		}
		for _, ref := range references(d.spec) {
			l.keep(serviceKey(ref))
		}
	}
}

func references(s spec) []string {
	switch s := s.(type) {
	case *RouteSpec:
		all := []string{s.Service}
		for _, r := range s.Rules {
			for _, to := range r.To {
				all = append(all, to.Service)
			}
		}
		return all
	case *RateLimitSpec:
		return []string{s.Service}
	}
	return nil
}

// table is the set by key; of nil, an empty one.
func (s *Set) table() table {
	t := make(table)
	if s == nil {
		return t
	}
	fill(t, "Mesh", []*Document[MeshSpec]{s.Mesh}, func(d *MeshSpec) spec { return d })
	fill(t, "Gateway", s.Gateways, func(d *GatewaySpec) spec { return d })
	fill(t, "Service", s.Services, func(d *ServiceSpec) spec { return d })
	fill(t, "Route", s.Routes, func(d *RouteSpec) spec { return d })
	fill(t, "RateLimit", s.RateLimits, func(d *RateLimitSpec) spec { return d })
	fill(t, "Sampling", []*Document[SamplingSpec]{s.Sampling}, func(d *SamplingSpec) spec { return d })
	fill(t, "Retention", []*Document[RetentionSpec]{s.Retention}, func(d *RetentionSpec) spec { return d })
	return t
}

func fill[S any](t table, kind string, documents []*Document[S], asSpec func(*S) spec) {
	for _, d := range documents {
		if d.Metadata.Name == "" { // the default, which nobody wrote
			continue
		}
		key := Key{Kind: kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}
		t[key] = &document{key: key, metadata: d.Metadata, origin: d.Origin, spec: asSpec(&d.Spec)}
	}
}

func (t table) set() *Set {
	return &Set{
		Mesh:       oneOf[MeshSpec](t, "Mesh"),
		Gateways:   allOf[GatewaySpec](t, "Gateway"),
		Services:   allOf[ServiceSpec](t, "Service"),
		Routes:     allOf[RouteSpec](t, "Route"),
		RateLimits: allOf[RateLimitSpec](t, "RateLimit"),
		Sampling:   oneOf[SamplingSpec](t, "Sampling"),
		Retention:  oneOf[RetentionSpec](t, "Retention"),
	}
}

func allOf[S any](t table, kind string) []*Document[S] {
	var all []*Document[S]
	for key, d := range t {
		if key.Kind == kind {
			s := any(d.spec).(*S)
			all = append(all, &Document[S]{Metadata: d.metadata, Origin: d.origin, Spec: *s})
		}
	}
	slices.SortFunc(all, func(a, b *Document[S]) int { return compareRefs(a.Ref(), b.Ref()) })
	return all
}

// oneOf gives the only document of a kind, or one of all defaults.
func oneOf[S any](t table, kind string) *Document[S] {
	if all := allOf[S](t, kind); len(all) > 0 {
		return all[0]
	}
	s := newSpec[kind]()
	s.defaults(Metadata{})
	return &Document[S]{Spec: *any(s).(*S)}
}

// String gives FILE:LINE:COLUMN: KIND NAMESPACE/NAME: PATH: MESSAGE (did you mean "X"?).
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Document.Name != "" {
		b.WriteString(p.Document.String() + ": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.DidYouMean != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", p.DidYouMean)
	}
	return b.String()
}
