package importer

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/policy"
)

// rule is a row of a Route in the making: a policy rule whose destinations have no names yet.
type rule struct {
	policy.Rule
	to      []share
	mirrors []mirror
	at      field // that it was made of
	order   order
	from    *object // of Istio: the VirtualService with the hosts
}

// share is one destination of a rule.
type share struct {
	service  *service
	version  string
	weight   int
	request  policy.HeaderChanges // of its requests alone
	response policy.HeaderChanges
	at       field
}

type mirror struct {
	service *service
	version string
	percent *float64
}

// clone gives a rule that may be changed by itself, but for what all forms of a rule share.
func (r *rule) clone() *rule {
	out := *r
	out.Match.Headers = slices.Clone(r.Match.Headers)
	out.Match.Query = slices.Clone(r.Match.Query)
	return &out
}

// nothing is a rule for a service all of whose rules are left out: without any, it would take every request.
func nothing(at field, from *object) *rule {
	return &rule{Rule: policy.Rule{Name: "nothing", DirectResponse: &policy.DirectResponse{Status: 404}}, at: at, from: from}
}

// answers says whether the rule sends no request on.
func (r *rule) answers() bool { return r.Redirect != nil || r.DirectResponse != nil }

// fail makes the rule answer by itself, since it can't do what it should.
func (r *rule) fail(status int) {
	r.to, r.mirrors = nil, nil
	r.Rule = policy.Rule{Name: r.Name, Match: r.Match, DirectResponse: &policy.DirectResponse{Status: status}}
}

// order is Gateway API's precedence: what compares as less is tried first.
type order struct {
	path    int // 0 exact, 1 regex, 2 prefix
	length  int
	method  bool
	headers int
	query   int
}

func (a order) compare(b order) int {
	return cmp.Or(cmp.Compare(a.path, b.path), -cmp.Compare(a.length, b.length), -compareBool(a.method, b.method),
		-cmp.Compare(a.headers, b.headers), -cmp.Compare(a.query, b.query))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// place is where a host is served: a port of a gateway, or the mesh.
type place struct {
	gateway *gateway // nil: the mesh
	port    int
}

// table is what is done with a host's requests.
type table struct {
	host    string
	own     *service // whose own name the host is
	entries []entry
}

// entry is a rule of a host, and where it was to hold.
type entry struct {
	rule   *rule
	places map[place]bool
}

func (w *world) table(host string) *table {
	t := w.tables[host]
	if t == nil {
		t = &table{host: host}
		w.tables[host] = t
	}
	return t
}

// ownTable is that of the names by which a service is called in the mesh.
func (w *world) ownTable(s *service) *table {
	s.meshed, s.used = true, true
	if s.own == nil {
		s.own = w.table("own " + s.key.String())
		s.own.own = s
	}
	return s.own
}

func (t *table) add(r *rule, p place) {
	for i := range t.entries {
		if t.entries[i].rule == r {
			t.entries[i].places[p] = true
			return
		}
	}
	t.entries = append(t.entries, entry{rule: r, places: map[place]bool{p: true}})
}

// literal makes a header's value one that Envoy takes as it stands.
func literal(value string) string { return strings.ReplaceAll(value, "%", "%%") }

// changes is a list of header changes being read.
type changes struct {
	policy.HeaderChanges
	host string // set instead of a header
}

// put adds a header to one of the changes, once.
func (c *changes) put(to *map[string]string, f field, name, value string) {
	if isHost(name) {
		c.host = value
		return
	}
	for had := range *to {
		if strings.EqualFold(had, name) {
			f.lost("the header %s is given twice, and the first one holds", name)
			return
		}
	}
	if *to == nil {
		*to = make(map[string]string)
	}
	(*to)[name] = value
}

func isHost(name string) bool {
	return strings.EqualFold(name, "host") || strings.EqualFold(name, ":authority")
}

func noChanges(c policy.HeaderChanges) bool { return len(c.Add)+len(c.Set)+len(c.Remove) == 0 }

func sameChanges(a, b policy.HeaderChanges) bool {
	return maps.Equal(a.Add, b.Add) && maps.Equal(a.Set, b.Set) && slices.Equal(a.Remove, b.Remove)
}

// changedNames gives the headers that are changed, in lower case.
func changedNames(c policy.HeaderChanges) []string {
	var all []string
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Add)), slices.Collect(maps.Keys(c.Set)), c.Remove) {
		all = append(all, strings.ToLower(name))
	}
	return all
}

// overlap says whether both change one header.
func overlap(a, b policy.HeaderChanges) bool {
	return slices.ContainsFunc(changedNames(a), func(name string) bool { return slices.Contains(changedNames(b), name) })
}

// mergeChanges gives the changes of a rule, r, after those of its only destination.
func mergeChanges(r, first policy.HeaderChanges) policy.HeaderChanges {
	out := policy.HeaderChanges{Add: mergeMaps(first.Add, r.Add), Set: mergeMaps(first.Set, r.Set)}
	for _, name := range slices.Concat(first.Remove, r.Remove) {
		if !slices.Contains(out.Remove, name) {
			out.Remove = append(out.Remove, name)
		}
	}
	return out
}

func mergeMaps(a, b map[string]string) map[string]string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(a)
	if out == nil {
		out = make(map[string]string)
	}
	maps.Copy(out, b)
	return out
}

// tidy makes a name of ours out of another.
func tidy(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		} else {
			b.WriteByte('-')
		}
	}
	s := strings.Trim(b.String(), "-")
	if len(s) > 50 {
		s = strings.Trim(s[:50], "-")
	}
	return cmp.Or(s, "unnamed")
}

// distinctName gives a name of ours that is not taken, and takes it.
func distinctName(name string, taken map[string]bool) string {
	base := tidy(name)
	name = base
	for i := 2; taken[name]; i++ {
		name = base + "-" + itoa(i)
	}
	taken[name] = true
	return name
}
