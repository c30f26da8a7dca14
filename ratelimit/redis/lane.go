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
	sent      int64 // by the store's clock

	reply []byte
	err   error
}

// lane is the way to a part of Redis that fails as one: to all of it, or of a Cluster to a range of slots. While its
// scripts are under way, what comes is gathered for the next.
type lane struct {
	s     *Store
	probe string // the key of its heartbeats

	mu     sync.Mutex // guards everything declared below
	queue  []*question
	flying bool      // scripts are under way
	landed sync.Cond // they are not any more
	closed bool      // no questions are taken any more
	fails  int
	since  time.Time
	err    error

	open atomic.Bool   // Redis is left alone
	kick chan struct{} // it has just been left alone
}

var errQueue = errors.New("too many questions wait for Redis")

// submit has a question decided, and told to its inquiry by another goroutine.
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
	if !l.flying {
		l.flying = true
		go l.fly()
	}
	return nil
}

// fly sends what has gathered, until nothing is left.
func (l *lane) fly() {
	for {
		l.mu.Lock()
		n := min(len(l.queue), maxQuestions)
		if n == 0 {
			l.flying = false
			l.landed.Broadcast()
			l.mu.Unlock()
			return
		}
		batch := l.queue[:n:n]
		if l.queue = l.queue[n:]; len(l.queue) == 0 {
			l.queue = nil
		}
		l.mu.Unlock()
		if l.open.Load() {
			l.s.finishAll(batch, ratelimit.ErrUnavailable)
			continue
		}
		l.send(batch)
	}
}

// close waits until what is queued is answered, and takes nothing more.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for l.flying {
		l.landed.Wait()
	}
	l.open.Store(true)
}

// send has a batch decided, and tells those who wait for it. Where that takes too long, what waits behind it is not asked.
func (l *lane) send(batch []*question) {
	scripts := pack(batch, l.s.slotOf)
	sent := l.s.clock()
	timeout := l.s.o.Timeout
	ctx, cancel := context.WithTimeout(context.Background(), max(timeout-time.Duration(sent-batch[0].since), timeout/2))
	l.s.call(ctx, scripts)
	late := ctx.Err() != nil
	cancel()
	l.s.metrics.sent(scripts, len(batch), l.s.clock()-sent)
	var failed error
	for i := range scripts {
		x := &scripts[i]
		x.sent = sent
		if err := l.s.settle(x); err != nil {
			failed = err
		}
	}
	l.tell(failed)
	if late && failed != nil {
		l.mu.Lock()
		rest := l.queue
		l.queue = nil
		l.mu.Unlock()
		l.s.finishAll(rest, failed)
	}
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

// beat tells Redis that this replica is there, and takes note of whether it answers.
func (l *lane) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.s.o.Timeout)
	defer cancel()
	err := l.s.beat(ctx, l)
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
		l.beat(ctx)
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
