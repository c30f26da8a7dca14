package redis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// Store is a [ratelimit.Prompt]. Nothing is asked until [Store.Run].
type Store struct {
	o       Options
	log     *slog.Logger
	id      string
	started time.Time

	lanes    []*lane
	client   client
	connect  func() error                          // unless it is
	call     func(fresh []fresh, scripts []script) // has Redis write keys and run scripts
	beat     func(l *lane) error                   // sends a heartbeat
	flights  sync.WaitGroup                        // those that were given up too
	replicas atomic.Int64
	time     serverTime
	alone    alone
	leases   leases
	metrics  *metrics
}

// New gives a store for valid options.
func New(log *slog.Logger, o Options) (*Store, error) {
	o.defaults()
	s := &Store{o: o, log: log, id: rand.Text(), started: time.Now(), metrics: newMetrics()}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s.client.options = o.client
	s.leases.seed = maphash.MakeSeed()
	s.connect, s.call, s.beat = s.client.dial, s.callRedis, s.beatRedis
	s.alone.memory = ratelimit.NewMemory(o.Keys)
	s.replicas.Store(int64(o.Replicas))
	for _, probe := range s.probes() {
		s.lanes = append(s.lanes, newLane(s, probe))
	}
	return s, nil
}

var errNotYet = errors.New("it has not answered yet")

// laneCount is how many ranges of slots of a Cluster are told apart.
const laneCount = 16

// probes are the keys of heartbeats, one in each range of slots.
func (s *Store) probes() []string {
	first := s.o.Prefix + "replicas"
	if !s.o.Cluster || strings.Contains(s.o.Prefix, "{") {
		return []string{first}
	}
	probes := make([]string, laneCount)
	for i, left := 0, laneCount; left > 0; i++ {
		key := first + ":" + strconv.Itoa(i)
		if at := laneOf(slot(key)); probes[at] == "" {
			probes[at], left = key, left-1
		}
	}
	return probes
}

func laneOf(slot uint16) int { return int(slot) * laneCount / slots }

// slotOf is where a key lies; what is not in a Cluster lies in one.
func (s *Store) slotOf(key string) uint16 {
	if !s.o.Cluster {
		return 0
	}
	return slot(key)
}

func (s *Store) lane(key string) *lane {
	if len(s.lanes) == 1 {
		return s.lanes[0]
	}
	return s.lanes[laneOf(slot(key))]
}

// Run keeps up the connection until ctx is done, and then gives back what is leased.
func (s *Store) Run(ctx context.Context) error {
	var beating sync.WaitGroup
	for _, l := range s.lanes {
		s.flights.Go(l.fly)
		beating.Go(func() { l.run(ctx) })
	}
	beating.Wait()
	for _, l := range s.lanes {
		l.drain() // it may lease more, or not pass
	}
	s.giveUp()
	for _, l := range s.lanes {
		l.close()
	}
	s.client.close()
	s.flights.Wait()
	return ctx.Err()
}

// Ready waits until Redis is asked, or ctx is done.
func (s *Store) Ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.down() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func (s *Store) down() bool {
	for _, l := range s.lanes {
		if l.open.Load() {
			return true
		}
	}
	return false
}

// clock is the store's own, in nanoseconds: it is never set.
func (s *Store) clock() int64 { return int64(time.Since(s.started)) }

// keyOf is the name of a counter in Redis. It tells nothing of clients, and no two counters have the same one.
func (s *Store) keyOf(h *ratelimit.Hit) string {
	sum := sha256.Sum256(append(h.Key, byte(h.Rate.Algorithm())))
	name := make([]byte, 0, 64)
	name = append(name, s.o.Prefix...)
	return string(base64.RawURLEncoding.AppendEncode(name, sum[:16]))
}

// Ask implements [ratelimit.Prompt].
func (s *Store) Ask(now int64, hits []ratelimit.Hit, w ratelimit.Waiter) (ok, done bool, err error) {
	if ok, done, err = s.try(now, hits); done {
		return ok, done, err
	}
	switch waits, passes := s.waits(now, hits, w); {
	case waits:
		return false, false, nil
	case passes:
		return true, true, nil
	}
	passes := s.inquire(now, hits, w)
	return passes, passes, nil
}

// Flush implements [ratelimit.Prompt].
func (s *Store) Flush() {
	for _, l := range s.lanes {
		l.flush()
	}
}

// try decides what Redis need not or can't be asked about.
func (s *Store) try(now int64, hits []ratelimit.Hit) (ok, done bool, err error) {
	if s.o.Lease > 0 {
		if ok, done = s.local(hits); done {
			s.metrics.local.Add(1)
			return ok, true, nil
		}
	}
	if s.leftAlone(hits) {
		ok, err = s.decideAlone(now, hits)
		return ok, true, err
	}
	return false, false, nil
}

// leftAlone says whether what the hits need of Redis is not asked now.
func (s *Store) leftAlone(hits []ratelimit.Hit) bool {
	if len(s.lanes) == 1 {
		return s.lanes[0].open.Load()
	}
	if !s.down() {
		return false
	}
	for i := range hits {
		if s.lane(s.keyOf(&hits[i])).open.Load() {
			return true
		}
	}
	return false
}

