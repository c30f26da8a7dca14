package serve

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/machinenativeops/weir/internal/sorted"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
)

// view is what a proxy is served, by type. Immutable.
type view struct {
	shelves [kinds]*shelf
	gone    bool // the snapshot does not have the proxy any more; it keeps what it had
}

// shelf is one type's part of views: shared by all whose resources are the same. Immutable, but for raw.
type shelf struct {
	kind      kind
	id        uint64           // unique; 0 is of the empty one
	raw       []*xds.Resource  // what it was made of; guarded by Server.mu
	wanted    []*item          // what the snapshot has, refused or not, sorted by name
	withdrawn map[string]*item // those of them that are refused
	held      map[string]*item // those of withdrawn without an accepted version before: whatever a proxy has stays
	list      []*item          // what is served, sorted by name: refused ones replaced
	sum       uint64           // of the hashes of what is served
	taken     atomic.Bool      // everything on it is known to be accepted

	places atomic.Pointer[map[string]int32] // of names in list; nil until many are looked for

	before  uint64   // id of the shelf that it replaces; 0: none
	changed []string // the names in which it differs from that, sorted
	now     []*item  // what it has of those
	was     []*item  // what that had of them, if both have all of them; else nil
	spaces  []string // of virtual hosts, the route configurations to which now belongs
	runs    []*run   // all of it, and now
}

var shelfIDs atomic.Uint64

// empties have nothing, one of each type. They stand for what a proxy is served of which the snapshot knows nothing.
var empties = func() (all [kinds]*shelf) {
	for k := range all {
		all[k] = &shelf{kind: kind(k)}
	}
	return all
}()

// item gives what is served of a name, or nil.
func (s *shelf) item(name string) *item {
	if places := s.places.Load(); places != nil {
		if at, ok := (*places)[name]; ok {
			return s.list[at]
		}
		return nil
	}
	return itemIn(s.list, name)
}

func itemIn(all []*item, name string) *item {
	if at, ok := slices.BinarySearchFunc(all, name, compareName); ok {
		return all[at]
	}
	return nil
}

func compareName(i *item, name string) int { return cmp.Compare(i.name, name) }

// place gives where names are in list, for who looks for many.
func (s *shelf) place() map[string]int32 {
	if places := s.places.Load(); places != nil {
		return *places
	}
	places := make(map[string]int32, len(s.list))
	for at, i := range s.list {
		places[i.name] = int32(at)
	}
	s.places.Store(&places)
	return places
}

// nextShelfLocked gives what comes after prev (which may be nil) where something becomes of some names: the item that is
// wanted, also if only its being refused is news, or nil. It gives prev itself where nothing differs.
func nextShelfLocked(k kind, prev *shelf, news map[string]*item) *shelf {
	base := prev
	if base == nil {
		base = empties[k]
	}
	s := &shelf{kind: k, id: shelfIDs.Add(1), sum: base.sum, before: base.id, withdrawn: maps.Clone(base.withdrawn), held: maps.Clone(base.held)}
	edits := sorted.Edits(news, cmp.Compare[string])
	served := make([]sorted.Edit[string, *item], 0, len(edits))
	same, sameNames, swaps := prev != nil, prev != nil, true
	for _, edit := range edits {
		name, i := edit.Key, edit.Value
		was, now := itemIn(base.list, name), i.servingLocked()
		same = same && itemIn(base.wanted, name) == i
		sameNames = sameNames && (was == nil) == (now == nil)
		delete(s.withdrawn, name)
		delete(s.held, name)
		if i != nil && i.refusal != nil {
			put(&s.withdrawn, name, i)
			if now == nil {
				put(&s.held, name, i)
			}
		}
		if was == now && s.held[name] == base.held[name] {
			continue
		}
		s.changed = append(s.changed, name)
		if was != nil {
			s.sum -= was.hash
		}
		if now != nil {
			s.sum += now.hash
			s.now = append(s.now, now)
		}
		s.was = append(s.was, was)
		swaps = swaps && was != nil && now != nil
		served = append(served, sorted.Edit[string, *item]{Key: name, Value: now, Gone: now == nil})
	}
	if same && len(s.changed) == 0 {
		return prev
	}
	s.wanted = sorted.Edited(base.wanted, edits, compareName)
	if s.list = s.wanted; len(s.withdrawn) > 0 {
		s.list = sorted.Edited(base.list, served, compareName)
	}
	if sameNames {
		s.places.Store(base.places.Load())
	}
	if prev == nil {
		s.changed, s.now = nil, nil
	}
	if prev == nil || !swaps {
		s.was = nil
	}
	if k == virtualHostKind {
		s.spaces = spacesOf(s.now)
	}
	s.runs = []*run{{items: s.list}, {items: s.now}}
	return s
}

