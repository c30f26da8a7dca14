package policy

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/internal/parallel"
	"github.com/machinenativeops/weir/internal/sorted"
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

// table is documents by key.
type table = sorted.Map[Key, *document]

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
//
// What was made of files that are as they were when last was loaded is taken over, so that an edit costs what depends on it.
func Load(files []File, last *Set) (*Set, []Problem) {
	before := last.read()
	read, touched, come := before.next(files)
	l := loader{readings: read, before: last.table(), held: make(map[Key]bool), refused: maps.Clone(read.wrong)}
	if l.refused == nil {
		l.refused = make(map[*document]bool)
	}
	for p := range read.troubled {
		for i := range p.pieces {
			l.problems = append(l.problems, p.pieces[i].problems...)
		}
	}
	l.admit()
	l.missing(touched, come, before.needed)
	l.holdUnreadable()
	l.settle()
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message), a.Document.Compare(b.Document))
	})
	return l.set(last, touched), l.problems
}

func (s *Set) read() *readings {
	if s == nil || s.readings == nil {
		return newReadings()
	}
	return s.readings
}

// loader decides what is in force. It looks at documents that are amiss, that have something in common with others, or of
// which a last good version is in force, and at what those concern: all others are in force as they were read.
type loader struct {
	*readings
	before   *table
	firsts   map[Key]*document // of names that several have, the one that was read first
	refused  map[*document]bool
	held     map[Key]bool
	instead  map[Key]*document // what is in force where it is not what was read; nil: nothing
	problems []Problem
}

// read gives the first document read of a name, or nil.
func (l *loader) read(key Key) *document {
	if first, several := l.firsts[key]; several {
		return first
	}
	if g, ok := l.named.Get(key); ok {
		return (*g)[0]
	}
	return nil
}

// inForce gives what is in force of a name, or nil.
func (l *loader) inForce(key Key) *document {
	if d, other := l.instead[key]; other {
		return d
	}
	return l.read(key)
}

// admit refuses what has another's name.
func (l *loader) admit() {
	l.firsts = make(map[Key]*document, len(l.sameName))
	for key := range l.sameName {
		g, _ := l.named.Get(key)
		all := l.inPlace(slices.Clone(*g))
		l.firsts[key] = all[0]
		for _, d := range all[1:] {
			l.refuse(d, "metadata.name", "a set has one %s, and %s has it already", d.key, all[0].place())
		}
	}
}

// missing notes which documents need what was not read: of those that have come, or that need what has come or gone.
func (l *loader) missing(touched []sorted.Edit[Key, *group], come []*document, before *sorted.Map[Key, *group]) {
	concerned := make(map[*document]bool, len(come))
	for _, d := range come {
		if len(d.needs) > 0 && d.named() {
			concerned[d] = true
		}
	}
	concern := func(key Key) {
		if _, ok := before.Get(key); !ok {
			return // who needs it has come just now
		}
		if g, ok := l.needed.Get(key); ok {
			for _, d := range *g {
				concerned[d] = true
			}
		}
	}
	for _, edit := range touched {
		concern(edit.Key)
	}
	for key := range l.sameName {
		concern(key)
	}
	amiss := make(map[*document]bool, len(l.amiss))
	for d := range l.amiss {
		if g, ok := l.named.Get(d.key); ok && slices.Contains(*g, d) && !concerned[d] {
			amiss[d] = true
		}
	}
	all := slices.Collect(maps.Keys(concerned))
	lacks := make([]bool, len(all))
	parallel.Runs(len(all), 1000, func(from, to int) {
		for i := from; i < to; i++ {
			lacks[i] = l.lacks(all[i])
		}
	})
	for i, d := range all {
		if lacks[i] {
			amiss[d] = true
		}
	}
	l.amiss = amiss
}

// lacks says whether a document needs what was not read.
func (l *loader) lacks(d *document) bool {
	var service string
	var target *document // of that
	return slices.ContainsFunc(d.needs, func(r reference) bool {
		if r.service != service || target == nil {
			service, target = r.service, l.read(r.key())
		}
		return !r.resolvedBy(target)
	})
}