// Take implements [ratelimit.Store]. now is only of interest where Redis can't be asked. It does not look at ctx: what it
// waits for is over soon.
func (s *Store) Take(_ context.Context, now int64, hits []ratelimit.Hit) (bool, error) {
	p := promise{told: make(chan struct{})}
	ok, done, err := s.Ask(now, hits, &p)
	if !done {
		s.Flush()
		<-p.told
		ok, err = p.ok, p.err
	}
	return ok, err
}

// promise is a [ratelimit.Waiter] of a goroutine that waits.
type promise struct {
	ok   bool
	err  error
	told chan struct{}
}

func (p *promise) Decided(ok bool, err error) ratelimit.Flusher {
	p.ok, p.err = ok, err
	close(p.told)
	return nil
}

// inquiry is what is asked for the hits of one call: one question, or where their keys lie in several slots one for each.
type inquiry struct {
	s         *Store
	now       int64
	hits      []ratelimit.Hit
	w         ratelimit.Waiter // nil: it has its answer
	one       question         // which it is as a rule
	questions []*question
	left      atomic.Int32 // of them, that have no answer yet
	at        []place      // of each hit
	owed      []ratelimit.Hit
}

type place struct{ question, part int }

var inquiries = sync.Pool{New: func() any { return new(inquiry) }}

// inquire asks about hits, or has them pass and asks then.
func (s *Store) inquire(now int64, hits []ratelimit.Hit, w ratelimit.Waiter) (passes bool) {
	a := inquiries.Get().(*inquiry)
	a.s, a.now, a.hits, a.w = s, now, hits, w
	a.ask()
	if passes = a.goAhead(); passes {
		a.hits, a.w = nil, nil
	}
	for _, q := range a.questions {
		q.of = a
	}
	a.left.Store(int32(len(a.questions)))
	for _, q := range a.questions { // the last one may be answered, and a not be ours any more, before this is over
		var err error
		if q.key() != "" {
			if err = s.lane(q.key()).submit(q); err == nil {
				continue
			}
		}
		q.ok = err == nil && pass(q.parts)
		go func() {
			s.finishAll([]*question{q}, err)
			s.Flush()
		}()
	}
	return passes
}

// ask makes the questions.
func (a *inquiry) ask() {
	s, clock := a.s, a.s.clock()
	parts := a.one.parts[:0]
	first, several := "", false
	a.at, a.owed = a.at[:0], a.owed[:0]
	for i := range a.hits {
		h := &a.hits[i]
		p := part{Hit: ratelimit.Hit{Rate: h.Rate, N: h.N, Kind: h.Kind, Shadow: h.Shadow, Quota: h.Quota}}
		if _, den := h.Rate.Interval(); h.Rate.Algorithm() == ratelimit.Unlimited || h.Rate.Algorithm() == ratelimit.GCRA && den == 0 {
			_, p.Decision = h.Rate.Decide(ratelimit.Arrival{}, a.now, h.Kind, h.N)
		} else {
			parts = s.lend(parts, &p, h, clock)
			parts = s.owe(a, parts, &p, h, a.now)
		}
		a.at = append(a.at, place{0, len(parts)})
		parts = append(parts, p)
		if first == "" {
			first = p.key
		}
		several = several || p.key != "" && s.slotOf(p.key) != s.slotOf(first)
	}
	if several {
		a.split(parts, clock)
		return
	}
	a.one = question{parts: parts, now: a.now, since: clock, fresh: parts[0].fresh}
	a.one.fresh = a.one.fresh && a.one.plain()
	a.questions = append(a.questions[:0], &a.one)
}

// split asks of each slot by itself. Which hits of a quota refuse is then only known when all have answered.
func (a *inquiry) split(parts []part, clock int64) {
	s := a.s
	a.questions = nil
	index, moved := make(map[uint16]int), make([]place, len(parts))
	for i, p := range parts {
		to := len(a.questions)
		if p.key != "" {
			at, ok := index[s.slotOf(p.key)]
			if ok {
				to = at
			}
			index[s.slotOf(p.key)] = to
		}
		if to == len(a.questions) {
			a.questions = append(a.questions, &question{now: a.now, since: clock})
		}
		q := a.questions[to]
		if p.Quota {
			p.Quota, p.Shadow = false, true
		}
		moved[i] = place{to, len(q.parts)}
		q.parts = append(q.parts, p)
	}
	for i := range a.at {
		a.at[i] = moved[a.at[i].part]
	}
}

// partOf is what became of a hit.
func (a *inquiry) partOf(hit int) *part {
	return &a.questions[a.at[hit].question].parts[a.at[hit].part]
}

