package serve

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinenativeops/weir/xds"
)

// subscription is what a stream wants of one type, and what it has. It decides; the stream acts.
//
// What it names and has is kept as the difference to a shelf, its base: a proxy that is in order with it, as nearly all
// are nearly always, takes no memory for a thousand names.
type subscription struct {
	// What is looked at each time that something may have changed stands first, together: thousands are looked at in turn.
	kind     kind
	asked    bool // the proxy has asked for this type
	named    bool // it has ever named anything: having named nothing means everything until then
	wildcard bool
	every    bool // it names what the base has, but for:
	// filled: what the proxy has, or is being sent, of the names that it covers is what the base has; else it has nothing.
	filled   bool
	greet    bool // the proxy waits for a response even if there is nothing to send
	doubtAll bool // see doubted

	base   *shelf
	flight *flight          // the response that is not answered yet, or nil
	diff   map[string]*item // but for these; nil: it has nothing; absent: it was told that there is no such thing
	// Invariant: once filled, a name for which something is to be done is due.
	due map[string]bool
	but map[string]bool // names on the base that it does not name

	extra map[string]bool // names that it names beside
	claim string          // the version of everything that the proxy says it has; "" once that is dealt with
	alone map[string]bool // to be sent one at a time: which of them is to blame for a refusal is not known
	// What the proxy will say that it has of these (or all) names and namespaces is not to be believed. Only until it asks.
	doubted map[string]bool

	nack *NACK // the last
}

// flight is a response that is not answered yet.
type flight struct {
	nonce string // not to be guessed: who has not read it can not answer, and be sent more
	at    time.Time
	items []*item  // may be a shelf's
	had   []*item  // what the proxy had in place of each; nil: nothing
	gone  []string // the names removed
	was   []*item  // what the proxy had of each
	again bool     // known refused ones were sent along
	whole *shelf   // all of whose items these are; nil: of none
}

func newSubscription(k kind) subscription {
	return subscription{kind: k, base: empties[k]}
}

func put[V any](m *map[string]V, name string, v V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[name] = v
}

// names says whether the proxy has named it.
func (sub *subscription) names(name string) bool {
	if sub.every && sub.base.item(name) != nil {
		return !sub.but[name]
	}
	return sub.extra[name]
}

func (sub *subscription) covers(name string) bool { return sub.wildcard || sub.names(name) }

// coversAll says whether all of the base is covered, with nothing to be looked up.
func (sub *subscription) coversAll() bool { return sub.wildcard || sub.every && len(sub.but) == 0 }

// covered gives what the base has of what is covered, sorted by name: the base's own list where that is all.
func (sub *subscription) covered() []*item {
	if sub.coversAll() {
		return sub.base.list
	}
	var all []*item
	if sub.every {
		for _, i := range sub.base.list {
			if !sub.but[i.name] {
				all = append(all, i)
			}
		}
		return all
	}
	for name := range sub.extra {
		if i := sub.base.item(name); i != nil {
			all = append(all, i)
		}
	}
	sortItems(all)
	return all
}

func sortItems(items []*item) {
	slices.SortFunc(items, func(a, b *item) int { return cmp.Compare(a.name, b.name) })
}

// implied is what the proxy has of a name that is not in diff.
func (sub *subscription) implied(name string) *item {
	if !sub.filled || !sub.covers(name) {
		return nil
	}
	return sub.base.item(name)
}

// has gives what the proxy has or is being sent of a name; absent, where it was told that there is no such thing; nil:
// nothing.
func (sub *subscription) has(name string) *item {
	if i, ok := sub.diff[name]; ok {
		return i
	}
	return sub.implied(name)
}

// holds says whether the proxy has some version of a name, or is being sent one.
func (sub *subscription) holds(name string) bool {
	had := sub.has(name)
	return had != nil && had != absent
}

// set notes what the proxy has of a name; nil: nothing.
func (sub *subscription) set(name string, i *item) {
	if i == sub.implied(name) {
		delete(sub.diff, name)
	} else {
		put(&sub.diff, name, i)
	}
}

// all gives what the proxy has, with what stands for it.
func (sub *subscription) all(yield func(string, *item) bool) {
	for name, i := range sub.diff {
		if i != nil && !yield(name, i) {
			return
		}
	}
	if !sub.filled {
		return
	}
	for _, i := range sub.covered() {
		if _, other := sub.diff[i.name]; !other && !yield(i.name, i) {
			return
		}
	}
}

// version is of all that the proxy has.
func (sub *subscription) version() (sum uint64) {
	if sub.filled {
		sum = sub.coveredSum()
	}
	for name, i := range sub.diff {
		if i != nil {
			sum += i.hash
		}
		if instead := sub.implied(name); instead != nil {
			sum -= instead.hash
		}
	}
	return sum
}

