package ratelimit

import (
	"context"
	"hash/maphash"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// DefaultKeys is how many keys a [Memory] holds if not told otherwise: 32 MiB of them.
const DefaultKeys = 1 << 20

// Memory is a [Store] in a table of fixed size, 32 bytes for each key it is made for.
//
// A key is known by a seeded hash of 64 bits and has two buckets of three slots, each of one cache line, where it
// may be; as a rule it is in the first. A key that comes new takes the slot of one that is back to where it began,
// which loses nothing; where there is none, of the one that would be back first: keys which are over their limit go
// last. Nothing is written for what is refused, so that no flood of refused requests can push anything out, and cores
// that refuse the same key don't wait for each other.
type Memory struct {
	seed      maphash.Seed
	buckets   []bucket // an even number
	evictions [64]evictions
}

const ways = 3

// bucket is one cache line. A slot is free if its ns is in the past.
//
// Whoever holds its lock may write. Others may read and use what they read if afterwards neither head nor marks have
// changed since before: all writes are within a lock, whose release changes one or the other. What is read so can be
// of different instants until that is known.
type bucket struct {
	head  atomic.Uint64 // the latest now there was, and locked: for its keys time never goes back
	marks atomic.Uint64 // of each slot the upper 16 bits of its tag, lowest first, and 16 that count
	ns    [ways]atomic.Int64
	frac  [ways]atomic.Uint32
	tag   [ways]atomic.Uint32 // the lower 32 bits
}

const (
	locked  = 1       // in head, below the time
	counted = 1 << 48 // in marks: one of what they count
	tagBits = 48      // of a hash; its upper bits choose the first bucket
	tagMask = 1<<tagBits - 1
)

// evictions are counted in several places, each a cache line, by bucket.
type evictions struct {
	n atomic.Uint64
	_ [56]byte
}

// place is where a key may stand. All but tag and first holds while its buckets are locked.
type place struct {
	tag    uint64
	first  uint32 // bucket
	both   bool   // it needs its second bucket too
	taken  bool
	bucket *bucket
	way    int
	// What the slot held before it was taken, to take it back.
	before uint64
	was    Arrival
}

// NewMemory makes room for so many keys; 0 is [DefaultKeys]. There are half as many slots again, since a key can't
// go everywhere.
func NewMemory(keys int) *Memory {
	if keys <= 0 {
		keys = DefaultKeys
	}
	return &Memory{seed: maphash.MakeSeed(), buckets: make([]bucket, max((keys+3)/4*2, 2))}
}

// Take implements [Store]. It does not wait for anything but other calls, and gives no error.
//
// Fast path: the one hit's key is there, in a bucket which nobody else changes meanwhile. Slow path: all buckets that
// are needed are locked.
func (m *Memory) Take(_ context.Context, now int64, hits []Hit) (bool, error) {
	if len(hits) != 1 || !m.takeOne(&hits[0], now) {
		m.takeAll(hits, now)
	}
	return Pass(hits), nil
}

// takeOne decides a hit without the lock, unless that does not work at once. The lock is only taken to write, and
// says by the way whether what was decided upon still holds.
func (m *Memory) takeOne(h *Hit, now int64) bool {
	hash := m.hash(h)
	first, tag := m.first(hash), hash&tagMask
	b := &m.buckets[first]
	head, marks := b.head.Load(), b.marks.Load()
	way := b.find(marks, tag)
	if way < 0 { // a key which is in the second bucket is not in the first
		b = &m.buckets[m.other(first, tag)]
		head, marks = b.head.Load(), b.marks.Load()
		way = b.find(marks, tag)
	}
	if head&locked != 0 || way < 0 {
		return false
	}
	at, latest := b.arrival(way), int64(head>>1)
	then := max(now, latest)
	next, d := h.Rate.Decide(at, then, h.Kind, h.N)
	if next == at || next.NS <= then && at.NS <= then {
		h.Decision = d
		return b.head.Load() == head && b.marks.Load() == marks // in this order, see unlock
	}
	if !b.head.CompareAndSwap(head, head|locked) {
		return false
	}
	if b.marks.Load() != marks {
		b.head.Store(head)
		return false
	}
	h.Decision = d
	b.set(way, next)
	b.unlock(latest, then)
	return true
}

// takeAll decides hits as one, with all their buckets locked.
func (m *Memory) takeAll(hits []Hit, now int64) {
	var few [16]uint32
	for i := range hits {
		hash := m.hash(&hits[i])
		hits[i].place = place{tag: hash & tagMask, first: m.first(hash)}
	}
	held := m.lock(hits, few[:0])
	defer m.unlock(held, now)
	for i := range hits {
		m.take(&hits[i], now, hits[:i])
	}
	if len(hits) > 1 && !Pass(hits) { // what one hit alone does is as it was decided
		m.undo(hits, now)
	}
	m.settle(hits)
}

func (m *Memory) hash(h *Hit) uint64 {
	return maphash.Bytes(m.seed, h.Key) ^ uint64(h.Rate.algorithm)<<20
}

func (m *Memory) first(hash uint64) uint32 {
	return uint32(hash >> 32 * uint64(len(m.buckets)) >> 32)
}

// other is the second bucket of a key of which that is the first, and the first of which that is the second: their
// sum is the same odd number, modulo the even number of buckets. So they are never the same.
func (m *Memory) other(bucket uint32, tag uint64) uint32 {
	n := uint64(len(m.buckets))
	spread := tag * 0x9e3779b97f4a7c15 >> 32 // Fibonacci hashing: Knuth, TAOCP 3, 6.4
	sum := spread*(n/2)>>32*2 + 1
	if sum < uint64(bucket) {
		sum += n
	}
	return uint32(sum - uint64(bucket))
}

// lock locks the first buckets of hits, and the second ones of keys that are not there. Lower ones come first, so that
// no two calls wait for each other. It appends them to held.
func (m *Memory) lock(hits []Hit, held []uint32) []uint32 {
	for {
		held = held[:0]
		for i := range hits {
			p := &hits[i].place
			held = append(held, p.first)
			if p.both = p.both || !m.inFirst(p); p.both {
				held = append(held, m.other(p.first, p.tag))
			}
		}
		slices.Sort(held)
		held = slices.Compact(held)
		for _, b := range held {
			m.buckets[b].lock()
		}
		if m.complete(hits) {
			return held
		}
		m.unlock(held, 0)
	}
}

// complete is whether the buckets of all hits are locked: a key may have been moved since it was looked for.
func (m *Memory) complete(hits []Hit) bool {
	for i := range hits {
		if p := &hits[i].place; !p.both && !m.inFirst(p) {
			return false
		}
	}
	return true
}

func (m *Memory) inFirst(p *place) bool {
	b := &m.buckets[p.first]
	return b.find(b.marks.Load(), p.tag) >= 0
}

func (m *Memory) unlock(held []uint32, now int64) {
	for _, i := range held {
		b := &m.buckets[i]
		latest := int64(b.head.Load() >> 1)
		b.unlock(latest, max(now, latest))
	}
}

// take decides one hit and counts it as it is decided. Earlier hits of the same request are not moved.
func (m *Memory) take(h *Hit, now int64, earlier []Hit) {
	p := &h.place
	found := m.find(p)
	if !found {
		now = m.choose(p, now, earlier)
	}
	now = max(now, p.bucket.latest())
	next, d := h.Rate.Decide(p.arrival(), now, h.Kind, h.N)
	h.Decision = d
	if found || next.NS > now {
		p.taken, p.before, p.was = true, p.bucket.tagOf(p.way), p.bucket.arrival(p.way)
		p.bucket.put(p.way, p.tag, next)
		p.bucket.advance(now)
	}
}

// settle counts what was pushed out.
func (m *Memory) settle(hits []Hit) {
	for i := range hits {
		if p := &hits[i].place; p.taken && p.before != p.tag && p.was.NS > p.bucket.latest() {
			m.evictions[p.first%uint32(len(m.evictions))].n.Add(1)
		}
	}
}

// undo takes back what was counted, last first, and then does again what is not taken back.
func (m *Memory) undo(hits []Hit, now int64) {
	for i := len(hits) - 1; i >= 0; i-- {
		if p := &hits[i].place; p.taken {
			p.taken = false
			p.bucket.put(p.way, p.before, p.was)
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
			m.look(h, now)
		}
	}
}

// look tells how a Take that was not counted leaves the key: as one that only asks, so that what is another rate's
// is written down as it is.
func (m *Memory) look(h *Hit, now int64) {
	p, at := &h.place, Arrival{}
	found := m.find(p)
	if found {
		now, at = max(now, p.bucket.latest()), p.bucket.arrival(p.way)
	}
	next, d := h.Rate.Decide(at, now, Take, 0)
	if found {
		p.bucket.set(p.way, next)
	}
	if h.Decision.Allowed {
		h.Decision.Remaining, h.Decision.Reset = d.Remaining, d.Reset
	}
}

// find sets the slot that holds the key, if there is one.
func (m *Memory) find(p *place) bool {
	p.bucket = &m.buckets[p.first]
	if p.way = p.bucket.find(p.bucket.marks.Load(), p.tag); p.way < 0 && p.both {
		p.bucket = &m.buckets[m.other(p.first, p.tag)]
		p.way = p.bucket.find(p.bucket.marks.Load(), p.tag)
	}
	return p.way >= 0
}

// choose sets the slot that a key may have which is in neither of its buckets, and gives the latest now of both. Fast
// path: one has a free slot; the first bucket, which is found sooner, is not filled while the second is emptier. Slow
// path: one of the keys there moves to its other bucket; or, if none can, the one that would be back first is forgotten.
func (m *Memory) choose(p *place, now int64, earlier []Hit) int64 {
	second := m.other(p.first, p.tag)
	a, b := &m.buckets[p.first], &m.buckets[second]
	now = max(now, a.latest(), b.latest())
	i, j := a.soonest(), b.soonest()
	p.bucket, p.way = a, i
	free, other := a.free(now), b.free(now)
	if free < 2 && other > free || free+other == 0 && b.ns[j].Load() < a.ns[i].Load() {
		p.bucket, p.way = b, j
	}
	if p.bucket.ns[p.way].Load() > now && !m.makeRoom(p, p.first, now, earlier) {
		m.makeRoom(p, second, now, earlier)
	}
	return now
}

// makeRoom moves a key out of a full bucket and sets the slot it leaves, if one can move. Those of earlier hits stay:
// their places are to hold until all is decided. Nothing moves to where another call is at work.
func (m *Memory) makeRoom(p *place, full uint32, now int64, earlier []Hit) bool {
	from := &m.buckets[full]
	for i := range ways {
		if slices.ContainsFunc(earlier, func(h Hit) bool { return h.place.bucket == from && h.place.way == i }) {
			continue
		}
		tag := from.tagOf(i)
		to := &m.buckets[m.other(full, tag)]
		j := to.soonest()
		if to.ns[j].Load() > now || !to.tryLock() { // as a hint, and then for certain
			continue
		}
		j = to.soonest()
		latest := to.latest()
		now = max(now, latest)
		moves := to.ns[j].Load() <= now
		if moves {
			to.put(j, tag, from.arrival(i))
			from.put(i, 0, Arrival{})
			p.bucket, p.way = from, i
		}
		if to.unlock(latest, now); moves {
			from.advance(now)
			return true
		}
	}
	return false
}

// arrival is where the key stands: nowhere, if the slot is another's.
func (p *place) arrival() Arrival {
	if p.bucket.tagOf(p.way) != p.tag {
		return Arrival{}
	}
	return p.bucket.arrival(p.way)
}

// find is the slot with a tag, or below 0.
func (b *bucket) find(marks, tag uint64) int {
	low, high := uint32(tag), uint16(tag>>32)
	for i := range ways {
		if b.tag[i].Load() == low && uint16(marks>>(16*i)) == high {
			return i
		}
	}
	return -1
}

func (b *bucket) tagOf(way int) uint64 {
	return uint64(uint16(b.marks.Load()>>(16*way)))<<32 | uint64(b.tag[way].Load())
}

func (b *bucket) arrival(way int) Arrival {
	return Arrival{b.ns[way].Load(), b.frac[way].Load()}
}

// soonest is the slot that is back first.
func (b *bucket) soonest() int {
	way, least := 0, b.ns[0].Load()
	for i := 1; i < ways; i++ {
		if ns := b.ns[i].Load(); ns < least {
			way, least = i, ns
		}
	}
	return way
}

// free is how many slots are back to where they began.
func (b *bucket) free(now int64) int {
	n := 0
	for i := range ways {
		if b.ns[i].Load() <= now {
			n++
		}
	}
	return n
}

// latest is the latest now of a bucket.
func (b *bucket) latest() int64 { return int64(b.head.Load() >> 1) }

// set writes where a slot stands. A store costs as much as a lock, so that none is made in vain.
func (b *bucket) set(way int, at Arrival) {
	if b.ns[way].Load() != at.NS {
		b.ns[way].Store(at.NS)
	}
	if b.frac[way].Load() != at.Frac {
		b.frac[way].Store(at.Frac)
	}
}

// put gives a slot to a key.
func (b *bucket) put(way int, tag uint64, at Arrival) {
	b.set(way, at)
	if b.tagOf(way) != tag {
		shift := 16 * way
		b.tag[way].Store(uint32(tag))
		b.marks.Store(b.marks.Load()&^(0xffff<<shift) | tag>>32<<shift)
	}
}

// advance sets the latest now of a bucket that is locked.
func (b *bucket) advance(now int64) {
	if now > b.latest() {
		b.head.Store(uint64(now)<<1 | locked)
	}
}

func (b *bucket) tryLock() bool {
	head := b.head.Load()
	return head&locked == 0 && b.head.CompareAndSwap(head, head|locked)
}

// lock waits until it has the lock, which is held for less than a microsecond unless its holder is interrupted.
func (b *bucket) lock() {
	for i := 0; !b.tryLock(); i++ {
		switch {
		case i < 32:
		case i < 64:
			runtime.Gosched()
		default:
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// unlock sets the latest now, which was known to be before, and unlocks. Where that is no later, the count of marks
// tells readers that something may have changed: it comes before the head, and so they look at the head first.
func (b *bucket) unlock(before, now int64) {
	if now == before {
		b.marks.Store(b.marks.Load() + counted)
	}
	b.head.Store(uint64(now) << 1)
}

// Stats implements [Store]. It looks at every slot.
func (m *Memory) Stats(now int64) Stats {
	st := Stats{Capacity: uint64(len(m.buckets) * ways)}
	for i := range m.buckets {
		for j := range ways {
			if m.buckets[i].ns[j].Load() > now {
				st.Keys++
			}
		}
	}
	for i := range m.evictions {
		st.Evictions += m.evictions[i].n.Load()
	}
	return st
}
