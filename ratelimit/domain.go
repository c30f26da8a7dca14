package ratelimit

import (
	"bytes"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
)

// Domain is limits that are found by the entries of a descriptor, as the configuration of envoyproxy/ratelimit has
// them. Package compat reads it.
type Domain struct {
	Name        string
	Descriptors []*Descriptor
}

// Descriptor is what one entry is compared with. Of those beside each other, one with the same value comes before the
// first whose pattern it matches, and that before one that takes any value.
type Descriptor struct {
	Key         string           // with * in it: a pattern, of key and value joined by an underscore
	Value       string           // "": any; with * in it: a pattern, in which * is any text
	Limit       *DescriptorLimit // of descriptors that end with this entry; nil: none
	Descriptors []*Descriptor    // of the entry that comes next

	Shadow         bool // counted, never refused
	Quota          bool // refuses only if all others of a quota do
	DetailedMetric bool // counts of the limit are apart for each value that comes, of all entries
	ValueToMetric  bool // counts are apart for each value of this entry, also of limits further down
	ShareThreshold bool // all values that match the pattern share one counter
}

// DescriptorLimit is so many requests in each window of the clock.
type DescriptorLimit struct {
	Name      string // by which another limit may replace it
	Requests  uint32
	Unit      ratelimitsvcv3.RateLimitResponse_RateLimit_Unit
	Unlimited bool     // everything passes, and nothing is counted
	Replaces  []string // names of limits that don't count where this one does
}

// node is a level of descriptors, ready to be searched.
type node struct {
	limit     *limit // nil: none
	pattern   string // that stands for the value in the counter's key; "": the value itself
	part      string // of the limit's ID
	detailed  bool   // see [Descriptor.DetailedMetric]
	toMetric  bool   // see [Descriptor.ValueToMetric]
	apart     bool   // counts are apart by some value
	exact     map[entry]*node
	any       map[string]*node // by key
	wildcards []wildcard
}

type entry struct{ key, value string }

type wildcard struct {
	key   string   // "": the parts are of key and value
	parts []string // what stands between the stars
	*node
}

func (w *wildcard) match(e *commonratelimitv3.RateLimitDescriptor_Entry) bool {
	if w.key == "" {
		return matches(w.parts, e.GetKey()+"_"+e.GetValue())
	}
	return e.GetKey() == w.key && matches(w.parts, e.GetValue())
}