// coveredSum is of the hashes of what the base has of what is covered.
func (sub *subscription) coveredSum() uint64 {
	if sub.coversAll() {
		return sub.base.sum
	}
	var sum uint64
	for _, i := range sub.covered() {
		sum += i.hash
	}
	return sum
}

// doubt makes a name due whatever the proxy was sent before.
func (sub *subscription) doubt(name string) {
	put(&sub.due, name, true)
	if sub.holds(name) {
		sub.set(name, unsure(sub.kind, name))
	} else {
		sub.set(name, nil)
	}
}

// take notes what a request subscribes to, of what a shelf has.
func (sub *subscription) take(r *request, s *shelf) {
	first := !sub.asked
	sub.asked = true
	sub.rebase(s)
	// Envoy asks for virtual hosts without naming any, and gives each to the route configuration that it belongs to.
	canWild := r.kind == clusterKind || r.kind == listenerKind || r.kind == virtualHostKind
	if len(r.subscribe) > 0 && !sub.named {
		sub.named = true
		sub.setWildcard(false)
	}
	if first && !sub.named && canWild {
		sub.setWildcard(true)
	}
	sub.subscribe(r.subscribe)
	for _, name := range r.unsubscribe {
		sub.unsubscribe(name)
	}
	if first {
		sub.resume(r)
	}
}

// setWildcard changes what is covered, and not what the proxy has.
func (sub *subscription) setWildcard(on bool) {
	if sub.wildcard == on {
		return
	}
	had := make(map[string]*item)
	if sub.filled {
		for _, i := range sub.base.list {
			if !sub.names(i.name) {
				had[i.name] = sub.has(i.name)
			}
		}
	}
	sub.wildcard = on
	for name, i := range had {
		sub.set(name, i)
		put(&sub.due, name, true)
	}
}

func (sub *subscription) subscribe(names []string) {
	if !sub.filled && !sub.every && len(sub.extra) == 0 && len(names) > 1 {
		sub.nameMany(names)
		return
	}
	for _, name := range names {
		if name == "*" {
			sub.setWildcard(true)
			continue
		}
		sub.name(name, true)
		sub.doubt(name) // asked again means needed again
	}
}

// name makes a name one that the proxy names, or not, and leaves what it has.
func (sub *subscription) name(name string, on bool) {
	had := sub.has(name)
	onBase := sub.every && sub.base.item(name) != nil
	switch {
	case onBase && on:
		delete(sub.but, name)
	case onBase:
		put(&sub.but, name, true)
		delete(sub.extra, name)
	case on:
		put(&sub.extra, name, true)
	default:
		delete(sub.extra, name)
	}
	sub.set(name, had)
}

// nameMany takes the first names, of a proxy that has nothing. They are most of the base's, as a rule.
func (sub *subscription) nameMany(names []string) {
	seen, place := make([]bool, len(sub.base.list)), sub.base.place()
	hits := 0
	for _, name := range names {
		switch at, ok := place[name]; {
		case name == "*":
			sub.setWildcard(true)
		case !ok:
			put(&sub.extra, name, true)
			put(&sub.due, name, true)
		case !seen[at]:
			seen[at] = true
			hits++
		}
	}
	sub.every = 2*hits > len(seen)
	for at, named := range seen {
		switch name := sub.base.list[at].name; {
		case sub.every && !named:
			put(&sub.but, name, true)
		case !sub.every && named:
			put(&sub.extra, name, true)
		}
	}
}

func (sub *subscription) unsubscribe(name string) {
	if name == "*" {
		sub.setWildcard(false)
		return
	}
	sub.name(name, false)
	sub.doubt(name) // a wildcard that still covers it is answered with it
}

// resume believes a proxy what it has from an earlier stream.
func (sub *subscription) resume(r *request) {
	sub.greet = sub.wildcard && len(r.initial) == 0
	sub.claim = string(r.version)
	if sub.doubtAll {
		sub.claim = ""
		return
	}
	if len(r.initial) == 0 {
		return
	}
	known := 0
	sub.filled = true
	for _, i := range sub.covered() {
		version, ok := r.initial[i.name]
		if ok {
			known++
		}
		switch {
		case !ok || sub.doubted[i.name] || sub.doubted[xds.Namespace(i.name)]:
			sub.set(i.name, nil)
		case version == i.version:
			i.take() // that the proxy has it says that it took it
			continue
		default:
			sub.set(i.name, claimed(sub.kind, i.name, version))
		}
		put(&sub.due, i.name, true)
	}
	sub.doubted = nil
	if known == len(r.initial) {
		return
	}
	for name, version := range r.initial {
		if sub.base.item(name) == nil || !sub.covers(name) {
			name = strings.Clone(name) // and not all that the request said with it
			sub.set(name, claimed(sub.kind, name, version))
			put(&sub.due, name, true)
		}
	}
}

