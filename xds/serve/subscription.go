package serve

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/machinenativeops/weir/xds"
)

// subscription is what a stream wants of one type, and what it has. It decides; the stream acts.
type subscription struct {
	kind string

	asked    bool // the proxy has asked for this type
	named    bool // it has ever named anything: having named nothing means everything until then
	wildcard bool
	names    map[string]bool

	// has is what the proxy has or is being sent, by name; absent, where it was told that there is no such thing.
	has map[string]*item
	sum uint64 // of the hashes in has: a version of all of it
	// Invariant: names not in due are as they should be, by the shelf whose id is at.
	due   map[string]bool
	at    uint64
	claim string          // the version of everything that the proxy says it has; "" once that is dealt with
	greet bool            // the proxy waits for a response even if there is nothing to send
	alone map[string]bool // to be sent one at a time: which of them is to blame for a refusal is not known

	flight *flight // the response that is not answered yet, or nil
	nack   *NACK   // the last
}

// flight is a response that is not answered yet.
type flight struct {
	nonce string
	at    time.Time
	items []*item
	had   []*item  // what the proxy had in place of each; nil: nothing
	gone  []string // the names removed
	was   []*item  // what the proxy had of each
	again bool     // known refused ones were sent along
}

func newSubscription(kind string) *subscription {
	return &subscription{
		kind: kind, names: make(map[string]bool), has: make(map[string]*item), due: make(map[string]bool), alone: make(map[string]bool),
	}
}

func (sub *subscription) covers(name string) bool { return sub.wildcard || sub.names[name] }

// holds says whether the proxy has some version of a name, or is being sent one.
func (sub *subscription) holds(name string) bool {
	had := sub.has[name]
	return had != nil && had != absent
}

// set notes what the proxy has of a name; nil: nothing.
func (sub *subscription) set(name string, i *item) {
	if old := sub.has[name]; old != nil {
		sub.sum -= old.hash
	}
	if i == nil {
		delete(sub.has, name)
		return
	}
	sub.has[name] = i
	sub.sum += i.hash
}

// doubt makes a name due whatever the proxy was sent before.
func (sub *subscription) doubt(name string) {
	sub.due[name] = true
	if had := sub.has[name]; had == nil || had == absent {
		sub.set(name, nil)
	} else {
		sub.set(name, unsure(sub.kind, name))
	}
}

// take notes what a request subscribes to.
func (sub *subscription) take(r *request) {
	first := !sub.asked
	sub.asked = true
	// Envoy asks for virtual hosts without naming any, and gives each to the route configuration that it belongs to.
	canWild := r.kind == xds.ClusterType || r.kind == xds.ListenerType || r.kind == xds.VirtualHostType
	if len(r.subscribe) > 0 && !sub.named {
		sub.named, sub.wildcard = true, false
	}
	if first && !sub.named && canWild {
		sub.wildcard = true
	}
	for _, name := range r.subscribe {
		if name == "*" {
			sub.wildcard, sub.at = true, 0
			continue
		}
		sub.names[name] = true
		sub.doubt(name) // asked again means needed again
	}
	for _, name := range r.unsubscribe {
		sub.drop(name)
	}
	if first {
		sub.resume(r)
	}
}

func (sub *subscription) drop(name string) {
	if name == "*" {
		sub.wildcard, sub.at = false, 0
		return
	}
	delete(sub.names, name)
	sub.doubt(name) // a wildcard that still covers it is answered with it
}

// resume believes a proxy what it has from an earlier stream.
func (sub *subscription) resume(r *request) {
	sub.greet = sub.wildcard && len(r.initial) == 0
	sub.claim = r.version
	for name, version := range r.initial {
		if sub.needed(name) {
			continue
		}
		sub.set(name, claimed(sub.kind, name, version))
		sub.due[name] = true
	}
}

// needed says whether the proxy needs a name whatever it says it has.
func (sub *subscription) needed(name string) bool {
	had := sub.has[name]
	return had != nil && had != absent && had.version == ""
}

// recall believes a state-of-the-world proxy that it has everything already, if its version says so; else it may have
// anything.
func (sub *subscription) recall(s *shelf) {
	if sub.claim == "" {
		return
	}
	var sum uint64
	for name, i := range s.items {
		if sub.covers(name) {
			sum += i.hash
		}
	}
	same := whole(sum) == sub.claim
	sub.claim = ""
	sub.greet = sub.greet && !same
	for name, i := range s.items {
		switch {
		case !sub.covers(name):
		case same && !sub.needed(name):
			sub.set(name, claimed(sub.kind, name, i.version))
		default:
			sub.set(name, unsure(sub.kind, name))
		}
	}
	for name := range s.held {
		if sub.covers(name) {
			sub.set(name, unsure(sub.kind, name))
		}
	}
}

// whole is a version of everything that a proxy has of a type.
func whole(sum uint64) string { return strconv.FormatUint(sum, 16) }