// matches says whether text is the parts in their order, the first at its start and the last at its end, with anything
// between them. There are two parts at least.
func matches(parts []string, text string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

func (n *node) next(e *commonratelimitv3.RateLimitDescriptor_Entry) *node {
	if c := n.exact[entry{e.GetKey(), e.GetValue()}]; c != nil {
		return c
	}
	for i := range n.wildcards {
		if n.wildcards[i].match(e) {
			return n.wildcards[i].node
		}
	}
	return n.any[e.GetKey()]
}

// domain is a [Domain] in force.
type domain struct {
	*node
	name     string
	override *limit // has the counts of limits that questions bring with them
}

func newDomain(d *Domain, t, old *table) *domain {
	out := &domain{name: d.Name, override: t.add(mesh.Limit{ID: d.Name + ".(override)", Algorithm: "fixed_window", Requests: 1, Per: time.Second}, old)}
	out.node = newNode(d.Descriptors, d.Name, false, t, old)
	return out
}

// pattern is what the values of a key must match, or if key is "" what keys and values must; "" if there is none.
func (d *Descriptor) pattern() (key, pattern string) {
	switch {
	case !strings.Contains(d.Key, "*"):
		if strings.Contains(d.Value, "*") {
			return d.Key, d.Value
		}
		return "", ""
	case d.Value == "":
		return "", d.Key
	}
	return "", d.Key + "_" + d.Value
}

// newNode makes the level below path, in which counts are apart by a value already, or not.
func newNode(descriptors []*Descriptor, path string, apart bool, t, old *table) *node {
	n := &node{exact: map[entry]*node{}, any: map[string]*node{}}
	for _, d := range descriptors {
		part := d.Key
		if d.Value != "" {
			part += "_" + d.Value
		}
		id := path + "." + part
		child := newNode(d.Descriptors, id, apart || d.ValueToMetric, t, old)
		child.part, child.detailed, child.toMetric = part, d.DetailedMetric, d.ValueToMetric
		child.apart = apart || d.ValueToMetric || d.DetailedMetric
		if d.Limit != nil {
			child.limit = newDescriptorLimit(d, id, t, old)
		}
		if key, pattern := d.pattern(); pattern != "" {
			if d.ShareThreshold {
				child.pattern = pattern
			}
			n.wildcards = append(n.wildcards, wildcard{key, strings.Split(pattern, "*"), child})
		}
		if d.Value != "" {
			n.exact[entry{d.Key, d.Value}] = child
		} else {
			n.any[d.Key] = child
		}
	}
	return n
}

func newDescriptorLimit(d *Descriptor, id string, t, old *table) *limit {
	m := windowOf(d.Limit.Requests, d.Limit.Unit)
	m.ID, m.Shadow = id, d.Shadow
	l := t.add(m, old)
	l.compat, l.quota, l.replaces = true, d.Quota, d.Limit.Replaces
	l.as(d.Limit.Name, d.Limit.Requests, d.Limit.Unit)
	l.replaceable = d.Limit.Name
	if d.Limit.Unlimited {
		l.rate, l.unlimited = NewUnlimited(), true
	}
	return l
}

var unitLengths = map[ratelimitsvcv3.RateLimitResponse_RateLimit_Unit]time.Duration{
	ratelimitsvcv3.RateLimitResponse_RateLimit_SECOND: time.Second,
	ratelimitsvcv3.RateLimitResponse_RateLimit_MINUTE: time.Minute,
	ratelimitsvcv3.RateLimitResponse_RateLimit_HOUR:   time.Hour,
	ratelimitsvcv3.RateLimitResponse_RateLimit_DAY:    24 * time.Hour,
	ratelimitsvcv3.RateLimitResponse_RateLimit_WEEK:   7 * 24 * time.Hour,
	// envoyproxy/ratelimit's are of so many days too, from 1970 on.
	ratelimitsvcv3.RateLimitResponse_RateLimit_MONTH: 30 * 24 * time.Hour,
	ratelimitsvcv3.RateLimitResponse_RateLimit_YEAR:  365 * 24 * time.Hour,
}

// windowOf is a limit of a fixed window; a unit that nobody knows is a second.
func windowOf(requests uint32, unit ratelimitsvcv3.RateLimitResponse_RateLimit_Unit) mesh.Limit {
	per, ok := unitLengths[unit]
	if !ok {
		per = time.Second
	}
	return mesh.Limit{Algorithm: "fixed_window", Requests: uint64(requests), Per: per}
}

// as sets what statuses tell of the limit.
func (l *limit) as(name string, requests uint32, unit ratelimitsvcv3.RateLimitResponse_RateLimit_Unit) {
	b, _ := proto.Marshal(&ratelimitsvcv3.RateLimitResponse_RateLimit{Name: name, RequestsPerUnit: requests, Unit: unit})
	field, start := begin(nil, currentLimit)
	l.current = end(append(field, b...), start)
}

// find gives the limit of a descriptor and appends the key of its counter. Each entry must have been found, and the
// last one have a limit.
func (d *domain) find(key []byte, q *commonratelimitv3.RateLimitDescriptor) (*node, []byte) {
	key = AppendKey(key, d.name)
	n := d.node
	for _, e := range q.GetEntries() {
		if n = n.next(e); n == nil {
			return nil, key
		}
		value := e.GetValue()
		if n.pattern != "" {
			value = n.pattern
		}
		key = AppendKey(AppendKey(key, e.GetKey()), value)
	}
	if n.limit == nil {
		return nil, key
	}
	return n, append(key, n.limit.window...)
}

// own gives a limit that a question brings with it, and appends the key of its counter.
func (d *domain) own(key []byte, q *commonratelimitv3.RateLimitDescriptor) (*limit, []byte) {
	key = AppendKey(key, d.name)
	for _, e := range q.GetEntries() {
		key = AppendKey(AppendKey(key, e.GetKey()), e.GetValue())
	}
	o := q.GetLimit()
	unit := ratelimitsvcv3.RateLimitResponse_RateLimit_Unit(o.GetUnit())
	m := windowOf(o.GetRequestsPerUnit(), unit)
	m.ID = d.override.ID
	l := newLimit(m, d.override.counts)
	l.compat = true
	l.as("", o.GetRequestsPerUnit(), unit)
	return l, append(key, l.window...)
}

// appendName appends what the counts of a descriptor are named that [domain.find] has found: as its limit, but for the
// values that are told.
func (d *domain) appendName(name []byte, found *node, q *commonratelimitv3.RateLimitDescriptor) []byte {
	name = append(name, d.name...)
	n := d.node
	for _, e := range q.GetEntries() {
		n = n.next(e)
		name = append(name, '.')
		if n.pattern != "" || !n.toMetric && !found.detailed {
			name = append(name, n.part...)
			continue
		}
		name = append(name, e.GetKey()...)
		if value := e.GetValue(); value != "" {
			name = append(append(name, '_'), value[:min(len(value), maxHitterText)]...)
		}
	}
	if !utf8.Valid(name) { // which clients may send, and a label can't have
		name = bytes.ToValidUTF8(name, []byte("\uFFFD"))
	}
	return name
}

// details are counts of single values, of which there are so many at most: the values are the clients'.
type details struct {
	mu     sync.RWMutex
	counts map[string]*counts
}

const maxDetails = 10_000

// detailsOf gives the counts of a descriptor that a node was found for, or its limit's where there are too many already.
func (t *table) detailsOf(in *domain, n *node, q *commonratelimitv3.RateLimitDescriptor) *counts {
	var room [256]byte
	name := in.appendName(room[:0], n, q)
	if l := t.byID[string(name)]; l != nil { // its values are told anyway
		return l.counts
	}
	d := t.details
	d.mu.RLock()
	c := d.counts[string(name)]
	d.mu.RUnlock()
	if c != nil {
		return c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.counts[string(name)]; c != nil {
		return c
	}
	if len(d.counts) >= maxDetails {
		return n.limit.counts
	}
	c = new(counts)
	d.counts[string(name)] = c
	return c
}
