// Package diff says what an edit of documents changes in effect: first in words, service by service, and then as the
// Envoy resources that are sent, proxy by proxy.
//
// Documents are compared by what they mean, so that comments, the order of documents, and what merely says a default
// are no change. It is a pure function of two sets.
package diff

import (
	"fmt"
	"slices"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// Report is what differs.
type Report struct {
	Equal   bool      `json:"equal"`   // nothing differs in effect
	Changes []Change  `json:"changes"` // in words, by subject
	Proxies []Proxies `json:"proxies"` // as resources; what is equal for several proxies is said once
}

// The kinds of change.
const (
	Added   = "added"
	Removed = "removed"
	Moved   = "moved" // among others, where their order counts
	Changed = "changed"
)

// Change is one thing that differs.
type Change struct {
	Subject string `json:"subject"`         // such as Service shop/checkout
	What    string `json:"what,omitempty"`  // the part of it, such as rule default; "" is all of it
	Kind    string `json:"kind"`            // added, removed, moved or changed
	Field   string `json:"field,omitempty"` // of what is changed, as documents call it, or: share of VERSION
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
}

// none is what a field that is not set has.
const none = "none"

// Compare gives what differs between two sets that policy.Load found no problem in.
func Compare(before, after *policy.Set) (*Report, error) {
	a, err := newSide(before)
	if err != nil {
		return nil, err
	}
	b, err := newSide(after)
	if err != nil {
		return nil, err
	}
	return compareSides(a, b), nil
}

func compareSides(a, b side) *Report {
	c := &comparison{before: a, after: b, changes: []Change{}}
	c.services()
	c.gateways()
	c.spec("Mesh", a.set.Mesh.Spec, b.set.Mesh.Spec)
	c.spec("Sampling", a.set.Sampling.Spec, b.set.Sampling.Spec)
	c.spec("Retention", a.set.Retention.Spec, b.set.Retention.Spec)
	proxies := compareViews(a.snapshot.Views(), b.snapshot.Views())
	return &Report{Equal: len(c.changes)+len(proxies) == 0, Changes: c.changes, Proxies: proxies}
}

// side is a set and what it means.
type side struct {
	set      *policy.Set
	model    *mesh.Model
	snapshot *xds.Snapshot
}

func newSide(set *policy.Set) (side, error) {
	model := mesh.Build(set)
	snapshot, err := xds.Translate(model, xds.Options{})
	return side{set, model, snapshot}, err
}

// comparison collects changes, those of one subject after another.
type comparison struct {
	before, after side
	subject       string
	changes       []Change
}

func (c *comparison) add(ch Change) {
	ch.Subject = c.subject
	c.changes = append(c.changes, ch)
}

// spec compares what is told field by field.
func (c *comparison) spec(subject string, a, b any) {
	c.subject = subject
	for _, f := range fields(a, b) {
		c.add(Change{Kind: Changed, Field: f.path, From: f.from, To: f.to})
	}
}

// services compares services, each with its routes and limits.
func (c *comparison) services() {
	both(c.before.model.Services, c.after.model.Services, func(s *mesh.Service) string { return s.Ref.String() }, func(a, b *mesh.Service) {
		switch {
		case a == nil:
			c.subject = "Service " + b.Ref.String()
			c.add(Change{Kind: Added, To: summary(b)})
		case b == nil:
			c.subject = "Service " + a.Ref.String()
			c.add(Change{Kind: Removed, From: summary(a)})
		default:
			c.subject = "Service " + b.Ref.String()
			c.service(a, b)
		}
	})
}

// both calls f for each name that is in one of two sorted lists, with nil for what is not in the other.
func both[T any](a, b []*T, name func(*T) string, f func(a, b *T)) {
	byName := func(all []*T) map[string]*T {
		m := make(map[string]*T, len(all))
		for _, one := range all {
			m[name(one)] = one
		}
		return m
	}
	before, after := byName(a), byName(b)
	for _, n := range union(before, after) {
		f(before[n], after[n])
	}
}

// union gives the names in either map, sorted.
func union[V any](a, b map[string]V) []string {
	var all []string
	for name := range a {
		all = append(all, name)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// plural says how many there are of something.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