func spacesOf(items []*item) (spaces []string) {
	for _, i := range items {
		spaces = append(spaces, xds.Namespace(i.name))
	}
	slices.Sort(spaces)
	return slices.Compact(spaces)
}

// differences gives the names that are not the same on both, sorted.
func differences(a, b *shelf) []string {
	var names []string
	for x, y := a.list, b.list; len(x) > 0 || len(y) > 0; {
		switch {
		case len(x) > 0 && len(y) > 0 && x[0] == y[0]:
			x, y = x[1:], y[1:]
		case len(y) == 0 || len(x) > 0 && x[0].name < y[0].name:
			names = append(names, x[0].name)
			x = x[1:]
		case len(x) == 0 || y[0].name < x[0].name:
			names = append(names, y[0].name)
			y = y[1:]
		default:
			names = append(names, x[0].name)
			x, y = x[1:], y[1:]
		}
	}
	for name, i := range b.held {
		if a.held[name] != i {
			names = append(names, name)
		}
	}
	for name, i := range a.held {
		if b.held[name] != i {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// compiler makes the views of one snapshot. Proxies that share slices of resources share shelves, whatever each had
// before: those that were there must be compiled first, so that what is shared is told from what most have.
type compiler struct {
	latest  map[lineage]*item
	refused map[*Refusal]*item
	made    map[shelfKey]*shelf
	left    map[*shelf]bool // of before, those of which gone is known
	gone    []lineage       // that a shelf of before had and the one after it has not
}

type shelfKey struct {
	role  mesh.Role
	kind  kind
	whole bool
	first **xds.Resource // of the slice; nil where it is empty
	n     int
}

func (c *compiler) viewLocked(to audience, of func(url string) []*xds.Resource, prev *view) *view {
	same := prev != nil && !prev.gone
	v := new(view)
	for k, url := range typeURLs {
		var before *shelf
		if prev != nil {
			before = prev.shelves[k]
		}
		v.shelves[k] = c.shelfLocked(to, kind(k), of(url), before)
		same = same && v.shelves[k] == before
	}
	if same {
		return prev
	}
	return v
}

func (c *compiler) shelfLocked(to audience, k kind, resources []*xds.Resource, prev *shelf) *shelf {
	key := shelfKey{role: to.Role, kind: k, whole: to.lineage(k, "").whole, n: len(resources)}
	if len(resources) > 0 {
		key.first = &resources[0]
	}
	s, ok := c.made[key]
	if ok && (prev == nil || prev == s || c.left[prev]) {
		return s
	}
	news := make(map[string]*item)
	var before []*xds.Resource
	if prev != nil {
		before, c.left[prev] = prev.raw, true
	}
	sorted.Changes(before, resources, func(a, b *xds.Resource) int { return cmp.Compare(a.Name, b.Name) }, func(was, is *xds.Resource) {
		switch {
		case is == nil:
			news[was.Name] = nil
			c.gone = append(c.gone, to.lineage(k, was.Name))
		case !ok:
			news[is.Name] = c.itemLocked(to.lineage(k, is.Name), is)
		}
	})
	if ok {
		return s
	}
	s = nextShelfLocked(k, prev, news)
	s.raw = resources
	c.made[key] = s
	return s
}

// itemLocked gives the item of a resource. What a proxy of another role has refused of the same, nobody is sent.
func (c *compiler) itemLocked(line lineage, r *xds.Resource) *item {
	before := c.latest[line]
	i := succeedLocked(before, line.kind, r)
	if c.latest[line] = i; i == before || i.refusal != nil || line.role == mesh.RoleGRPC {
		return i
	}
	for refusal := range c.refused {
		if refusal.Type == r.Type && refusal.Name == r.Name && refusal.Version == r.Version {
			i.refusal = refusal
		}
	}
	return i
}
