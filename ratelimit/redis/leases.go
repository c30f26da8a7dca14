package redis

import (
	"hash/maphash"
	"sync"

	"github.com/machinenativeops/weir/ratelimit"
)

// leases are the keys that this replica knows of. They are kept while they are asked about: who is not for a generation,
// of so long as leases are held or of as many keys as there is room for, is forgotten, and what is left of it that is not
// held, and so comes free by itself, is given back.
type leases struct {
	seed   maphash.Seed
	shards [leaseShards]leaseShard
}

const (
	leaseShards = 64
	leaseKeys   = 1024 // of a generation of a shard: 128 thousand keys are known at most
	generation  = holdFor * second
)

type leaseShard struct {
	mu     sync.Mutex // guards everything declared below
	young  map[uint64]*lease
	old    map[uint64]*lease
	turned int64 // when young was empty, by the store's clock
	sound  int64 // from when on it knows all keys that were asked about within a generation
}

// peek judges a hit and moves nothing. Beside the decision it gives the one of a hit that others bring down, as far as is
// known here.
func (s *Store) peek(now int64, h *ratelimit.Hit) (d, without ratelimit.Decision, v verdict) {
	hash := s.leases.hash(h)
	shard := s.leases.shard(hash)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	l := shard.find(hash)
	var at ratelimit.Arrival
	if l != nil && l.of(h.Rate) && l.heard != 0 {
		at = l.at
		_, d, v = l.judge(now, h.Kind, h.N)
	}
	_, without = h.Rate.Decide(at, now, ratelimit.Take, 0)
	if _, with := h.Rate.Decide(at, now, h.Kind, h.N); !with.Allowed {
		without = with
	}
	return d, without, v
}

// use decides a hit, and counts it where it passes. The part keeps how to put it back; nil: it need not be.
func (s *Store) use(now int64, h *ratelimit.Hit, p *part) verdict {
	hash := s.leases.hash(h)
	shard := s.leases.shard(hash)
	shard.mu.Lock()
	l := shard.find(hash)
	if l == nil || !l.of(h.Rate) {
		shard.mu.Unlock()
		return ask
	}
	next, d, v := l.judge(now, h.Kind, h.N)
	var more *question
	if v == passes {
		if p != nil {
			p.hash, p.grant, p.before, p.after = hash, l.grant, l.at, next
		}
		l.take(next, h.N)
		more = s.more(l, hash)
	}
	shard.mu.Unlock()
	if v != ask {
		h.Decision = d
	}
	if more != nil {
		s.submit(more)
	}
	return v
}

// more gives a question that leases more of a key, of which a lease has just been used up, before somebody has to wait for that;
// nil: none is needed. The shard's mu is held.
func (s *Store) more(l *lease, hash uint64) *question {
	if l.pending != nil || l.at.Before(l.end) {
		return nil
	}
	clock := s.clock()
	q := &question{since: clock, parts: []part{{key: l.key, hash: hash, Hit: ratelimit.Hit{Rate: l.rate}}}}
	if s.wish(l, &q.parts[0], clock); q.parts[0].wish == 0 {
		return nil
	}
	q.parts[0].freed, l.held = l.held, hold{}
	return q
}

// wish has a part of a question lease more of a key. The shard's mu is held.
func (s *Store) wish(l *lease, p *part, clock int64) {
	if p.wish, p.holds = l.want(clock, s.o.Lease); p.wish > 0 {
		p.ahead = l.ahead(s.o.Lease)
		p.pends = new(pending)
		l.pending = p.pends
	}
}

// submit has a question asked that nobody waits for.
func (s *Store) submit(q *question) {
	if err := s.lane(q.key()).submit(q); err != nil {
		go s.finishAll([]*question{q}, err)
	}
}

// local decides hits by what is leased or known to be used up, if that is enough.
func (s *Store) local(hits []ratelimit.Hit) (ok, done bool) {
	now := s.time.now(s.clock())
	if len(hits) == 1 {
		if s.use(now, &hits[0], nil) == ask {
			return false, false
		}
		return ratelimit.Pass(hits), true
	}
	known, refused, takes := true, false, true
	for i := range hits {
		h := &hits[i]
		d, without, v := s.peek(now, h)
		if h.Decision = without; v == refuse {
			h.Decision = d
		}
		known = known && v != ask
		refused = refused || v == refuse && !h.Shadow && !h.Quota
		takes = takes && h.Kind == ratelimit.Take
	}
	switch {
	case refused && takes:
		return false, true
	case known:
		ok = s.useAll(now, hits)
		return ok, ok
	}
	return false, false
}

