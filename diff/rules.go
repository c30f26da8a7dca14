package diff

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// fieldsOfHandling are the fields that a service says for all of its rules, and a rule may have its own of.
func fieldsOfHandling() []string {
	var all []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[policy.Handling]()) {
		name, _ := policy.FieldName(f)
		all = append(all, name)
	}
	return all
}

// inEffect is a rule with what its service says for it. Its destinations, as shares, are told apart.
func inEffect(s *mesh.Service, r *mesh.Rule) policy.Rule {
	rule := r.Rule // the model has put in the rest
	if len(r.To) > 0 {
		if rule.Timeout == nil {
			rule.Timeout = s.Spec.Timeout
		}
		if rule.Retries == nil {
			rule.Retries = s.Spec.Retries
		}
	}
	rule.To = nil
	return rule
}

// numbered says whether a rule has no name of its own.
func numbered(rules []*mesh.Rule, i int) bool { return rules[i].Name == "rule-"+strconv.Itoa(i) }

// pairing says which rules before are which after.
type pairing struct {
	a, b []*mesh.Rule
	to   map[int]int // from the index before to that after
	from map[int]int
}

func (p *pairing) join(alike func(i, j int) bool) {
	for i := range p.a {
		if _, ok := p.to[i]; ok {
			continue
		}
		for j := range p.b {
			if _, ok := p.from[j]; !ok && alike(i, j) {
				p.to[i], p.from[j] = j, i
				break
			}
		}
	}
}

// pair finds the rules that are the same ones: by their names, or, where a rule has none or another one, by what it
// does, then by what it matches, and then by its place.
func pair(a, b *mesh.Service) *pairing {
	p := &pairing{a: a.Rules, b: b.Rules, to: make(map[int]int), from: make(map[int]int)}
	p.join(func(i, j int) bool {
		return !numbered(p.a, i) && !numbered(p.b, j) && p.a[i].Name == p.b[j].Name
	})
	p.join(func(i, j int) bool {
		x, y := inEffect(a, p.a[i]), inEffect(b, p.b[j])
		x.Name = y.Name
		return len(fields(x, y)) == 0 && slices.Equal(p.a[i].To, p.b[j].To)
	})
	p.join(func(i, j int) bool { return len(fields(p.a[i].Match, p.b[j].Match)) == 0 })
	p.join(func(i, j int) bool { return i == j && numbered(p.a, i) && numbered(p.b, j) })
	return p
}

func (c *comparison) rules(a, b *mesh.Service) {
	if x, y := a.Rules[0].Source.Ref(), b.Rules[0].Source.Ref(); x != y {
		c.add(Change{Kind: Changed, Field: "Route", From: x.String(), To: y.String()})
	}
	p := pair(a, b)
	for i, r := range p.a {
		if _, stays := p.to[i]; !stays {
			c.add(Change{What: "rule " + r.Name, Kind: Removed, From: sayRule(a, r)})
		}
	}
	moved := p.moved()
	for j, r := range p.b {
		i, stays := p.from[j]
		switch {
		case !stays:
			c.add(Change{What: "rule " + r.Name, Kind: Added, To: position(p.b, j) + ": " + sayRule(b, r)})
		case moved[j]:
			c.add(Change{What: "rule " + r.Name, Kind: Moved, From: position(p.a, i), To: position(p.b, j)})
		}
	}
	c.renames(p)
	c.pairs(p, a, b)
}

// position says where a rule is in the order in which they are tried.
func position(rules []*mesh.Rule, i int) string {
	if i+1 < len(rules) {
		return "before " + rules[i+1].Name
	}
	return "last"
}

// moved are the rules, by their index after, that are in another order than most: those outside of the longest run of
// rules that keep theirs.
func (p *pairing) moved() map[int]bool {
	var order []int // the index before of each rule that stays, in the order after
	var at []int    // its index after
	for j := range p.b {
		if i, stays := p.from[j]; stays {
			order, at = append(order, i), append(at, j)
		}
	}
	length, previous := make([]int, len(order)), make([]int, len(order))
	last := -1
	for k := range order {
		length[k], previous[k] = 1, -1
		for m := range k {
			if order[m] < order[k] && length[m]+1 > length[k] {
				length[k], previous[k] = length[m]+1, m
			}
		}
		if last < 0 || length[k] > length[last] {
			last = k
		}
	}
	moved := make(map[int]bool)
	for _, j := range at {
		moved[j] = true
	}
	for ; last >= 0; last = previous[last] {
		delete(moved, at[last])
	}
	return moved
}

