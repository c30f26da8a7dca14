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
	// references are the services that it needs.
	references() []reference
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
	checker  *checker // nil for a last good version
	refused  bool
}

// table is the documents in force, by key.
type table map[Key]*document

// reference is a service that a document needs, and the version of it, if not "".
type reference struct {
	path             string
	service, version string
	again            bool // the document has referred to the service before: only the version is news
}

func (r reference) key() Key {
	ref := ParseRef(r.service, "")
	return Key{Kind: "Service", Namespace: ref.Namespace, Name: ref.Name}
}

// Load makes a set of the documents in files. The problems come sorted by place; last may be nil.
//
// A document with a problem is refused: its last good version, of the set last, stays in force, and without one it is
// left out. What a last good version refers to stays as it was too, if it could not be without: a service that
// is gone, or has lost the version, keeps its last good version as well. What is new and clashes with a last good
// version in force (a host, the Route of a service, the one Mesh) is refused. The documents of a file that is no YAML
// stay as they were, but for those that another file now has. So the set is good as a whole whatever the problems are.
//
// After Load, every reference to a service is NAMESPACE/NAME, or NAME where it has no namespace.
func Load(files []File, last *Set) (*Set, []Problem) {
	l := loader{before: last.table(), read: make(table), held: make(map[Key]bool)}
	for _, f := range files {
		l.readFile(f)
	}
	l.admit()
	l.settle()
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return l.inForce.set(), l.problems
}

type loader struct {
	before     table
	documents  []*document // as read, in order
	unreadable []string    // files
	read       table       // the first document read of each key
	held       map[Key]bool
	inForce    table
	problems   []Problem
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// readFile decodes one file.
func (l *loader) readFile(f File) {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	texts := documentTexts(f.Data)
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.notYAML(f.Name, err)
			return
		}
		if len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			l.decode(f.Name, n.Content[0], texts)
		}
	}
}

// notYAML reports a file that is no YAML. What stood behind the mistake can't be known.
func (l *loader) notYAML(file string, err error) {
	p := Problem{File: file, Line: 1, Column: 1, Message: "not YAML: " + err.Error()}
	if bomb, ok := errors.AsType[*aliasError](err); ok {
		p.Line, p.Column, p.Message = bomb.at.Line, bomb.at.Column, bomb.Error()
	} else if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, e := strconv.Atoi(m[1]); e == nil {
			p.Line = line
		}
		p.Message = "not YAML: " + m[2]
	}
	l.problems = append(l.problems, p)
	l.unreadable = append(l.unreadable, file)
}

func (l *loader) decode(file string, n *yaml.Node, texts texts) {
	if err := checkAliases(n); err != nil {
		l.notYAML(file, err)
		return
	}
	dec := &decoder{file: file, places: make(map[string]*yaml.Node), zeros: make(map[string]bool)}
	d := &document{origin: Origin{File: file, Line: n.Line, text: texts.at(n.Line)}}
	d.origin.Hash, d.origin.layout = hashNode(n)
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
	d.origin.places = dec.whereabouts()
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
	}
	if len(c.problems) > 0 {
		c.known = c.problems
		d.spec.check(c)
		d.spec.defaults(d.metadata) // its references are looked up all the same
		return
	}
	d.spec.defaults(d.metadata)
	d.spec.check(c)
}

// hashNode hashes what a node says, not how it is laid out, and that apart.
func hashNode(n *yaml.Node) (says, layout uint64) {
	h, at := xxhash.New(), xxhash.New()
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		fmt.Fprintf(h, "%d %s %q %d", n.Kind, n.Tag, n.Value, len(n.Content))
		fmt.Fprintf(at, "%d %d ", n.Line, n.Column)
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(n)
	return h.Sum64(), at.Sum64()
}

// admit refuses what has another's name, and holds what an unreadable file had.
func (l *loader) admit() {
	for _, d := range l.documents {
		if d.key.Kind == "" || d.key.Name == "" { // refused already, and there is nothing to tell it by
			continue
		}
		if first, twice := l.read[d.key]; twice {
			l.refuse(d, "metadata.name", "a set has one %s, and %s has it already", d.key, first.place())
			continue
		}
		l.read[d.key] = d
	}
	for key, d := range l.before {
		if _, anew := l.read[key]; !anew && slices.Contains(l.unreadable, d.origin.File) {
			l.held[key] = true
		}
	}
}

func (d *document) place() string { return fmt.Sprintf("%s:%d", d.origin.File, d.origin.Line) }

func (l *loader) refuse(d *document, path, format string, args ...any) {
	d.checker.problem(path, "", format, args...)
	l.take(d)
}

// take refuses a document with problems, and makes them the loader's.
func (l *loader) take(d *document) {
	d.refused = true
	l.problems = append(l.problems, d.checker.problems...)
	d.checker.problems = nil
}

// settle decides what is in force. Each round refuses documents that were read, or holds last good versions, and the
// next one looks at what that leaves, until all go together. It ends, since either is done once to a document. It
// ends well, since last good versions are of one set and go together: wherever two documents don't, one was read.
func (l *loader) settle() {
	l.inForce = l.choose()
	l.referRefused()
	for l.refuseClashes() || l.refuseDangling() || l.hold() {
		l.inForce = l.choose()
	}
}

