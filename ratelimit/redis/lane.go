package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

//go:embed beat.lua
var beatScript string

//go:embed decide.lua
var decideScript string

const (
	maxQuestions = 256  // of a script: half a millisecond
	maxKeys      = 4000 // of a script: Lua takes 8000 arguments
	maxQueued    = 8192 // questions that wait to be sent; more are not taken
	maxFailures  = 3    // in a row, and Redis is left alone until a probe succeeds
)

// script is one call of decide.lua, with all its keys in one slot.
type script struct {
	questions []*question
	names     []string
	places    map[string]int // of names, from 1
	body      []byte

	reply []byte
	err   error
}

// flight is what is under way to Redis: scripts that decide questions, or without any a heartbeat.
type flight struct {
	batch       []*question
	scripts     []script
	sent, until int64 // by the store's clock: it is given up then
}

// lane is the way to a part of Redis that fails as one: to all of it, or of a Cluster to a range of slots. While its
// scripts are under way, what comes is gathered for the next.
type lane struct {
	s     *Store
	probe string // the key of its heartbeats

	mu     sync.Mutex // guards everything declared below
	queue  []*question
	due    bool        // a heartbeat is to be sent
	flying bool        // what is queued goes by itself; else wake has fly begin again
	flight *flight     // that is under way and not given up
	watch  *time.Timer // runs out when a flight may have to be given up
	armed  int64       // when, by the store's clock; 0: it does not run
	landed sync.Cond   // nothing flies any more
	closed bool        // no questions are taken any more
	fails  int
	since  time.Time
	err    error

	open atomic.Bool   // Redis is left alone
	kick chan struct{} // it has just been left alone
	wake chan struct{}
}

var (
	errQueue = errors.New("too many questions wait for Redis")
	errLate  = errors.New("redis does not answer in time")
)

func newLane(s *Store, probe string) *lane {
	l := &lane{s: s, probe: probe, since: s.started, err: errNotYet, kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	l.landed.L = &l.mu
	l.open.Store(true)
	return l
}

// submit has a question decided with the next flight, and told to its inquiry by another goroutine.
func (l *lane) submit(q *question) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.open.Load() {
		return ratelimit.ErrUnavailable
	}
	if len(l.queue) >= maxQueued {
		return errQueue
	}
	l.queue = append(l.queue, q)
	return nil
}

// flush sees to it that what has gathered is sent.
func (l *lane) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
}

// begin is flush. mu is held.
func (l *lane) begin() {
	if !l.flying && (len(l.queue) > 0 || l.due) {
		l.flying = true
		l.wake <- struct{}{}
	}
}

// fly sends what gathers until close, or one of its flights was given up: then another goroutine has taken over.
func (l *lane) fly() {
	for again := true; again; _, again = <-l.wake {
		for batch, more := l.take(); more; batch, more = l.take() {
			if len(batch) > 0 && l.open.Load() {
				l.s.finishAll(batch, ratelimit.ErrUnavailable)
				continue
			}
			if !l.send(batch) {
				return
			}
		}
	}
}

// send has a batch decided, or without any sends a heartbeat, and says whether that was not given up.
func (l *lane) send(batch []*question) bool {
	f := &flight{batch: batch, scripts: pack(batch, l.s.slotOf)}
	l.takeOff(f)
	var err error
	if len(batch) > 0 {
		l.s.call(f.scripts)
	} else {
		err = l.s.beat(l)
	}
	if !l.land(f) {
		return false
	}
	l.settle(f, err)
	return true
}

// take gives what is to be sent next, if there is something; nothing is a heartbeat.
func (l *lane) take() (batch []*question, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), maxQuestions)
	switch {
	case l.due:
		l.due = false
		return nil, true
	case n == 0:
		l.flying = false
		l.landed.Broadcast()
		return nil, false
	}
	batch = l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return batch, true
}

