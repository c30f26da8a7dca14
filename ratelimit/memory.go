package ratelimit

import (
	"context"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
)

// DefaultKeys is how many keys a [Memory] holds if not told otherwise: 32 MiB of them.
const DefaultKeys = 1 << 20

// Memory is a [Store] in a table of fixed size, 32 bytes for each key it is made for.
//
// A key is known by a seeded hash of 64 bits and has two buckets of three slots, each of one cache line, where it
// may be. A key that comes new takes the slot of one that is back to where it began, which loses nothing; where
// there is none, of the one that would be back first: keys which are over their limit go last. Nothing is written
// for what is refused, so that no flood of refused requests can push anything out.
type Memory struct {
	seed   maphash.Seed
	shift  uint // hash >> shift is the shard
	shards []shard
}

const (
	ways      = 3
	maxShards = 1024
)

// bucket is one cache line. A slot is free if its ns is in the past.
type bucket struct {
	tag  [ways]uint64
	ns   [ways]int64
	frac [ways]uint32
	_    uint32
}

// shard holds both buckets of its keys, so that one lock is enough for a key.
type shard struct {
	mu        sync.Mutex // guards everything declared below, and the buckets
	buckets   []bucket
	now       int64 // the latest there was: for its keys time never goes back
	evictions uint64
	_         [16]byte // a cache line for each shard
}

// place is where a key stands while its shard is locked.
type place struct {
	hash   uint64
	bucket *bucket
	way    int
	// What the slot held before, to take it back.
	taken bool
	tag   uint64
	was   Arrival
}

// NewMemory makes room for so many keys; 0 is [DefaultKeys]. There are half as many slots again, since a key can't
// go everywhere.
func NewMemory(keys int) *Memory {
	if keys <= 0 {
		keys = DefaultKeys
	}
	buckets := max((keys+1)/2, 2)
	width := min(bits.Len(uint(buckets/64)), bits.Len(uint(maxShards))) // at least 64 buckets a shard
	n := 1 << max(width-1, 0)
	m := &Memory{seed: maphash.MakeSeed(), shift: uint(64 - bits.Len(uint(n-1))), shards: make([]shard, n)}
	all := make([]bucket, (buckets+n-1)/n*n)
	for i := range m.shards {
		size := len(all) / n
		m.shards[i].buckets = all[i*size : (i+1)*size : (i+1)*size]
	}
	return m
}

// Take implements [Store]. It does not wait for anything but other calls, and gives no error.
func (m *Memory) Take(_ context.Context, now int64, hits []Hit) (bool, error) {
	for i := range hits {
		hits[i].place = place{hash: maphash.Bytes(m.seed, hits[i].Key) ^ uint64(hits[i].Rate.algorithm)<<20}
	}
	m.lock(hits)
	defer m.unlock(hits)
	for i := range hits {
		m.take(&hits[i], now, hits[:i])
	}
	ok := pass(hits)
	if !ok && len(hits) > 1 { // what one hit alone does is as it was decided
		m.undo(hits, now)
	}
	m.settle(hits)
	return ok, nil
}

// lock locks the shards of hits, lowest first, so that no two calls wait for each other.
func (m *Memory) lock(hits []Hit) {
	for s, ok := m.next(hits, 0); ok; s, ok = m.next(hits, s+1) {
		m.shards[s].mu.Lock()
	}
}

func (m *Memory) unlock(hits []Hit) {
	for s, ok := m.next(hits, 0); ok; s, ok = m.next(hits, s+1) {
		m.shards[s].mu.Unlock()
	}
}

// next is the lowest shard of hits that is not below least.
func (m *Memory) next(hits []Hit, least uint64) (shard uint64, ok bool) {
	for i := range hits {
		if s := hits[i].place.hash >> m.shift; s >= least && (!ok || s < shard) {
			shard, ok = s, true
		}
	}
	return shard, ok
}

// take decides one hit and counts it as it is decided. Earlier hits of the same request are not moved.
func (m *Memory) take(h *Hit, now int64, earlier []Hit) {
	p, s := &h.place, m.shard(h)
	s.now = max(s.now, now)
	found := p.find(s)
	if !found {
		p.choose(s, earlier)
	}
	next, d := h.Rate.Decide(p.arrival(), s.now, h.Kind, h.N)
	h.Decision = d
	if found || next.NS > s.now {
		p.taken, p.tag, p.was = true, p.bucket.tag[p.way], Arrival{p.bucket.ns[p.way], p.bucket.frac[p.way]}
		p.write(p.hash, next)
	}
}

// settle counts what was pushed out.
func (m *Memory) settle(hits []Hit) {
	for i := range hits {
		p, s := &hits[i].place, m.shard(&hits[i])
		if p.taken && p.tag != p.hash && p.was.NS > s.now {
			s.evictions++
		}
	}
}