// follow makes due what may differ from the shelf.
func (sub *subscription) follow(s *shelf) {
	switch sub.at {
	case s.id:
		return
	case s.before:
		if s.before != 0 {
			for _, name := range s.changed {
				sub.due[name] = true
			}
			sub.at = s.id
			return
		}
	}
	for name := range s.items {
		if sub.covers(name) {
			sub.due[name] = true
		}
	}
	for name := range sub.has {
		sub.due[name] = true
	}
	for name := range sub.names {
		sub.due[name] = true
	}
	sub.at = s.id
}

// difference gives what the proxy lacks, and the names of what it has and should not have or waits for in vain; both
// sorted. What it finds in order is not due any more.
func (sub *subscription) difference(s *shelf) (changed []*item, removed []string) {
	if !sub.asked {
		return nil, nil
	}
	sub.recall(s)
	sub.follow(s)
	for name := range sub.due {
		want, had := s.items[name], sub.has[name]
		has := had != nil && had != absent
		switch {
		case !sub.covers(name):
			sub.set(name, nil)
			sub.settled(name)
		case want != nil && had != nil && had.version == want.version:
			if had.wire == nil {
				want.accepted.Store(true) // that the proxy has it says that it took it
			}
			sub.set(name, want)
			sub.settled(name)
		case want != nil:
			changed = append(changed, want)
		case has && s.held[name] != nil:
			sub.settled(name)
		case has || had == nil && sub.names[name]:
			removed = append(removed, name)
		default:
			sub.settled(name)
		}
	}
	slices.SortFunc(changed, func(a, b *item) int { return cmp.Compare(a.name, b.name) })
	slices.Sort(removed)
	return changed, removed
}

func (sub *subscription) settled(name string) {
	delete(sub.due, name)
	delete(sub.alone, name)
}

// unknown leaves of names to be removed those that the proxy waits for in vain: nothing can use them.
func (sub *subscription) unknown(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return sub.has[name] != nil })
}

// renew makes a name be sent again, also if the proxy, which may not have asked yet, says that it has it.
func (sub *subscription) renew(name string) {
	if sub.has[name] != absent {
		sub.set(name, unsure(sub.kind, name))
		sub.due[name] = true
	}
}

// renewAll does so with all virtual hosts of a route configuration.
func (sub *subscription) renewAll(namespace string) {
	for name := range sub.has {
		if xds.Namespace(name) == namespace {
			sub.renew(name)
		}
	}
}

// everything gives what the proxy then has, as every response of some types must: what is to be removed later too, and
// refused ones in the place of what a proxy has of them, which it keeps when it refuses them again. again says whether
// there are such.
func (sub *subscription) everything(s *shelf, removed []string) (all []*item, again bool) {
	for name, i := range s.items {
		if sub.covers(name) {
			all = append(all, i)
		}
	}
	for name, had := range sub.has {
		switch held := s.held[name]; {
		case s.items[name] != nil || !sub.covers(name) || had == absent:
		case held != nil:
			all, again = append(all, held), true
		case had.wire != nil && !slices.Contains(removed, name):
			all = append(all, had)
		}
	}
	slices.SortFunc(all, func(a, b *item) int { return cmp.Compare(a.name, b.name) })
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
func (sub *subscription) sent(nonce string, at time.Time, changed []*item, removed []string, again bool) {
	f := &flight{nonce: nonce, at: at, items: changed, had: make([]*item, len(changed)), gone: removed, was: make([]*item, len(removed)), again: again}
	for n, name := range removed {
		f.was[n] = sub.has[name]
	}
	for n, i := range changed {
		f.had[n] = sub.has[i.name]
		sub.set(i.name, i)
		delete(sub.due, i.name)
	}
	sub.removed(removed)
	sub.flight, sub.greet = f, false
}

func (sub *subscription) removed(names []string) {
	for _, name := range names {
		delete(sub.due, name)
		if sub.names[name] {
			sub.set(name, absent)
		} else {
			sub.set(name, nil)
		}
	}
}

// accepted ends a flight.
func (sub *subscription) accepted(f *flight) {
	for _, i := range f.items {
		i.accepted.Store(true)
		delete(sub.alone, i.name)
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
			sub.alone[i.name] = true
		}
	default:
		guilty = f.items
	}
	for n, i := range f.items {
		if sub.has[i.name] != i {
			continue // asked for again since
		}
		had := f.had[n]
		if slices.Contains(guilty, i) && (had == nil || had == absent) {
			sub.set(i.name, had) // it still has nothing
		} else {
			sub.set(i.name, unsure(sub.kind, i.name))
		}
		sub.due[i.name] = true
	}
	if len(f.items) > 0 { // else it would not end
		sub.restore(f)
	}
	return guilty
}

// restore undoes the removals of a flight that was refused, so that they are made again.
func (sub *subscription) restore(f *flight) {
	for n, name := range f.gone {
		if now := sub.has[name]; now != nil && now != absent {
			continue
		}
		sub.due[name] = true
		if f.was[n] == nil {
			sub.set(name, nil)
		} else {
			sub.set(name, unsure(sub.kind, name))
		}
	}
}