// choose gives each document that was read, or else its last good version, and what is held.
func (l *loader) choose() table {
	t := make(table, len(l.read))
	for key, d := range l.read {
		if !d.refused && !l.held[key] {
			t[key] = d
		} else if old, ok := l.before[key]; ok {
			t[key] = old
		}
	}
	for key := range l.held {
		t[key] = l.before[key]
	}
	return t
}

// news gives the documents in force that were read, in order.
func (l *loader) news(yield func(*document) bool) {
	for _, d := range l.documents {
		if l.inForce[d.key] == d && !d.refused && !yield(d) {
			return
		}
	}
}

// claim is something that only one document in force may have.
type claim struct{ path, id, complaint string }

func claims(d *document) []claim {
	switch s := d.spec.(type) {
	case *ServiceSpec:
		all := make([]claim, len(s.Hosts))
		for i, host := range s.Hosts {
			all[i] = claim{fmt.Sprintf("spec.hosts[%d]", i), "host " + host, fmt.Sprintf("the host %q is taken already, by", host)}
		}
		return all
	case *RouteSpec:
		return []claim{{"spec.service", "route " + s.Service, fmt.Sprintf("the service %q has a Route already, so put the rules together in", s.Service)}}
	}
	if single[d.key.Kind] {
		return []claim{{"metadata.name", d.key.Kind, fmt.Sprintf("a set has one %s, and has it already:", d.key.Kind)}}
	}
	return nil
}

// refuseClashes refuses documents that claim what another has: one that was read before, or a last good version.
func (l *loader) refuseClashes() (changed bool) {
	owners := make(map[string]*document)
	own := func(d *document) {
		for _, c := range claims(d) {
			owners[c.id] = d
		}
	}
	for _, d := range l.inForce {
		if d.checker == nil {
			own(d)
		}
	}
	for d := range l.news {
		for _, c := range claims(d) {
			if owner, taken := owners[c.id]; taken {
				d.checker.problem(c.path, "", "%s %s", c.complaint, owner)
			}
		}
		if len(d.checker.problems) > 0 {
			l.take(d)
			changed = true
			continue
		}
		own(d)
	}
	return changed
}

// String gives what and where it is, for complaints about others.
func (d *document) String() string {
	if d.checker == nil {
		return fmt.Sprintf("%s, whose last good version is in force", d.key)
	}
	return fmt.Sprintf("%s at %s", d.key, d.place())
}

// refuseDangling refuses documents that refer to what is not in force.
func (l *loader) refuseDangling() (changed bool) {
	for d := range l.news {
		for _, r := range d.spec.references() {
			l.dangling(d.checker, r)
		}
		if len(d.checker.problems) > 0 {
			l.take(d)
			changed = true
		}
	}
	return changed
}

// referRefused reports the references of refused documents that are wrong however the others come out: their
// authors see all mistakes at once.
func (l *loader) referRefused() {
	for _, d := range l.documents {
		if !d.refused || d.spec == nil {
			continue
		}
		for _, r := range d.spec.references() {
			if target, ok := l.read[r.key()]; !ok || !target.refused {
				l.dangling(d.checker, r)
			}
		}
		l.take(d)
	}
}

// hold holds the last good versions of what last good versions in force need and miss.
func (l *loader) hold() (changed bool) {
	for _, d := range l.inForce {
		if d.checker != nil {
			continue
		}
		for _, r := range d.spec.references() {
			key := r.key()
			if _, ok := l.before[key]; ok && !l.held[key] && !l.resolves(r) {
				l.held[key], changed = true, true
			}
		}
	}
	return changed
}

func (l *loader) resolves(r reference) bool {
	target, ok := l.inForce[r.key()]
	return ok && (r.version == "" || target.spec.(*ServiceSpec).has(r.version))
}

func (s *ServiceSpec) has(version string) bool {
	return slices.ContainsFunc(s.Versions, func(v Version) bool { return v.Name == version })
}

// dangling reports a reference to what is not in force.
func (l *loader) dangling(c *checker, r reference) {
	if r.key().Name == "" || l.resolves(r) { // none: its being missing is reported already
		return
	}
	target, ok := l.inForce[r.key()]
	if !ok && r.again {
		return
	}
	written := l.read[r.key()]
	names := make(map[string]bool)
	switch {
	case ok && target.checker == nil:
		c.problem(r.path+".version", "", "the service %q has no version %q: its last good version is in force", r.service, r.version)
	case ok:
		for _, v := range target.spec.(*ServiceSpec).Versions {
			names[v.Name] = true
		}
		c.problem(r.path+".version", closest(r.version, names), "the service %q has no version %q", r.service, r.version)
	case written != nil && written.refused:
		c.problem(r.path+".service", "", "the service %q is refused itself", r.service)
	default:
		for key := range l.inForce {
			if key.Kind == "Service" {
				names[key.Ref().String()] = true
			}
		}
		c.problem(r.path+".service", closest(r.service, names), "there is no service %q", r.service)
	}
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
