package redis

import "github.com/machinenativeops/weir/ratelimit"

// A hit that leases do not decide may pass before Redis is told of it, so that nobody waits: where half of the limit or more is
// left, by what Redis has told of the key and this replica has done since. What passes so is counted with what gathers until
// then, if there is as much; what is not, as others have used it up meanwhile, is beyond the limit.
//
// That is bounded: whatever passes so is counted here too, as by a limit that is [Options.Ahead] of the key's, divided by the
// replicas. So all replicas together stay within what those two limits let pass. It holds as a replica
// knows every key that it was asked about in the time in which that is regained; where it does not, because it has just begun or had
// to forget some early, nothing passes so. A limit that regains its burst in longer than keys are known has none of it.
//
// A replica that is the only one to use a key lets nothing pass beyond its limit: there is as much left as it knows.

// goAhead says whether the hits of an inquiry pass so.
func (a *inquiry) goAhead() bool {
	all, early := len(a.questions) == 1 && len(a.owed) == 0, false // what is owed is kept as long as the hits are
	for i := range a.hits {
		p := a.partOf(i)
		all = all && (p.early || p.key == "" && p.Decision.Allowed)
		early = early || p.early
	}
	if !all || !early {
		return false
	}
	for i := range a.hits {
		a.hits[i].Decision = a.partOf(i).Decision
	}
	a.s.metrics.ahead.Add(1)
	return true
}

// mayGoAhead says whether a hit may pass so at an instant, and counts it. The lease is of its rate. The shard's mu is held.
func (s *Store) mayGoAhead(l *lease, h *ratelimit.Hit, clock, now int64) (d ratelimit.Decision, ok bool) {
	if s.o.Ahead == 0 || h.Strict || h.Kind != ratelimit.Take || h.N == 0 || now == 0 || h.Rate.Algorithm() != ratelimit.GCRA {
		return d, false
	}
	regained := h.Rate.Full().NS
	next := max(l.early, clock) + s.earlyCost(h.Rate, h.N)
	if regained > generation || clock < regained || next-clock > regained {
		return d, false
	}
	_, d = h.Rate.Decide(l.known(now), now, h.Kind, l.asks+h.N)
	if !d.Allowed || 2*d.Remaining < h.Rate.Limit() {
		return d, false
	}
	l.early = next
	return d, true
}

// earlyCost is how long it takes until so many may pass so again.
func (s *Store) earlyCost(r *ratelimit.Rate, n uint64) int64 {
	return int64(min(float64(r.Cost(n).NS)*float64(s.replicas.Load())/s.o.Ahead, float64(ratelimit.MaxAhead)))
}

// known is where a key stands as far as that is known here.
func (l *lease) known(now int64) ratelimit.Arrival {
	if floor := now + l.held.ns; l.held.until*second > now && l.stood.NS < floor {
		return ratelimit.Arrival{NS: floor}
	}
	return l.stood
}

// settle takes what passed while a question was under way, which may be nil, out of what that has leased, if that is enough. The
// shard's mu is held.
func (l *lease) settle(p *pending, now int64) {
	if p == nil || p.early == 0 {
		return
	}
	if next, _, v := l.judge(now, ratelimit.Take, p.early); v == passes {
		l.take(next, p.early)
		l.asks -= min(l.asks, p.early)
		p.early = 0
	}
}

// asks is how many hits of a key, which leases know, Redis is asked about.
func (p *part) asks() uint64 {
	if p.hash == 0 || p.key == "" || p.back || p.Kind == ratelimit.Refund {
		return 0
	}
	return p.N
}

// askFor tells Redis of hits that passed while a question about their key was under way, and that was not enough.
func (s *Store) askFor(p *part, n uint64) {
	s.submit(&question{since: s.clock(), parts: []part{{key: p.key, hash: p.hash, Hit: ratelimit.Hit{Rate: p.Rate, N: n}}}})
}

// lost takes note that nothing is known of what became of a question.
func (s *Store) lost(q *question) {
	for i := range q.parts {
		p := &q.parts[i]
		if p.asks() == 0 {
			continue
		}
		shard := s.leases.shard(p.hash)
		shard.mu.Lock()
		if l := shard.find(p.hash); l != nil {
			l.asks -= min(l.asks, p.asks())
		}
		shard.mu.Unlock()
	}
}