// renames tells new names. Those that come of another number are told at once.
func (c *comparison) renames(p *pairing) {
	var from, to []string
	for j, r := range p.b {
		i, stays := p.from[j]
		switch {
		case !stays || p.a[i].Name == r.Name:
		case numbered(p.a, i) && numbered(p.b, j):
			from, to = append(from, p.a[i].Name), append(to, r.Name)
		default:
			c.add(Change{What: "rule " + r.Name, Kind: Changed, Field: "name", From: p.a[i].Name, To: r.Name})
		}
	}
	if len(from) > 0 {
		c.add(Change{What: "rules without a name", Kind: Changed, Field: "name", From: strings.Join(from, ", "), To: strings.Join(to, ", ")})
	}
}

// pairs tells what is different in rules that stay. What changes alike in several is told once.
func (c *comparison) pairs(p *pairing, a, b *mesh.Service) {
	in := make(map[field][]string) // the rules in which a field changes so
	var order []field
	for j, r := range p.b {
		i, stays := p.from[j]
		if !stays {
			continue
		}
		if !slices.Equal(p.a[i].To, r.To) {
			c.shares(name(b, r), shares(a, p.a[i]), shares(b, r))
		}
		for _, f := range fields(inEffect(a, p.a[i]), inEffect(b, r), "name") {
			if len(in[f]) == 0 {
				order = append(order, f)
			}
			in[f] = append(in[f], r.Name)
		}
	}
	for _, f := range order {
		what := "rule " + in[f][0]
		switch {
		case b.Rules[0].Source.Kind == "Service":
			what = ""
		case len(in[f]) > 1 && len(in[f]) == len(p.from):
			what = "all rules"
		case len(in[f]) > 1:
			what = "rules " + strings.Join(in[f], ", ")
		}
		c.add(Change{What: what, Kind: Changed, Field: f.path, From: f.from, To: f.to})
	}
}

// name is what a rule is called; the one that a service without a Route has is not written anywhere.
func name(s *mesh.Service, r *mesh.Rule) string {
	if r.Source == s.Source {
		return ""
	}
	return "rule " + r.Name
}

// share is what a destination gets of a rule's requests.
type share struct {
	name    string
	weight  int
	percent float64
}

func shares(s *mesh.Service, r *mesh.Rule) []share {
	sum := 0
	for _, to := range r.To {
		sum += to.Weight
	}
	var all []share
	for _, to := range r.To {
		name := strings.TrimPrefix(to.Subset, s.Ref.String()+"/")
		if name == s.Ref.String() {
			name = "all endpoints"
		}
		percent := 100 * float64(to.Weight) / float64(sum)
		if i := slices.IndexFunc(all, func(o share) bool { return o.name == name }); i >= 0 {
			all[i].percent += percent
			all[i].weight += to.Weight
			continue
		}
		all = append(all, share{name, to.Weight, percent})
	}
	return all
}

// sayPercent keeps what is small from looking like nothing.
func sayPercent(p float64) string {
	text := strconv.FormatFloat(p, 'f', 2, 64)
	if p < 0.01 || p > 99.99 {
		text = strconv.FormatFloat(p, 'f', 6, 64)
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + " %"
}

func sayShares(all []share) string {
	text := make([]string, len(all))
	for i, s := range all {
		text[i] = s.name + " " + sayPercent(s.percent)
	}
	return strings.Join(text, ", ")
}

// shareOf is the field that a share is told as.
const shareOf = "share of "

// shares tells what of the destinations of a rule is different; something is.
func (c *comparison) shares(what string, a, b []share) {
	find := func(all []share, name string) string {
		if i := slices.IndexFunc(all, func(s share) bool { return s.name == name }); i >= 0 {
			return sayPercent(all[i].percent)
		}
		return none
	}
	told := false
	tell := func(name string) {
		if from, to := find(a, name), find(b, name); from != to {
			c.add(Change{What: what, Kind: Changed, Field: shareOf + name, From: from, To: to})
			told = true
		}
	}
	for _, s := range b {
		tell(s.name)
	}
	for _, s := range a {
		if find(b, s.name) == none {
			tell(s.name)
		}
	}
	if !told {
		c.add(Change{What: what, Kind: Changed, Field: "weights, not the shares", From: sayWeights(a), To: sayWeights(b)})
	}
}

func sayWeights(all []share) string {
	text := make([]string, len(all))
	for i, s := range all {
		text[i] = fmt.Sprintf("%s %d", s.name, s.weight)
	}
	return strings.Join(text, ", ")
}

// sayRule is a rule in a line, with what it has itself.
func sayRule(s *mesh.Service, r *mesh.Rule) string {
	rule := r.Rule
	rule.Name, rule.To = "", nil
	own := sayAny(rule)
	if own == "{}" {
		own = "everything"
	}
	if len(r.To) == 0 {
		return own
	}
	return own + " to " + sayShares(shares(s, r))
}

func sayAny(v any) string { return say(reflect.ValueOf(v)) }
