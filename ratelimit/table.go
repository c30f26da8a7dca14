package ratelimit

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/sorted"
	"github.com/machinenativeops/weir/mesh"
)

// table is the limits in force. It is immutable but for what is counted, which the next table takes over.
type table struct {
	byID    map[string]*limit
	sorted  []*limit           // by ID
	domains map[string]*domain // beside Weir's own
	details *details

	// What it was made of, sorted by ID, where that is all: the next table is made of this one then by what has changed.
	policy []*mesh.Limit
	plain  bool
}

// limit is a [mesh.Limit] with everything made that its answers need.
type limit struct {
	mesh.Limit
	rate    Rate
	markers bool   // entries with the key "not" are marks of xds, not headers
	current []byte // the field of a status that tells of it
	name    string // as a string of structured fields
	policy  string // as an item of structured fields
	counts  *counts

	// Of what is configured as for envoyproxy/ratelimit.
	compat      bool // its answers are like its: a shadow shows, and no headers are added
	unlimited   bool
	quota       bool
	window      []byte // ends the key of its counters, so that those of other windows are others
	replaceable string // the name by which others replace it
	replaces    []string
}

// counts is what became of requests at a limit. A request that another limit refused counts only where it was refused.
type counts struct {
	allowed, refused, shadowRefused atomic.Uint64
	near                            atomic.Uint64 // of those allowed, the ones with which more than nearRatio was used
}

// nearRatio is envoyproxy/ratelimit's.
const nearRatio = 0.8

// notKey is the key of an entry that xds only uses to keep requests out.
const notKey = "not"

func newTable(limits []*mesh.Limit, domains []*Domain, old *table) *table {
	plain := len(domains) == 0 && unique(limits)
	if plain && old.plain {
		return old.next(limits)
	}
	t := tableOf(limits, domains, old)
	if plain {
		t.policy, t.plain = limits, true
	}
	return t
}

func compareIDs(a, b *mesh.Limit) int { return cmp.Compare(a.ID, b.ID) }

// unique says whether limits are sorted by ID, and each has another one.
func unique(limits []*mesh.Limit) bool {
	for i := 1; i < len(limits); i++ {
		if limits[i-1].ID >= limits[i].ID {
			return false
		}
	}
	return true
}

// next is the table of other limits; itself, where they are the same.
func (t *table) next(limits []*mesh.Limit) *table {
	edits := make(map[string]*limit)
	var next *table
	sorted.Changes(t.policy, limits, compareIDs, func(was, is *mesh.Limit) {
		if next == nil {
			next = &table{byID: maps.Clone(t.byID), domains: t.domains, details: t.details, policy: limits, plain: true}
		}
		if is == nil {
			delete(next.byID, was.ID)
			edits[was.ID] = nil
			return
		}
		edits[is.ID] = next.add(*is, t)
	})
	if next == nil {
		return t
	}
	next.sorted = sorted.Edited(t.sorted, sorted.Edits(edits, cmp.Compare[string]), func(l *limit, id string) int { return cmp.Compare(l.ID, id) })
	return next
}

func tableOf(limits []*mesh.Limit, domains []*Domain, old *table) *table {
	t := &table{byID: make(map[string]*limit, len(limits)), domains: make(map[string]*domain, len(domains)), details: old.details}
	if t.details == nil {
		t.details = &details{counts: map[string]*counts{}}
	}
	for _, l := range limits {
		t.add(*l, old)
	}
	for _, d := range domains {
		t.domains[d.Name] = newDomain(d, t, old)
	}
	for _, l := range t.byID {
		t.sorted = append(t.sorted, l)
	}
	slices.SortFunc(t.sorted, func(a, b *limit) int { return cmp.Compare(a.ID, b.ID) })
	return t
}

// add puts a limit into the table, with the counts it had in the old one. Descriptors may give two the same ID, key a
// with value b_c and key a_b with value c: they count together.
func (t *table) add(l mesh.Limit, old *table) *limit {
	c := new(counts)
	if before := cmp.Or(t.byID[l.ID], old.byID[l.ID]); before != nil {
		c = before.counts
	}
	out := newLimit(l, c)
	t.byID[l.ID] = out
	return out
}

func newLimit(l mesh.Limit, c *counts) *limit {
	out := &limit{Limit: l, rate: rateOf(&l), markers: true, name: quote(l.ID), counts: c}
	for _, by := range l.By {
		out.markers = out.markers && by.Header != notKey
	}
	b, _ := proto.Marshal(&ratelimitsvcv3.RateLimitResponse_RateLimit{Name: l.ID, RequestsPerUnit: narrow(l.Requests), Unit: units[l.PerName()]})
	field, start := begin(nil, currentLimit)
	out.current = end(append(field, b...), start)
	out.policy = out.policyItem()
	out.window = binary.AppendUvarint(nil, uint64(l.Per/time.Second))
	return out
}

func rateOf(l *mesh.Limit) Rate {
	switch {
	case l.Algorithm == "sliding_window":
		return NewSlidingWindow(l.Requests, l.Per)
	case l.Algorithm == "fixed_window" && l.Months > 0:
		return NewCalendarWindow(l.Requests, l.Months)
	case l.Algorithm == "fixed_window":
		return NewFixedWindow(l.Requests, l.Per)
	}
	return NewRate(l.Requests, l.Burst, l.Per)
}

// units are those of statuses; Envoy tells clients of no others.
var units = map[string]ratelimitsvcv3.RateLimitResponse_RateLimit_Unit{
	"second": ratelimitsvcv3.RateLimitResponse_RateLimit_SECOND, "minute": ratelimitsvcv3.RateLimitResponse_RateLimit_MINUTE,
	"hour": ratelimitsvcv3.RateLimitResponse_RateLimit_HOUR, "day": ratelimitsvcv3.RateLimitResponse_RateLimit_DAY,
	"week": ratelimitsvcv3.RateLimitResponse_RateLimit_WEEK, "month": ratelimitsvcv3.RateLimitResponse_RateLimit_MONTH,
	"year": ratelimitsvcv3.RateLimitResponse_RateLimit_YEAR,
}