// useAll counts hits if they pass.
func (s *Store) useAll(now int64, hits []ratelimit.Hit) bool {
	q := question{parts: make([]part, len(hits))}
	for i := range hits {
		p := &q.parts[i]
		p.Hit = ratelimit.Hit{Rate: hits[i].Rate, N: hits[i].N, Kind: hits[i].Kind}
		v := s.use(now, &hits[i], p)
		if v == ask || v == refuse && !hits[i].Shadow && !hits[i].Quota {
			s.putBack(&q)
			return false
		}
	}
	if !ratelimit.Pass(hits) {
		s.putBack(&q)
		return false
	}
	return true
}

// putBack puts back what of a question was counted by leases, since it does not pass.
func (s *Store) putBack(q *question) {
	now := s.time.now(s.clock())
	for i := range q.parts {
		p := &q.parts[i]
		if p.grant == 0 || p.key != "" || p.Kind != ratelimit.Take {
			continue
		}
		shard := s.leases.shard(p.hash)
		shard.mu.Lock()
		if l := shard.find(p.hash); l != nil && l.of(p.Rate) {
			l.putBack(now, p.grant, p.before, p.after, p.N)
		}
		shard.mu.Unlock()
	}
}

// pending is a question that is to grant more of a key, and who waits for that.
type pending struct {
	waiting []waiting
	early   uint64 // hits that passed meanwhile; see ahead.go
}

// waiting is a call of [Store.Ask] that waits for what another has asked.
type waiting struct {
	now  int64
	hits []ratelimit.Hit
	w    ratelimit.Waiter
}

// waits has a call wait for a question about one of its hits that is to lease more of it, if there is one, or lets it pass.
func (s *Store) waits(now int64, hits []ratelimit.Hit, w ratelimit.Waiter) (waits, passes bool) {
	if s.o.Lease == 0 {
		return false, false
	}
	clock := s.clock()
	for i := range hits {
		hash := s.leases.hash(&hits[i])
		shard := s.leases.shard(hash)
		shard.mu.Lock()
		l := shard.find(hash)
		waits = l != nil && l.pending != nil
		key := ""
		if waits {
			key = l.key
			if passes = len(hits) == 1 && l.of(hits[0].Rate); passes {
				hits[0].Decision, passes = s.mayGoAhead(l, &hits[0], clock, s.time.now(clock))
			}
			if passes {
				l.pending.early += hits[0].N
				l.asks += hits[0].N
			} else {
				l.pending.waiting = append(l.pending.waiting, waiting{now, hits, w})
			}
		}
		shard.mu.Unlock()
		switch {
		case passes:
			s.metrics.ahead.Add(1)
			return false, true
		case waits:
			s.lane(key).hurry()
			return true, false
		}
	}
	return false, false
}

// lend decides a hit by its lease, or makes its part a question that is to lease more; what was left goes back with that,
// as a part before it.
func (s *Store) lend(parts []part, p *part, h *ratelimit.Hit, clock int64) []part {
	if s.o.Lease == 0 {
		p.key = s.keyOf(h)
		return parts
	}
	now, hash := s.time.now(clock), s.leases.hash(h)
	shard := s.leases.shard(hash)
	shard.mu.Lock()
	left := shard.turn(clock, now)
	l := shard.find(hash)
	if l == nil {
		l = &lease{key: s.keyOf(h), rate: h.Rate, early: shard.sound}
		shard.young[hash] = l
	}
	rate := l.rate
	v := ask
	if l.of(h.Rate) {
		var next ratelimit.Arrival
		if next, p.Decision, v = l.judge(now, h.Kind, h.N); v == passes {
			p.grant, p.before, p.after = l.grant, l.at, next
			l.take(next, h.N)
		}
	}
	p.hash = hash
	if v == ask {
		p.key, p.freed = l.key, l.held
		if l.of(h.Rate) {
			p.Decision, p.early = s.mayGoAhead(l, h, clock, now)
		}
		if l.live(now) {
			if !l.moved {
				parts = append(parts, part{key: l.key, back: true, from: l.at, to: l.end, Hit: ratelimit.Hit{Rate: rate}})
			}
			l.heard, l.at = 0, l.end
		}
		l.held = hold{}
		if !l.of(h.Rate) {
			*l = lease{key: l.key, rate: h.Rate, grant: l.grant, gone: l.gone, pending: l.pending, stood: l.stood, asks: l.asks, early: l.early}
		}
		if h.Kind == ratelimit.Take && h.N > 0 && l.pending == nil {
			s.wish(l, p, clock)
		}
		p.fresh = l.gone <= now
		l.asks += p.asks()
	}
	shard.mu.Unlock()
	s.giveBack(left)
	return parts
}

