package redis

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/machinenativeops/weir/ratelimit"
)

// alone is what a replica counts by itself while Redis can't be asked: its share of each limit.
type alone struct {
	memory *ratelimit.Memory
	until  atomic.Int64 // when what was counted is as if it had not been
	owing  sync.Mutex   // held while what is owed is taken out of memory: once
}

// decideAlone decides by this replica's share of the limits, or says that Redis can't be asked.
func (s *Store) decideAlone(now int64, hits []ratelimit.Hit) (bool, error) {
	strict := !s.o.Share
	for i := range hits {
		strict = strict || hits[i].Strict
	}
	if strict {
		s.metrics.refused.Add(1)
		return false, ratelimit.ErrUnavailable
	}
	s.metrics.alone.Add(1)
	n := uint64(max(s.replicas.Load(), 1))
	shared := make([]ratelimit.Hit, len(hits))
	rates := make([]ratelimit.Rate, len(hits))
	for i, h := range hits {
		rates[i] = h.Rate.Share(n)
		h.Rate = &rates[i]
		shared[i] = h
	}
	ok, err := s.alone.memory.Take(context.Background(), now, shared)
	for i := range hits {
		hits[i].Decision = shared[i].Decision
		s.alone.counted(now + int64(shared[i].Decision.Reset))
	}
	return ok, err
}

// owe adds to a question about a hit what was let pass of its key while Redis could not be asked, and is not regained yet.
// If the question fails, that is owed again.
func (s *Store) owe(a *inquiry, parts []part, p *part, h *ratelimit.Hit, now int64) []part {
	if s.alone.until.Load() <= now || p.key == "" || h.Kind == ratelimit.Refund {
		return parts
	}
	rate := h.Rate.Share(uint64(max(s.replicas.Load(), 1)))
	hits := []ratelimit.Hit{{Key: h.Key, Rate: &rate}}
	s.alone.owing.Lock()
	defer s.alone.owing.Unlock()
	_, _ = s.alone.memory.Take(context.Background(), now, hits) // it gives none
	used := rate.Limit() - hits[0].Decision.Remaining
	if used == 0 {
		return parts
	}
	hits[0].Kind, hits[0].N = ratelimit.Refund, used
	_, _ = s.alone.memory.Take(context.Background(), now, hits) // as above
	hits[0].Kind = ratelimit.Charge
	a.owed = append(a.owed, hits[0])
	return append(parts, part{key: p.key, Hit: ratelimit.Hit{Rate: h.Rate, Kind: ratelimit.Charge, N: used, Shadow: true}})
}

func (a *alone) counted(until int64) {
	for was := a.until.Load(); was < until && !a.until.CompareAndSwap(was, until); was = a.until.Load() {
	}
}