// answer tells the hits what was decided. What some slots counted of a question that others refuse is given back.
func (s *Store) answer(a *inquiry) bool {
	hits := a.hits
	for i := range hits {
		hits[i].Decision = a.partOf(i).Decision
	}
	ok := a.questions[0].ok
	if len(a.questions) > 1 {
		ok = ratelimit.Pass(hits)
	}
	if ok {
		return true
	}
	if len(a.questions) > 1 {
		s.takeBack(a.questions)
	} else {
		s.putBack(a.questions[0])
	}
	for i := range hits {
		h, q := &hits[i], a.questions[a.at[i].question]
		p := &q.parts[a.at[i].part]
		lent := p.key == "" && p.grant != 0 // what Redis decides of a question that it refuses is without it already
		if (q.ok || lent) && h.Kind == ratelimit.Take && h.Decision.Allowed {
			h.Decision.Remaining = min(h.Decision.Remaining+h.N, h.Rate.Limit())
		}
	}
	return false
}

// takeBack gives back what was counted of questions, as far as that is known.
func (s *Store) takeBack(qs []*question) {
	for _, q := range qs {
		s.putBack(q)
		if q.err != nil || !q.ok {
			continue
		}
		back := &question{since: s.clock()}
		for _, p := range q.parts {
			if p.key == "" || p.back || p.Kind != ratelimit.Take || !p.Decision.Allowed || p.N == 0 {
				continue
			}
			r := part{key: p.key, hash: p.hash, Hit: ratelimit.Hit{Rate: p.Rate}}
			if p.Rate.Algorithm() == ratelimit.GCRA {
				r.Kind, r.N = ratelimit.Refund, p.N
			} else {
				r.back, r.from, r.to = true, p.before, p.after
			}
			back.parts = append(back.parts, r)
		}
		if len(back.parts) > 0 {
			_ = s.lane(back.key()).submit(back) // if it can't be, it is lost until its time is over
		}
	}
}

// finishAll tells those who wait for questions.
func (s *Store) finishAll(qs []*question, err error) {
	var f flushers
	for _, q := range qs {
		s.finish(q, err, &f)
	}
	f.flush()
}

// finish tells those who wait for a question.
func (s *Store) finish(q *question, err error, f *flushers) {
	if q.err = err; err != nil {
		s.lost(q)
	}
	for i := range q.parts {
		if p := &q.parts[i]; p.pends != nil {
			s.resume(s.answered(p), err, f)
		}
	}
	if q.of != nil && q.of.left.Add(-1) == 0 {
		f.add(q.of.end())
	}
}

// flushers are those whose answers are decided together, each once if they come in a row.
type flushers []ratelimit.Flusher

func (f *flushers) flush() {
	for _, one := range *f {
		one.Flush()
	}
}

func (f *flushers) add(one ratelimit.Flusher) {
	if one != nil && (len(*f) == 0 || (*f)[len(*f)-1] != one) {
		*f = append(*f, one)
	}
}

// resume goes on with calls that have waited for a question of another.
func (s *Store) resume(all []waiting, err error, f *flushers) {
	for _, c := range all {
		if err != nil {
			f.add(c.w.Decided(s.decideAlone(c.now, c.hits)))
		} else if ok, done, err := s.try(c.now, c.hits); done {
			f.add(c.w.Decided(ok, err))
		} else if s.inquire(c.now, c.hits, c.w) {
			f.add(c.w.Decided(true, nil))
		}
	}
}

// end tells the one who asked, when all questions have their answer.
func (a *inquiry) end() ratelimit.Flusher {
	var failed, err error
	for _, q := range a.questions {
		failed = errors.Join(failed, q.err)
	}
	ok := false
	switch {
	case a.w == nil:
	case failed == nil:
		ok = a.s.answer(a)
	default:
		a.s.takeBack(a.questions)
		if len(a.owed) > 0 {
			_, _ = a.s.alone.memory.Take(context.Background(), a.now, a.owed) // it gives none
		}
		ok, err = a.s.decideAlone(a.now, a.hits)
	}
	var f ratelimit.Flusher
	if a.w != nil {
		f = a.w.Decided(ok, err)
	}
	if failed == nil { // else what was given up may still be read
		a.hits, a.w = nil, nil
		inquiries.Put(a)
	}
	return f
}

// Stats implements [ratelimit.Store]. How many keys there are only Redis knows, which other things may use too.
func (s *Store) Stats(int64) ratelimit.Stats {
	return ratelimit.Stats{Remote: s.remote()}
}

func (s *Store) remote() *ratelimit.Remote {
	m := s.metrics
	r := &ratelimit.Remote{
		Kind: "redis", Up: true, Since: s.started, Replicas: int(s.replicas.Load()), Fallback: s.o.fallback(),
		Calls: m.calls.Load(), Asked: m.asked.Load(), Leases: s.leases.count(), Local: m.local.Load(), Ahead: m.ahead.Load(), Alone: m.alone.Load(), Errors: m.errors.Load(), Refused: m.refused.Load(),
	}
	for _, l := range s.lanes {
		l.mu.Lock()
		r.Up = r.Up && !l.open.Load()
		if l.since.After(r.Since) {
			r.Since = l.since
		}
		if l.err != nil {
			r.Error = l.err.Error()
		}
		l.mu.Unlock()
	}
	return r
}