// recall believes a state-of-the-world proxy that it has everything already, if its version says so; else it may have
// anything.
func (sub *subscription) recall() {
	if sub.claim == "" {
		return
	}
	all := sub.covered()
	same := strconv.FormatUint(sub.coveredSum(), 16) == sub.claim
	sub.claim, sub.filled = "", true
	sub.greet = sub.greet && !same
	for _, i := range all {
		if same && !sub.doubted[i.name] {
			i.take()
			continue
		}
		sub.set(i.name, unsure(sub.kind, i.name))
		put(&sub.due, i.name, true)
	}
	for name := range sub.base.held {
		if sub.covers(name) {
			sub.set(name, unsure(sub.kind, name))
			put(&sub.due, name, true)
		}
	}
	sub.doubted = nil
}

// inOrder says whether nothing is to be done: the proxy has what the base has of what it covers, or what is held in its place.
func (sub *subscription) inOrder() bool { return sub.filled && len(sub.due) == 0 && sub.claim == "" }

// follows says whether all that is to be done for a shelf is to send what is new on it: the proxy has all that the base
// has and no more, and there is another version of some of it. That is so nearly always, and takes no map.
func (sub *subscription) follows(s *shelf) bool {
	return s.was != nil && s.before == sub.base.id && sub.inOrder() && sub.coversAll() &&
		len(sub.diff) == 0 && len(sub.alone) == 0
}

// follow makes the shelf the base, and gives what is new on it to be sent.
func (sub *subscription) follow(s *shelf) *flight {
	sub.base = s
	return &flight{items: s.now, had: s.was}
}

// rebase tells what the proxy names and has by another shelf, and makes due what is not the same there.
func (sub *subscription) rebase(s *shelf) {
	old := sub.base
	if old == s {
		return
	}
	if !sub.filled && !sub.every && len(sub.diff) == 0 {
		names := sub.extra
		sub.base, sub.extra = s, nil
		sub.nameMany(slices.Collect(maps.Keys(names)))
		return
	}
	changed := s.changed
	if s.before == 0 || s.before != old.id {
		changed = differences(old, s)
	}
	type note struct {
		named bool
		had   *item
	}
	notes := make([]note, len(changed))
	for n, name := range changed {
		notes[n] = note{sub.names(name), sub.has(name)}
	}
	sub.base = s
	for n, name := range changed {
		delete(sub.but, name)
		delete(sub.extra, name)
		switch onBase := sub.every && s.item(name) != nil; {
		case onBase && !notes[n].named:
			put(&sub.but, name, true)
		case !onBase && notes[n].named:
			put(&sub.extra, name, true)
		}
		sub.set(name, notes[n].had)
		put(&sub.due, name, true)
	}
}

// difference gives what the proxy lacks, and the names of what it has and should not have or waits for in vain; both
// sorted, and not to be changed. What it finds in order is not due any more.
func (sub *subscription) difference(s *shelf) (changed []*item, removed []string) {
	if !sub.asked || sub.base == s && sub.inOrder() {
		return nil, nil
	}
	sub.rebase(s)
	sub.recall()
	if !sub.filled {
		changed = sub.covered()
	}
	for name := range sub.due {
		want, had := s.item(name), sub.has(name)
		has := had != nil && had != absent
		switch {
		case !sub.covers(name):
			sub.set(name, nil)
			sub.settled(name)
		case want != nil && !sub.filled:
			// It is among the changed.
		case want != nil && had != nil && had.version == want.version:
			if had.wire == nil {
				want.take()
			}
			sub.set(name, want)
			sub.settled(name)
		case want != nil:
			changed = append(changed, want)
		case has && s.held[name] != nil:
			sub.settled(name)
		case has || had == nil && sub.names(name):
			removed = append(removed, name)
		default:
			sub.settled(name)
		}
	}
	if sub.filled {
		sortItems(changed)
	}
	slices.Sort(removed)
	return changed, removed
}

func (sub *subscription) settled(name string) {
	delete(sub.due, name)
	delete(sub.alone, name)
}

// unknown leaves of names to be removed those that the proxy waits for in vain: nothing can use them.
func (sub *subscription) unknown(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return sub.has(name) != nil })
}

// renew makes a name be sent again, also if the proxy, which may not have asked yet, says that it has it.
func (sub *subscription) renew(name string) {
	switch {
	case !sub.asked:
		put(&sub.doubted, name, true)
	case sub.filled && sub.has(name) != absent:
		sub.set(name, unsure(sub.kind, name))
		put(&sub.due, name, true)
	}
}

// renewAll does so with all virtual hosts of a route configuration.
func (sub *subscription) renewAll(namespace string) {
	if !sub.asked {
		put(&sub.doubted, namespace, true)
		return
	}
	var names []string
	for name := range sub.all {
		if xds.Namespace(name) == namespace {
			names = append(names, name)
		}
	}
	for _, name := range names {
		sub.renew(name)
	}
}

