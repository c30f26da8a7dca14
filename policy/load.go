package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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

// document is a document of any kind. It is immutable, and many sets share it.
type document struct {
	key      Key
	metadata Metadata
	origin   Origin
	spec     spec
	column   int       // where it begins, on the origin's line
	wrong    bool      // it has problems by itself
	known    []Problem // of decoding: what they are about is not complained of again
	claims   []claim
	needs    []reference
	public   any // as it is in sets: the *Document of its kind
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
	l := loader{before: last.table(), read: make(table, len(files)), held: make(map[Key]bool), refused: make(map[*document]bool)}
	read, byName := parseFiles(files, last)
	for _, p := range read {
		l.add(p)
	}
	l.admit()
	l.settle()
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	set := l.inForce.set()
	set.read = byName
	return set, l.problems
}

type loader struct {
	before     table
	documents  []*document // as read, in order
	unreadable []string    // files
	read       table       // the first document read of each key
	refused    map[*document]bool
	held       map[Key]bool
	inForce    table
	problems   []Problem
}

func (l *loader) add(p *parsed) {
	for i := range p.pieces {
		one := &p.pieces[i]
		l.problems = append(l.problems, one.problems...)
		if one.unreadable {
			l.unreadable = append(l.unreadable, p.name)
		}
		if one.document != nil {
			l.documents = append(l.documents, one.document)
			if one.document.wrong {
				l.refused[one.document] = true
			}
		}
	}
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
	if len(l.unreadable) == 0 {
		return
	}
	for key, d := range l.before {
		if _, anew := l.read[key]; !anew && slices.Contains(l.unreadable, d.origin.File) {
			l.held[key] = true
		}
	}
}

// index notes what the document claims and needs of others.
func (d *document) index() *document {
	if d.spec != nil {
		d.claims, d.needs = claims(d), d.spec.references()
	}
	return d
}

func (d *document) place() string { return fmt.Sprintf("%s:%d", d.origin.File, d.origin.Line) }

func (l *loader) refuse(d *document, path, format string, args ...any) {
	c := d.checker()
	c.problem(path, "", format, args...)
	l.take(d, c)
}

// checker is for mistakes that show only beside other documents.
func (d *document) checker() *checker {
	return &checker{
		decoder: &decoder{file: d.origin.File, document: d.key, places: *d.origin.places},
		root:    Place{Line: d.origin.Line, Column: d.column}, known: d.known,
	}
}

// take refuses a document if there are problems, and makes them the loader's.
func (l *loader) take(d *document, c *checker) (refused bool) {
	if len(c.problems) == 0 {
		return false
	}
	l.refused[d] = true
	l.problems = append(l.problems, c.problems...)
	return true
}

// isLast says whether a document in force is there as a last good version, and not because it was read.
func (l *loader) isLast(d *document) bool {
	return l.held[d.key] || l.refused[d] || l.read[d.key] != d
}

// lasts gives the last good versions in force.
func (l *loader) lasts(yield func(*document) bool) {
	if len(l.held)+len(l.refused) == 0 { // nothing but what was read
		return
	}
	for _, d := range l.inForce {
		if l.isLast(d) && !yield(d) {
			return
		}
	}
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
		if !l.refused[d] && !l.held[key] {
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
		if l.inForce[d.key] == d && !l.isLast(d) && !yield(d) {
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
		for _, c := range d.claims {
			owners[c.id] = d
		}
	}
	for d := range l.lasts {
		own(d)
	}
	for d := range l.news {
		c := d.checker()
		for _, claimed := range d.claims {
			if owner, taken := owners[claimed.id]; taken {
				c.problem(claimed.path, "", "%s %s", claimed.complaint, l.describe(owner))
			}
		}
		if l.take(d, c) {
			changed = true
			continue
		}
		own(d)
	}
	return changed
}

// describe gives what and where a document is, for complaints about others.
func (l *loader) describe(d *document) string {
	if l.isLast(d) {
		return fmt.Sprintf("%s, whose last good version is in force", d.key)
	}
	return fmt.Sprintf("%s at %s", d.key, d.place())
}

// refuseDangling refuses documents that refer to what is not in force.
func (l *loader) refuseDangling() (changed bool) {
	for d := range l.news {
		c := d.checker()
		for _, r := range d.needs {
			l.dangling(c, r)
		}
		if l.take(d, c) {
			changed = true
		}
	}
	return changed
}

// referRefused reports the references of refused documents that are wrong however the others come out: their
// authors see all mistakes at once.
func (l *loader) referRefused() {
	for _, d := range l.documents {
		if !l.refused[d] || d.spec == nil {
			continue
		}
		c := d.checker()
		for _, r := range d.needs {
			if target, ok := l.read[r.key()]; !ok || !l.refused[target] {
				l.dangling(c, r)
			}
		}
		l.take(d, c)
	}
}

// hold holds the last good versions of what last good versions in force need and miss.
func (l *loader) hold() (changed bool) {
	for d := range l.lasts {
		for _, r := range d.needs {
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
	case ok && l.isLast(target):
		c.problem(r.path+".version", "", "the service %q has no version %q: its last good version is in force", r.service, r.version)
	case ok:
		for _, v := range target.spec.(*ServiceSpec).Versions {
			names[v.Name] = true
		}
		c.problem(r.path+".version", closest(r.version, names), "the service %q has no version %q", r.service, r.version)
	case written != nil && l.refused[written]:
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
	if s == nil {
		return table{}
	}
	if s.inForce != nil {
		return s.inForce
	}
	t := make(table)
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
		one := &document{key: key, metadata: d.Metadata, origin: d.Origin, spec: asSpec(&d.Spec), public: d}
		t[key] = one.index()
	}
}

func (t table) set() *Set {
	return &Set{
		inForce:    t,
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
			all = append(all, d.public.(*Document[S]))
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