// takeOff has a flight given up where it does not land in time.
func (l *lane) takeOff(f *flight) {
	timeout := int64(l.s.o.Timeout)
	f.sent = l.s.clock()
	f.until = f.sent + timeout
	if len(f.batch) > 0 {
		f.until = max(f.batch[0].since+timeout, f.sent+timeout/2)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight = f
	l.watchOver(f)
}

// watchOver has a flight given up in time. The timer is left to run when one has landed: as a rule the next has begun
// before it ends. mu is held.
func (l *lane) watchOver(f *flight) {
	if l.armed != 0 && l.armed <= f.until {
		return
	}
	l.armed = f.until
	left := time.Duration(f.until - l.s.clock())
	if l.watch == nil {
		l.watch = time.AfterFunc(left, l.overdue)
	} else {
		l.watch.Reset(left)
	}
}

// overdue gives up what has not landed in time. What has gathered behind it is not asked.
func (l *lane) overdue() {
	l.mu.Lock()
	l.armed = 0
	f := l.flight
	if f == nil || l.s.clock() < f.until {
		if f != nil {
			l.watchOver(f)
		}
		l.mu.Unlock()
		return
	}
	l.flight = nil
	rest := l.queue
	l.queue = nil
	l.mu.Unlock()
	l.settle(f, errLate)
	l.s.finishAll(rest, errLate)
	l.s.flights.Go(l.fly)
}

// land says whether a flight has landed in time.
func (l *lane) land(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flight != f {
		return false
	}
	l.flight = nil
	return true
}

// settle tells those who wait for a flight, and takes note of how it went.
func (l *lane) settle(f *flight, err error) {
	if len(f.batch) == 0 {
		l.beaten(err)
		return
	}
	if err != nil {
		l.s.finishAll(f.batch, err)
	} else {
		for i := range f.scripts {
			if e := l.s.settle(&f.scripts[i], f.sent); e != nil {
				err = e
			}
		}
	}
	l.s.metrics.sent(len(f.scripts), len(f.batch), l.s.clock()-f.sent)
	l.tell(err)
}

// close waits until what is queued is answered, and takes nothing more.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.begin() // of what nobody has flushed yet
	for l.flying {
		l.landed.Wait()
	}
	l.open.Store(true)
	close(l.wake)
}

// pack makes scripts of questions, one for each slot, or several where they have many keys. In each those come first that
// decide.lua is fastest at.
func pack(batch []*question, slotOf func(string) uint16) []script {
	var scripts []script
	var last map[uint16]int // by slot
	for _, plain := range []bool{true, false} {
		for _, q := range batch {
			if q.plain() != plain {
				continue
			}
			slot := slotOf(q.key())
			at, ok := last[slot]
			if !ok || len(scripts[at].names)+len(q.parts) > maxKeys {
				at = len(scripts)
				if last == nil {
					last = map[uint16]int{}
				}
				last[slot] = at
				scripts = append(scripts, script{places: make(map[string]int, len(batch))})
			}
			scripts[at].add(q)
		}
	}
	return scripts
}

func (x *script) add(q *question) {
	x.questions = append(x.questions, q)
	for i := range q.parts {
		p := &q.parts[i]
		if p.key != "" {
			if p.index = x.places[p.key]; p.index == 0 {
				x.names = append(x.names, p.key)
				p.index = len(x.names)
				x.places[p.key] = p.index
			}
		}
		x.body = appendPart(x.body, p, i == len(q.parts)-1, q.plain())
	}
}

// key is one of the question's; there is one, and all are in one slot.
func (q *question) key() string {
	for i := range q.parts {
		if q.parts[i].key != "" {
			return q.parts[i].key
		}
	}
	return ""
}

// tell takes note of how a call went.
func (l *lane) tell(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.fails = 0
		return
	}
	l.s.metrics.errors.Add(1)
	l.err = err
	if l.fails++; l.fails >= maxFailures && !l.open.Load() {
		l.leave()
	}
}

// leave stops asking, until a heartbeat gets through. mu is held.
func (l *lane) leave() {
	l.open.Store(true)
	l.since = time.Now()
	l.s.log.Error("redis is not asked until it answers again", "error", l.err, "meanwhile", l.s.o.fallback())
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// beat has Redis told that this replica is there.
func (l *lane) beat() {
	if err := l.s.connect(); err != nil {
		l.beaten(err)
		return
	}
	l.mu.Lock()
	l.due = true
	l.mu.Unlock()
	l.flush()
}

// beaten takes note of whether a heartbeat was answered.
func (l *lane) beaten(err error) {
	l.s.client.tell(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.err = fmt.Errorf("heartbeat: %w", err)
		if l.fails++; l.fails >= maxFailures && !l.open.Load() {
			l.leave()
		}
	case l.open.Load():
		l.fails, l.err = 0, nil
		l.open.Store(false)
		l.since = time.Now()
		l.s.log.Info("redis is asked", "replicas", l.s.replicas.Load())
	default:
		l.fails = 0
	}
}

const (
	beatEvery  = 500 * time.Millisecond
	probeEvery = 50 * time.Millisecond // while Redis does not answer
)

// run beats until ctx is done.
func (l *lane) run(ctx context.Context) {
	for {
		l.beat()
		if l == l.s.lanes[0] {
			l.s.turn(false)
		}
		wait := beatEvery
		if l.open.Load() {
			wait = probeEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-l.kick:
		}
	}
}