// everything gives what the proxy then has, as every response of some types must: what is to be removed later too, and
// refused ones in the place of what a proxy has of them, which it keeps when it refuses them again. again says whether
// there are such. It is not to be changed.
func (sub *subscription) everything(s *shelf, removed []string) (all []*item, again bool) {
	if all = sub.covered(); len(sub.diff) == 0 {
		return all, false
	}
	all = slices.Clone(all)
	for name, had := range sub.diff {
		switch held := s.held[name]; {
		case had == nil || had == absent || s.item(name) != nil || !sub.covers(name):
		case held != nil:
			all, again = append(all, held), true
		case had.wire != nil && !slices.Contains(removed, name):
			all = append(all, had)
		}
	}
	sortItems(all)
	return all, again
}

// isolate leaves of what is to be sent what may go in one response: the suspects of a refusal go one by one.
func (sub *subscription) isolate(changed []*item) []*item {
	if len(sub.alone) == 0 {
		return changed
	}
	safe := slices.DeleteFunc(slices.Clone(changed), func(i *item) bool { return sub.alone[i.name] })
	if len(safe) > 0 {
		return safe
	}
	return changed[:min(1, len(changed))]
}

// sent notes a response.
func (sub *subscription) sent(f *flight) {
	for _, name := range f.gone {
		f.was = append(f.was, sub.has(name))
	}
	switch {
	case f.had != nil: // it follows the base
	case sub.filled:
		f.had = make([]*item, len(f.items))
		for n, i := range f.items {
			f.had[n] = sub.has(i.name)
			sub.set(i.name, i)
			delete(sub.due, i.name)
		}
	case sub.fill(f.items):
		f.whole = sub.base
	}
	sub.removed(f.gone)
	sub.flight, sub.greet = f, false
}

// fill notes the first response, of all that is covered or only some of it. whole says that it is all of the base.
func (sub *subscription) fill(changed []*item) (whole bool) {
	sub.filled = true
	if all := sub.covered(); len(changed) < len(all) {
		for _, i := range all {
			sub.set(i.name, nil)
			put(&sub.due, i.name, true)
		}
	}
	for _, i := range changed {
		delete(sub.diff, i.name)
		delete(sub.due, i.name)
	}
	return len(changed) > 0 && len(changed) == len(sub.base.list)
}

func (sub *subscription) removed(names []string) {
	for _, name := range names {
		delete(sub.due, name)
		if sub.names(name) {
			sub.set(name, absent)
		} else {
			sub.set(name, nil)
		}
	}
}

// compact lets go of maps that were used once: a map never shrinks.
func (sub *subscription) compact() {
	for _, m := range []*map[string]bool{&sub.due, &sub.but, &sub.extra, &sub.alone, &sub.doubted} {
		if len(*m) == 0 {
			*m = nil
		}
	}
	if len(sub.diff) == 0 {
		sub.diff = nil
	}
}

// accepted ends a flight.
func (sub *subscription) accepted(f *flight) {
	defer sub.compact()
	if f.whole != nil && f.whole.taken.Load() && len(sub.alone) == 0 {
		return
	}
	for _, i := range f.items {
		i.take()
		delete(sub.alone, i.name)
	}
	if f.whole != nil {
		f.whole.taken.Store(true)
	}
}

// refused ends a flight, and gives those to blame. An Envoy may have taken some of the others and not the rest: they
// are sent again, and so are removals.
func (sub *subscription) refused(f *flight, message string, canIsolate bool) (guilty []*item) {
	guilty = blamed(f.items, message)
	switch {
	case len(guilty) > 0:
	case f.again:
		return nil // it is about those that were known: the rest is taken
	case canIsolate && len(f.items) > 1:
		for _, i := range f.items {
			put(&sub.alone, i.name, true)
		}
	default:
		guilty = f.items
	}
	for n, i := range f.items {
		if sub.has(i.name) != i {
			continue // asked for again since
		}
		var had *item
		if f.had != nil {
			had = f.had[n]
		}
		if slices.Contains(guilty, i) && (had == nil || had == absent) {
			sub.set(i.name, had) // it still has nothing
		} else {
			sub.set(i.name, unsure(sub.kind, i.name))
		}
		put(&sub.due, i.name, true)
	}
	if len(f.items) > 0 { // else it would not end
		sub.restore(f)
	}
	return guilty
}

// restore undoes the removals of a flight that was refused, so that they are made again.
func (sub *subscription) restore(f *flight) {
	for n, name := range f.gone {
		if sub.holds(name) {
			continue
		}
		put(&sub.due, name, true)
		if f.was[n] == nil {
			sub.set(name, nil)
		} else {
			sub.set(name, unsure(sub.kind, name))
		}
	}
}