// undo takes back what was counted, last first, and then does again what is not taken back.
func (m *Memory) undo(hits []Hit, now int64) {
	for i := len(hits) - 1; i >= 0; i-- {
		if p := &hits[i].place; p.taken {
			p.taken = false
			p.write(p.tag, p.was)
		}
	}
	for i := range hits {
		if h := &hits[i]; h.Kind != Take {
			before := h.Decision
			m.take(h, now, nil)
			h.Decision.Allowed, h.Decision.RetryAfter = before.Allowed, before.RetryAfter
		}
	}
	for i := range hits {
		if h := &hits[i]; h.Kind == Take {
			m.look(h)
		}
	}
}

// look tells how a Take that was not counted leaves the key: as one that only asks, so that what is another rate's
// is written down as it is.
func (m *Memory) look(h *Hit) {
	p, s := &h.place, m.shard(h)
	found := p.find(s)
	next, d := h.Rate.Decide(p.arrival(), s.now, Take, 0)
	if found {
		p.write(p.hash, next)
	}
	if h.Decision.Allowed {
		h.Decision.Remaining, h.Decision.Reset = d.Remaining, d.Reset
	}
}

func (m *Memory) shard(h *Hit) *shard { return &m.shards[h.place.hash>>m.shift] }

// find sets the slot that holds the key, if there is one.
func (p *place) find(s *shard) bool {
	a, b := s.pair(p.hash)
	for i := range ways {
		if a.tag[i] == p.hash {
			p.bucket, p.way = a, i
			return true
		}
		if b.tag[i] == p.hash {
			p.bucket, p.way = b, i
			return true
		}
	}
	return false
}

// choose sets the slot that a new key may have. Fast path: the emptier bucket has a free one. Slow path: one of the
// keys there moves to its other bucket; or, if none can, the one that would be back first is forgotten.
func (p *place) choose(s *shard, earlier []Hit) {
	a, b := s.pair(p.hash)
	i, j := a.first(), b.first()
	free := a.free(s.now) - b.free(s.now)
	if free > 0 || free == 0 && a.ns[i] <= b.ns[j] {
		p.bucket, p.way = a, i
	} else {
		p.bucket, p.way = b, j
	}
	if p.bucket.ns[p.way] > s.now && !p.makeRoom(s, a, earlier) {
		p.makeRoom(s, b, earlier)
	}
}

// makeRoom moves a key out of a full bucket and sets the slot it leaves, if one can move. Those of earlier hits stay:
// their places are to hold until all is decided.
func (p *place) makeRoom(s *shard, full *bucket, earlier []Hit) bool {
	for i, tag := range full.tag {
		other, b := s.pair(tag)
		if other == full {
			other = b
		}
		j := other.first()
		if other.ns[j] > s.now || slices.ContainsFunc(earlier, func(h Hit) bool { return h.place.hash == tag }) {
			continue
		}
		other.tag[j], other.ns[j], other.frac[j] = tag, full.ns[i], full.frac[i]
		full.tag[i], full.ns[i], full.frac[i] = 0, 0, 0
		p.bucket, p.way = full, i
		return true
	}
	return false
}

// pair is the two buckets of a key. They are different unless the shard has only one.
func (s *shard) pair(hash uint64) (a, b *bucket) {
	n := uint64(len(s.buckets))
	i := (hash & 0xffffffff) * n >> 32
	j := (hash * 0x9e3779b97f4a7c15 >> 32) * n >> 32 // Fibonacci hashing: Knuth, TAOCP 3, 6.4
	if i == j {
		if j++; j == n {
			j = 0
		}
	}
	return &s.buckets[i], &s.buckets[j]
}

// first is the slot that is back first.
func (b *bucket) first() int {
	first := 0
	for i := range ways {
		if b.ns[i] < b.ns[first] {
			first = i
		}
	}
	return first
}

// free is how many slots are back to where they began.
func (b *bucket) free(now int64) int {
	n := 0
	for i := range ways {
		if b.ns[i] <= now {
			n++
		}
	}
	return n
}

// arrival is where the key stands: nowhere, if the slot is another's.
func (p *place) arrival() Arrival {
	if p.bucket.tag[p.way] != p.hash {
		return Arrival{}
	}
	return Arrival{p.bucket.ns[p.way], p.bucket.frac[p.way]}
}

func (p *place) write(tag uint64, at Arrival) {
	p.bucket.tag[p.way], p.bucket.ns[p.way], p.bucket.frac[p.way] = tag, at.NS, at.Frac
}

// Stats implements [Store]. It looks at every slot.
func (m *Memory) Stats(now int64) Stats {
	var st Stats
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for j := range s.buckets {
			st.Keys += uint64(ways - s.buckets[j].free(now))
		}
		st.Capacity += uint64(len(s.buckets) * ways)
		st.Evictions += s.evictions
		s.mu.Unlock()
	}
	return st
}