// hear tells the leases what Redis has said of a question.
func (s *Store) hear(q *question, now int64) {
	for i := range q.parts {
		p := &q.parts[i]
		if p.hash == 0 || p.key == "" || p.back {
			continue
		}
		shard := s.leases.shard(p.hash)
		shard.mu.Lock()
		l := shard.find(p.hash)
		var left lease
		if l != nil {
			l.asks -= min(l.asks, p.asks())
		}
		switch {
		case l != nil && l.of(p.Rate):
			left = l.hear(now, p.from, p.to, p.held)
			l.settle(p.pends, now)
		case p.from != p.to: // nobody knows of it any more
			left = lease{key: p.key, rate: p.Rate, at: p.from, end: p.to, heard: now}
		}
		shard.mu.Unlock()
		if p.from != p.to {
			s.metrics.leases.Add(1)
		}
		if left.live(now) && !left.moved {
			s.giveBack([]lease{left})
		}
	}
}

// answered gives those who wait for a lease.
func (s *Store) answered(p *part) []waiting {
	shard := s.leases.shard(p.hash)
	shard.mu.Lock()
	if l := shard.find(p.hash); l != nil && l.pending == p.pends {
		l.pending = nil
	}
	early, w := p.pends.early, p.pends.waiting
	p.pends.early, p.pends.waiting = 0, nil
	shard.mu.Unlock()
	if early > 0 {
		s.askFor(p, early)
	}
	return w
}

// giveBack gives back what is not used. If it can't be, it is lost until its time is over.
func (s *Store) giveBack(all []lease) {
	for i := range all {
		l := &all[i]
		q := &question{since: s.clock(), parts: []part{{key: l.key, back: true, from: l.at, to: l.end, Hit: ratelimit.Hit{Rate: l.rate}}}}
		if s.lane(l.key).submit(q) == nil {
			s.metrics.returns.Add(1)
		}
	}
}

// turn gives back what has not been asked about for a generation, or all.
func (s *Store) turn(all bool) {
	if s.o.Lease == 0 {
		return
	}
	clock := s.clock()
	now := s.time.now(clock)
	for i := range s.leases.shards {
		shard := &s.leases.shards[i]
		shard.mu.Lock()
		left := shard.turn(clock, now)
		if all {
			shard.turned = clock - generation
			left = append(left, shard.turn(clock, now)...)
			shard.turned = clock - generation
			left = append(left, shard.turn(clock, now)...)
		}
		shard.mu.Unlock()
		s.giveBack(left)
	}
	s.Flush()
}

// giveUp gives everything back.
func (s *Store) giveUp() { s.turn(true) }

// hash is by which a key is known here, as [ratelimit.Memory] knows it.
func (t *leases) hash(h *ratelimit.Hit) uint64 {
	return maphash.Bytes(t.seed, h.Key) ^ uint64(h.Rate.Algorithm())<<20
}

func (t *leases) shard(hash uint64) *leaseShard { return &t.shards[hash%leaseShards] }

// find gives the lease of a key, or nil. mu is held.
func (s *leaseShard) find(hash uint64) *lease {
	if l := s.young[hash]; l != nil {
		return l
	}
	l := s.old[hash]
	if l != nil && len(s.young) < leaseKeys {
		delete(s.old, hash)
		s.young[hash] = l
	}
	return l
}

// turn begins a new generation if it is time, and gives what was leased in the one that ends. mu is held.
func (s *leaseShard) turn(clock, now int64) (left []lease) {
	if s.young != nil && clock-s.turned < generation {
		if len(s.young) < leaseKeys {
			return nil
		}
		s.sound = clock + generation
	}
	for _, l := range s.old {
		if l.live(now) && l.pending == nil && l.held.until == 0 {
			left = append(left, *l)
		}
	}
	s.old, s.young, s.turned = s.young, make(map[uint64]*lease), clock
	return left
}

// count is how many keys are known.
func (t *leases) count() (n uint64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += uint64(len(s.young) + len(s.old))
		s.mu.Unlock()
	}
	return n
}
