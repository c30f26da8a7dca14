package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
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

	// gather is for how long questions gather that nobody waits for.
	gather = 10 * time.Millisecond
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

// flight is what is under way to Redis: keys that are written and scripts that decide questions, or without any a heartbeat.
type flight struct {
	batch       []*question
	fresh       []fresh  // questions of it that are decided here, if their keys are not there
	scripts     []script // of the others
	answers     int      // how many of it are waited for, but for those that are to fly again
	sent, until int64    // by the store's clock: it is given up then
}

// lane is the way to a part of Redis that fails as one: to all of it, or of a Cluster to a range of slots. While its
// scripts are under way, what comes is gathered for the next.
type lane struct {
	s     *Store
	probe string      // the key of its heartbeats
	time  *serverTime // of its part of Redis

	mu      sync.Mutex // guards everything declared below
	queue   []*question
	due     bool        // a heartbeat is to be sent
	urgent  bool        // somebody waits for what is queued
	hurried bool        // or for what is about to be
	later   *time.Timer // runs out when what is queued is to be sent though nobody waits
	set     bool        // it runs
	flying  bool        // what is queued goes by itself; else wake has fly begin again
	flight  *flight     // that is under way and not given up
	watch   *time.Timer // runs out when a flight may have to be given up
	armed   int64       // when, by the store's clock; 0: it does not run
	landed  sync.Cond   // nothing flies any more
	luck    luck
	closed  bool // no questions are taken any more
	fails   int
	since   time.Time
	err     error

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
	if l.time = &s.time; s.o.Cluster {
		l.time = new(serverTime) // each server has a clock of its own
	}
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
	switch {
	case q.waited():
		l.urgent = true
	case l.hurried:
		l.urgent, l.hurried = true, false
		l.begin()
	case !l.urgent:
		l.begin()
	}
	return nil
}

// hurry has what is queued, or is about to be, not wait for more.
func (l *lane) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urgent, l.hurried = len(l.queue) > 0, true
}

// flush sees to it that what has gathered is sent; what nobody waits for, when there is more of it.
func (l *lane) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
}

// begin is flush. mu is held.
func (l *lane) begin() {
	if !l.flying && l.ready() {
		l.flying = true
		l.wake <- struct{}{}
	}
}

// ready says whether there is something that is to be sent now, and sees to what is to be sent later. mu is held.
func (l *lane) ready() bool {
	switch {
	case l.due, len(l.queue) >= maxQuestions, l.urgent && len(l.queue) > 0:
		return true
	case len(l.queue) == 0, l.set:
	case l.later == nil:
		l.set, l.later = true, time.AfterFunc(gather, l.late)
	default:
		l.set = true
		l.later.Reset(gather)
	}
	return false
}

// late sends what has waited for more.
func (l *lane) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set, l.urgent = false, len(l.queue) > 0
	if !l.closed {
		l.begin()
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
	f := &flight{batch: batch}
	l.load(f)
	l.takeOff(f)
	var err error
	if len(batch) > 0 {
		l.s.call(f.fresh, f.scripts)
	} else {
		err = l.s.beat(l)
	}
	if !l.land(f) {
		return false
	}
	l.settle(f, err)
	return true
}

// load makes what is sent of a batch.
func (l *lane) load(f *flight) {
	now := l.now(f.batch)
	var others []*question
	for _, q := range f.batch {
		if q.waited() {
			f.answers++
		}
		if q.fresh && now != 0 {
			f.fresh = append(f.fresh, q.decideFresh(now))
		} else {
			others = append(others, q)
		}
	}
	f.scripts = pack(others, l.s.slotOf)
}

// now is when a batch that is sent now is decided, by Redis's clock; 0: only Redis knows.
func (l *lane) now(batch []*question) int64 {
	switch {
	case l.s.o.virtual:
		return l.s.virtualTime(batch)
	case l.time.sure():
		return l.time.now(l.s.clock())
	}
	return 0
}

// heard takes note that Redis's clock showed at after what was sent.
func (l *lane) heard(at, sent int64) {
	if l.s.o.virtual {
		return
	}
	received := l.s.clock()
	l.s.time.heard(at, sent, received)
	if l.time != &l.s.time {
		l.time.heard(at, sent, received)
	}
}

// take gives what is to be sent next, if there is something; nothing is a heartbeat.
func (l *lane) take() (batch []*question, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.ready():
		l.flying = false
		l.landed.Broadcast()
		return nil, false
	case l.due:
		l.due = false
		return nil, true
	}
	n := min(len(l.queue), maxQuestions)
	batch = l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue, l.urgent = nil, false
	}
	for _, q := range batch {
		q.fresh = q.fresh && l.luck.good()
	}
	return batch, true
}

// takeOff has a flight given up where it does not land in time.
func (l *lane) takeOff(f *flight) {
	timeout := int64(l.s.o.Timeout)
	f.sent = l.s.clock()
	f.until = f.sent + timeout
	if first := slices.IndexFunc(f.batch, (*question).waited); first >= 0 {
		f.until = max(f.batch[first].since+timeout, f.sent+timeout/2)
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
	l.queue, l.urgent = nil, false
	l.mu.Unlock()
	l.settle(f, errLate)
	l.s.finishAll(rest, errLate)
	l.s.flights.Go(l.fly)
}

// land says whether a flight has landed in time. What was taken for fresh and is not, flies again.
func (l *lane) land(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flight != f {
		return false
	}
	l.flight = nil
	var again []*question
	for i := range f.fresh {
		k := &f.fresh[i]
		if k.err == nil {
			l.luck.note(k.there)
		}
		if k.there {
			k.q.doubt()
			again = append(again, k.q)
			if k.q.waited() {
				f.answers--
			}
		}
	}
	if len(again) > 0 {
		l.queue, l.urgent = append(again, l.queue...), true
	}
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
		err = l.settleAll(f)
	}
	l.s.metrics.sent(len(f.fresh)+len(f.scripts), len(f.batch), f.answers, l.s.clock()-f.sent)
	l.tell(err)
}

// settleAll gives one of the errors that there were.
func (l *lane) settleAll(f *flight) (err error) {
	var told flushers
	for i := range f.fresh {
		k := &f.fresh[i]
		if k.there {
			continue
		}
		if e := l.settleFresh(k, &told); e != nil {
			err = e
		}
	}
	for i := range f.scripts {
		if e := l.settleScript(&f.scripts[i], f.sent, &told); e != nil {
			err = e
		}
	}
	told.flush()
	return err
}

// settleFresh tells of a key that was to be written.
func (l *lane) settleFresh(k *fresh, f *flushers) error {
	if k.err == nil {
		l.s.hear(k.q, k.at)
	}
	l.s.finish(k.q, k.err, f)
	return k.err
}

// settleScript takes the answer of a script for its questions, and gives the error if it has none.
func (l *lane) settleScript(x *script, sent int64, f *flushers) error {
	err := x.err
	var now int64
	var at []stand
	if err == nil {
		now, at, err = readReply(x.reply, len(x.names))
	}
	if err == nil {
		l.heard(now, sent)
		for _, q := range x.questions {
			q.decide(now, at)
			l.s.hear(q, now)
		}
	}
	for _, q := range x.questions {
		l.s.finish(q, err, f)
	}
	return err
}

// drain waits until what is queued is answered.
func (l *lane) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.empty()
}

// empty is drain. mu is held.
func (l *lane) empty() {
	for len(l.queue) > 0 || l.flying {
		l.urgent = len(l.queue) > 0
		l.begin()
		l.landed.Wait()
	}
}

// close waits until what is queued is answered, and takes nothing more.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.empty()
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
