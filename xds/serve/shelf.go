package serve

import (
	"slices"
	"sync/atomic"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
)

// view is what a proxy is served, by type. Immutable.
type view struct {
	shelves map[string]*shelf // each of xds.Types
	gone    bool              // the snapshot does not have the proxy any more; it keeps what it had
}

// shelf is one type's part of views: shared by all whose resources are the same. Immutable.
type shelf struct {
	kind   string
	id     uint64           // unique; 0 is of the empty one
	wanted []*item          // what the snapshot has, refused or not, sorted by name
	list   []*item          // what is served, sorted by name: refused ones replaced
	place  map[string]int32 // of a name in list
	held   map[string]*item // refused without an accepted version before: whatever a proxy has stays
	sum    uint64           // of the hashes of what is served
	taken  atomic.Bool      // everything on it is known to be accepted

	before  uint64   // id of the shelf that it replaces; 0: none
	changed []string // the names in which it differs from that, sorted
	runs    []*run   // all of it, and what it has of changed
}

var shelfIDs atomic.Uint64

// empties have nothing, one of each type. They stand for what a proxy is served of which the snapshot knows nothing.
var empties = func() map[string]*shelf {
	all := make(map[string]*shelf, len(xds.Types))
	for _, kind := range xds.Types {
		all[kind] = &shelf{kind: kind}
	}
	return all
}()

// item gives what is served of a name, or nil.
func (s *shelf) item(name string) *item {
	if at, ok := s.place[name]; ok {
		return s.list[at]
	}
	return nil
}

// newShelfLocked gives prev (which may be nil) itself where nothing differs.
func newShelfLocked(kind string, prev *shelf, wanted []*item) *shelf {
	s := &shelf{kind: kind, id: shelfIDs.Add(1), wanted: wanted, list: make([]*item, 0, len(wanted)), held: make(map[string]*item)}
	for _, i := range wanted {
		if serving := i.servingLocked(); serving != nil {
			s.list = append(s.list, serving)
			s.sum += serving.hash
		} else {
			s.held[i.name] = i
		}
	}
	if prev != nil {
		s.changed = differences(prev, s)
		if len(s.changed) == 0 && slices.Equal(prev.wanted, wanted) {
			return prev
		}
		s.before = prev.id
	}
	s.runs = []*run{{items: s.list}, {}}
	if prev != nil && slices.EqualFunc(prev.list, s.list, func(a, b *item) bool { return a.name == b.name }) {
		s.place = prev.place
	} else {
		s.place = make(map[string]int32, len(s.list))
		for at, i := range s.list {
			s.place[i.name] = int32(at)
		}
	}
	for _, name := range s.changed {
		if i := s.item(name); i != nil {
			s.runs[1].items = append(s.runs[1].items, i)
		}
	}
	return s
}

// differences gives the names that are not the same on both, sorted.
func differences(a, b *shelf) []string {
	var names []string
	for x, y := a.list, b.list; len(x) > 0 || len(y) > 0; {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].name < y[0].name:
			names = append(names, x[0].name)
			x = x[1:]
		case len(x) == 0 || y[0].name < x[0].name:
			names = append(names, y[0].name)
			y = y[1:]
		default:
			if x[0] != y[0] {
				names = append(names, x[0].name)
			}
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
	latest map[lineage]*item // of the snapshot before
	next   map[lineage]*item
	made   map[shelfKey]*shelf
}

type shelfKey struct {
	role  mesh.Role
	kind  string
	first **xds.Resource // of the slice; nil where it is empty
	n     int
}

func (c *compiler) viewLocked(to audience, raw xds.View, prev *view) *view {
	v := &view{shelves: make(map[string]*shelf, len(xds.Types))}
	same := prev != nil && !prev.gone
	for _, kind := range xds.Types {
		var before *shelf
		if prev != nil {
			before = prev.shelves[kind]
		}
		v.shelves[kind] = c.shelfLocked(to, kind, raw[kind], before)
		same = same && v.shelves[kind] == before
	}
	if same {
		return prev
	}
	return v
}

func (c *compiler) shelfLocked(to audience, kind string, resources []*xds.Resource, prev *shelf) *shelf {
	key := shelfKey{role: to.Role, kind: kind, n: len(resources)}
	if len(resources) > 0 {
		key.first = &resources[0]
	}
	if s, ok := c.made[key]; ok {
		return s
	}
	wanted := make([]*item, len(resources))
	for n, r := range resources {
		line := to.lineage(kind, r.Name)
		i := c.next[line]
		if i == nil || i.version != r.Version {
			i = succeedLocked(c.latest[line], r)
			c.next[line] = i
		}
		wanted[n] = i
	}
	s := newShelfLocked(kind, prev, wanted)
	c.made[key] = s
	return s
}