// holdUnreadable holds what files had that are no YAML now.
func (l *loader) holdUnreadable() {
	unreadable := make(map[string]bool)
	for p := range l.troubled {
		if slices.ContainsFunc(p.pieces, func(one piece) bool { return one.unreadable }) {
			unreadable[p.name] = true
		}
	}
	if len(unreadable) == 0 {
		return
	}
	for key, d := range l.before.All() {
		if unreadable[d.origin.File] && l.read(key) == nil {
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
		decoder: &decoder{file: d.origin.File, document: d.key, places: d.origin.places},
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
	return l.held[d.key] || l.refused[d] || l.read(d.key) != d
}

// isNew says whether a document is in force because it was read.
func (l *loader) isNew(d *document) bool { return l.inForce(d.key) == d && !l.isLast(d) }

// lasts gives the last good versions in force.
func (l *loader) lasts(yield func(*document) bool) {
	for _, d := range l.instead {
		if d != nil && l.isLast(d) && !yield(d) {
			return
		}
	}
}

// settle decides what is in force. Each round refuses documents that were read, or holds last good versions, and the
// next one looks at what that leaves, until all go together. It ends, since either is done once to a document. It
// ends well, since last good versions are of one set and go together: wherever two documents don't, one was read.
func (l *loader) settle() {
	l.choose()
	l.referRefused()
	for l.refuseClashes() || l.refuseDangling() || l.hold() {
		l.choose()
	}
}

// choose takes last good versions, where there are any, in the place of what is refused, and what is held.
func (l *loader) choose() {
	l.instead = make(map[Key]*document, len(l.refused)+len(l.held))
	for d := range l.refused {
		if d.named() && l.read(d.key) == d {
			l.instead[d.key], _ = l.before.Get(d.key)
		}
	}
	for key := range l.held {
		l.instead[key], _ = l.before.Get(key)
	}
}

// claim is something that only one document in force may have.
type claim struct{ what, name string }

func compareClaims(a, b claim) int {
	if a.what != b.what {
		return strings.Compare(a.what, b.what)
	}
	return strings.Compare(a.name, b.name)
}

// What is claimed.
const (
	aHost      = "host"
	aRoute     = "route"        // of a service
	aSubset    = "subset"       // what is balanced over as one, by its name
	theOnlyOne = "the only one" // of a kind
)

func claims(d *document) []claim {
	switch s := d.spec.(type) {
	case *ServiceSpec:
		all := make([]claim, 0, len(s.Hosts)+1)
		for _, host := range s.Hosts {
			all = append(all, claim{aHost, host})
		}
		if d.key.Namespace != "" {
			return append(all, claim{aSubset, d.key.Ref().String()})
		}
		for _, v := range s.Versions {
			all = append(all, claim{aSubset, d.key.Name + "/" + v.Name})
		}
		return all
	case *RouteSpec:
		return []claim{{aRoute, s.Service}}
	}
	if single[d.key.Kind] {
		return []claim{{theOnlyOne, d.key.Kind}}
	}
	return nil
}

// complaint says where a document makes the i-th of its claims, and what is wrong with it if another has made it.
func (d *document) complaint(i int) (path, complaint string) {
	switch c := d.claims[i]; c.what {
	case aHost:
		return item("spec.hosts", i), fmt.Sprintf("the host %q is taken already, by", c.name)
	case aSubset:
		path = "metadata.name"
		if s := d.spec.(*ServiceSpec); d.key.Namespace == "" {
			path = item("spec.versions", i-len(s.Hosts)) + ".name"
		}
		return path, fmt.Sprintf("proxies would know it as %q, as they do another one, which would be sent its requests: call it otherwise than", c.name)
	case aRoute:
		return "spec.service", fmt.Sprintf("the service %q has a Route already, so put the rules together in", c.name)
	default:
		return "metadata.name", fmt.Sprintf("a set has one %s, and has it already:", c.name)
	}
}

// refuseClashes refuses documents that claim what another has: one that was read before, or a last good version.
func (l *loader) refuseClashes() (changed bool) {
	owners, concerned := make(map[claim]*document), make(map[*document]bool)
	concern := func(id claim) {
		if g, ok := l.claimed.Get(id); ok {
			for _, d := range *g {
				concerned[d] = true
			}
		}
	}
	for d := range l.lasts {
		for _, c := range d.claims {
			owners[c] = d
			concern(c)
		}
	}
	for id := range l.sameClaim {
		concern(id)
	}
	maps.DeleteFunc(concerned, func(d *document, _ bool) bool { return !l.isNew(d) })
	for _, d := range l.inPlace(slices.Collect(maps.Keys(concerned))) {
		c := d.checker()
		for i, claimed := range d.claims {
			if owner, taken := owners[claimed]; taken {
				path, complaint := d.complaint(i)
				c.problem(path, "", "%s %s", complaint, l.describe(owner))
			}
		}
		if l.take(d, c) {
			changed = true
			continue
		}
		for _, claimed := range d.claims {
			owners[claimed] = d
		}
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
	concerned := maps.Clone(l.amiss)
	for key := range l.instead {
		if g, ok := l.needed.Get(key); ok {
			for _, d := range *g {
				concerned[d] = true
			}
		}
	}
	for d := range concerned {
		if !l.isNew(d) {
			continue
		}
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
	for _, d := range slices.Collect(maps.Keys(l.refused)) {
		if d.spec == nil {
			continue
		}
		c := d.checker()
		for _, r := range d.needs {
			if target := l.read(r.key()); target == nil || !l.refused[target] {
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
			if _, ok := l.before.Get(key); ok && !l.held[key] && !l.resolves(r) {
				l.held[key], changed = true, true
			}
		}
	}
	return changed
}

func (l *loader) resolves(r reference) bool { return r.resolvedBy(l.inForce(r.key())) }

// resolvedBy says whether a service, which may be nil, is all that the reference is to.
func (r reference) resolvedBy(target *document) bool {
	if target == nil {
		return false
	}
	s, ok := target.spec.(*ServiceSpec)
	return r.version == "" || ok && s.has(r.version)
}

func (s *ServiceSpec) has(version string) bool {
	return slices.ContainsFunc(s.Versions, func(v Version) bool { return v.Name == version })
}

// dangling reports a reference to what is not in force.
func (l *loader) dangling(c *checker, r reference) {
	if r.key().Name == "" || l.resolves(r) { // none: its being missing is reported already
		return
	}
	target := l.inForce(r.key())
	if target == nil && r.again {
		return
	}
	written := l.read(r.key())
	names := make(map[string]bool)
	switch {
	case target != nil && l.isLast(target):
		c.problem(r.path+".version", "", "the service %q has no version %q: its last good version is in force", r.service, r.version)
	case target != nil:
		for _, v := range target.spec.(*ServiceSpec).Versions {
			names[v.Name] = true
		}
		c.problem(r.path+".version", closest(r.version, names), "the service %q has no version %q", r.service, r.version)
	case written != nil && l.refused[written]:
		c.problem(r.path+".service", "", "the service %q is refused itself", r.service)
	default:
		for key := range l.services {
			names[key.Ref().String()] = true
		}
		c.problem(r.path+".service", closest(r.service, names), "there is no service %q", r.service)
	}
}

// services gives the names of the services in force.
func (l *loader) services(yield func(Key) bool) {
	for key := range l.named.All() {
		if key.Kind == "Service" && l.inForce(key) != nil && !yield(key) {
			return
		}
	}
	for key, d := range l.instead {
		if key.Kind == "Service" && d != nil && l.read(key) == nil && !yield(key) {
			return
		}
	}
}

// table is the set by key; of nil, an empty one.
func (s *Set) table() *table {
	if s != nil && s.inForce != nil {
		return s.inForce
	}
	t := make(map[Key]*document)
	if s != nil {
		fill(t, "Mesh", []*Document[MeshSpec]{s.Mesh}, func(d *MeshSpec) spec { return d })
		fill(t, "Gateway", s.Gateways, func(d *GatewaySpec) spec { return d })
		fill(t, "Service", s.Services, func(d *ServiceSpec) spec { return d })
		fill(t, "Route", s.Routes, func(d *RouteSpec) spec { return d })
		fill(t, "RateLimit", s.RateLimits, func(d *RateLimitSpec) spec { return d })
		fill(t, "Sampling", []*Document[SamplingSpec]{s.Sampling}, func(d *SamplingSpec) spec { return d })
		fill(t, "Retention", []*Document[RetentionSpec]{s.Retention}, func(d *RetentionSpec) spec { return d })
	}
	return sorted.NewMap[Key, *document](Key.Compare).Edited(sorted.Edits(t, Key.Compare))
}

func fill[S any](t map[Key]*document, kind string, documents []*Document[S], asSpec func(*S) spec) {
	for _, d := range documents {
		if d.Metadata.Name == "" { // the default, which nobody wrote
			continue
		}
		key := Key{Kind: kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}
		one := &document{key: key, metadata: d.Metadata, origin: d.Origin, spec: asSpec(&d.Spec), public: d}
		t[key] = one.index()
	}
}

// set makes the set, of the last one where Load made that. touched are names of which something was read, or is not any
// more.
func (l *loader) set(last *Set, touched []sorted.Edit[Key, *group]) *Set {
	if last == nil || last.inForce == nil {
		last = &Set{inForce: sorted.NewMap[Key, *document](Key.Compare)}
	}
	edits := l.edits(last, touched)
	set := &Set{
		instead: l.instead, readings: l.readings,
		Mesh:       oneOf(last.Mesh, "Mesh", edits),
		Gateways:   allOf(last.Gateways, "Gateway", edits),
		RateLimits: allOf(last.RateLimits, "RateLimit", edits),
		Sampling:   oneOf(last.Sampling, "Sampling", edits),
		Retention:  oneOf(last.Retention, "Retention", edits),
	}
	parallel.Do(
		func() { set.inForce = last.inForce.Edited(edits) },
		func() {
			set.Services = allOf(last.Services, "Service", edits)
			set.Routes = allOf(last.Routes, "Route", edits)
		},
	)
	return set
}

// edits gives what is in force now and was not, or was and is not any more, sorted by key.
func (l *loader) edits(last *Set, touched []sorted.Edit[Key, *group]) []sorted.Edit[Key, *document] {
	edits := make([]sorted.Edit[Key, *document], 0, len(touched))
	look := func(key Key, d *document) {
		if was, _ := last.inForce.Get(key); d != was {
			edits = append(edits, sorted.Edit[Key, *document]{Key: key, Value: d, Gone: d == nil})
		}
	}
	others := make(map[Key]bool) // that are not simply what was read
	for _, some := range []iter.Seq[Key]{
		maps.Keys(l.instead), maps.Keys(last.instead), maps.Keys(l.sameName), maps.Keys(last.read().sameName),
	} {
		for key := range some {
			others[key] = true
		}
	}
	for _, edit := range touched {
		switch {
		case others[edit.Key]:
		case edit.Gone:
			look(edit.Key, nil)
		default:
			look(edit.Key, (*edit.Value)[0])
		}
	}
	for key := range others {
		look(key, l.inForce(key))
	}
	slices.SortFunc(edits, func(a, b sorted.Edit[Key, *document]) int { return a.Key.Compare(b.Key) })
	return edits
}

// allOf gives the documents of a kind, of those that there were.
func allOf[S any](last []*Document[S], kind string, edits []sorted.Edit[Key, *document]) []*Document[S] {
	edits = ofKind(edits, kind)
	of := make([]sorted.Edit[Ref, *Document[S]], 0, len(edits))
	for _, edit := range edits {
		one := sorted.Edit[Ref, *Document[S]]{Key: edit.Key.Ref(), Gone: edit.Gone}
		if !edit.Gone {
			one.Value = edit.Value.public.(*Document[S])
		}
		of = append(of, one)
	}
	return sorted.Edited(last, of, func(d *Document[S], r Ref) int { return d.Ref().Compare(r) })
}

// ofKind gives the edits of documents of a kind.
func ofKind(edits []sorted.Edit[Key, *document], kind string) []sorted.Edit[Key, *document] {
	byKind := func(e sorted.Edit[Key, *document], kind string) int { return strings.Compare(e.Key.Kind, kind) }
	from, _ := slices.BinarySearchFunc(edits, kind, byKind)
	edits = edits[from:]
	if to := slices.IndexFunc(edits, func(e sorted.Edit[Key, *document]) bool { return e.Key.Kind != kind }); to >= 0 {
		edits = edits[:to]
	}
	return edits
}

// oneOf gives the only document of a kind, or one of all defaults.
func oneOf[S any](last *Document[S], kind string, edits []sorted.Edit[Key, *document]) *Document[S] {
	var before []*Document[S]
	if last != nil && last.Metadata.Name != "" {
		before = append(before, last)
	}
	all := allOf(before, kind, edits)
	switch {
	case len(all) > 0:
		return all[0]
	case last != nil && last.Metadata.Name == "":
		return last
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
