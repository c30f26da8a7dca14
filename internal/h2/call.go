package h2

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Calls has the methods whose both sides are streams of messages.
type Calls interface {
	// Begin takes a call of a method, or gives nil where there is no such method. It may not send yet.
	Begin(path string, c *Call) Receiver
}

// Several has the methods of several.
type Several []Calls

// Begin implements [Calls].
func (all Several) Begin(path string, c *Call) Receiver {
	for _, one := range all {
		if r := one.Begin(path, c); r != nil {
			return r
		}
	}
	return nil
}

// Receiver takes what a client says in a call. The goroutine that reads the connection calls it, so that a client is
// told nothing and heard by nobody else meanwhile.
type Receiver interface {
	// Receive takes a message, which is the connection's memory and is kept no longer than the call. An error ends the
	// call with it; Done is not called then.
	Receive(message []byte) error
	// Done is told once that the client has ended the call or is gone. It is not called after [Call.End].
	Done()
}

// Call is one call. Its methods may be called by any goroutine, and wait for no client.
type Call struct {
	s        *stream
	receiver Receiver

	// Its connection's mu guards everything below.
	queue   [][]byte    // to be sent, shared with others
	queued  int         // bytes of it
	headed  bool        // its headers are sent
	pouring bool        // it is among the connection's pouring
	closing bool        // the client says no more, and has yet to be sent the queue
	over    bool        // nothing is sent or received any more
	loose   int         // bytes that have come of a long message and hold no room
	room    int         // bytes of room that the message which is being gathered holds,
	counted int         // or which count as gathering instead
	late    *time.Timer // cuts the client off if a message that holds room does not come; nil: it is not waited for
	due     time.Time   // when it has to have come
	dueAt   int         // so many bytes
}

const (
	maxCallMessage = 16 << 20
	longMessage    = 4 << 10          // from where on a message has its turn
	turnsSize      = 8 << 20          // bytes of long messages that are taken at once, by all connections
	maxLoose       = 64 << 10         // what a connection may have begun without room: as much as a client may send by itself
	roomSize       = 64 << 20         // bytes of messages that are longer, by all connections
	gatherTime     = 10 * time.Second // for so much of a message with room to come,
	gatherSize     = 64 << 10         // if others wait for room
)

// RemoteAddr is the client's.
func (k *Call) RemoteAddr() net.Addr { return k.s.c.nc.RemoteAddr() }

// TLS is what the client has shown, or nil.
func (k *Call) TLS() *tls.ConnectionState { return k.s.c.state }

// Send sends a message made of its head, which is not kept, and of pieces, which may be shared and are not changed after.
// What the client has no room for is kept until it has: whoever sends must bound that. It goes out with the next
// [Call.Flush], or by itself if it is sent while a message is received.
func (k *Call) Send(head []byte, pieces ...[]byte) {
	n := len(head)
	for _, p := range pieces {
		n += len(p)
	}
	c := k.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case k.over || k.closing:
	case k.goesNow(n + prefixSize):
		k.appendNow(n, head, pieces)
	default:
		k.keep(n, head, pieces)
	}
}

// goesNow says whether so many bytes can be written at once, and nothing is before them.
func (k *Call) goesNow(n int) bool {
	c := k.s.c
	return k.queued == 0 && len(c.pouring) == 0 && !c.writing && c.err == nil &&
		n <= min(k.s.sendable(n), maxFrame) && len(c.out)+n <= pourSize
}

// appendNow appends a message of n bytes to what is written next. It is what happens to nearly all short ones, and
// makes nothing that is left to the collector.
func (k *Call) appendNow(n int, head []byte, pieces [][]byte) {
	c := k.s.c
	k.beginData(n + prefixSize)
	c.out = append(binary.BigEndian.AppendUint32(append(c.out, 0), uint32(n)), head...)
	for _, p := range pieces {
		c.out = append(c.out, p...)
	}
}

// keep puts a message of n bytes behind all that is to be sent.
func (k *Call) keep(n int, head []byte, pieces [][]byte) {
	if k.queue == nil {
		k.queue = make([][]byte, 0, 1+len(pieces))
	}
	first := binary.BigEndian.AppendUint32(make([]byte, 1, prefixSize+len(head)), uint32(n))
	k.queue = append(append(k.queue, append(first, head...)), pieces...)
	k.queued += n + prefixSize
	k.pourLater()
}

// beginData begins a frame of n bytes of messages.
func (k *Call) beginData(n int) {
	s, c := k.s, k.s.c
	if c.out == nil {
		c.out = large.take()[:0]
	}
	if !k.headed {
		k.headed = true
		c.out = c.appendHeaders(c.out, s.id)
	}
	c.sendWindow -= n
	s.sendWindow -= n
	c.out = appendHead(c.out, n, frameData, 0, s.id)
}

// Flush has everything written for which there is room.
func (k *Call) Flush() {
	k.s.c.mu.Lock()
	defer k.s.c.mu.Unlock()
	k.s.c.flushSoon()
}

// End ends the call with an error, or nil. What is not sent yet is not sent any more.
func (k *Call) End(err error) {
	c := k.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.over {
		k.finish(status.Convert(err))
		c.flushSoon()
	}
}

// begin makes a stream a call, if there is such a method.
func (s *stream) begin(r *request) bool {
	c, k := s.c, &Call{s: s}
	c.mu.Unlock()
	k.receiver = c.srv.Calls.Begin(r.path, k)
	c.mu.Lock()
	if k.receiver == nil {
		return false
	}
	s.call, s.length = k, r.length
	if s.aborted { // meanwhile
		k.abort()
	}
	return true
}

// data takes a part of what the client says.
func (k *Call) data(f *frame, length int) error {
	s := k.s
	last := f.flags&flagEndStream != 0
	if !s.count(len(f.payload), last) {
		return s.c.refuse(s.id, protocolError)
	}
	if s.ended = last; !last {
		s.credit(length)
	}
	for p := f.payload; len(p) > 0 && !k.over; {
		p = k.take(p)
	}
	if last {
		k.ended()
	}
	return nil
}

// ended ends a call whose client says no more.
func (k *Call) ended() {
	k.s.ended = true
	switch {
	case k.over:
	case len(k.s.body) > 0:
		k.fail(errIncomplete)
	case k.queued > 0:
		k.closing = true
		k.tell()
	default:
		k.finish(status.New(codes.OK, ""))
		k.tell()
	}
}

// take takes a message or a part of one, and gives what comes after it.
func (k *Call) take(p []byte) []byte {
	s := k.s
	if len(s.body) == 0 && len(p) >= prefixSize {
		if n := messageSize(p); len(p)-prefixSize >= n && n < longMessage && p[0] == 0 {
			k.deliver(p[prefixSize : prefixSize+n]) // where it lies
			return p[prefixSize+n:]
		}
	}
	if missing := prefixSize - len(s.body); missing > 0 {
		n := min(missing, len(p))
		s.body = append(s.body, p[:n]...)
		if p = p[n:]; len(s.body) < prefixSize || !k.expect(messageSize(s.body)) {
			return p
		}
	}
	size := messageSize(s.body)
	n := min(prefixSize+size-len(s.body), len(p))
	if size >= longMessage && !k.admit(size, n) {
		return p
	}
	if s.body = append(s.body, p[:n]...); len(s.body) == prefixSize+size {
		message := s.body[prefixSize:]
		s.body = nil
		k.calm()
		k.deliver(message)
		k.leave()
		s.c.leaveTurn()
	} else if k.room > 0 {
		k.hurry()
	}
	return p[n:]
}

func messageSize(prefix []byte) int { return int(binary.BigEndian.Uint32(prefix[1:])) }

// expect says whether a message of n bytes is taken, and makes room for a short one.
func (k *Call) expect(n int) bool {
	switch {
	case k.s.body[0] != 0:
		k.fail(errCompressed)
	case n > maxCallMessage:
		k.fail(errTooLong)
	case n < longMessage:
		k.s.body = slices.Grow(k.s.body, n)
	}
	return !k.over
}

var errTooLong = status.New(codes.ResourceExhausted, "the message is too long")

// admit waits until n bytes more of a message of that size may be taken. What a client may send by itself is taken in turn
// with others, as far as it is there: what has not come holds up nobody, and thousands that come at once are taken one
// after the other, while others are served. What is longer has room made for it first.
func (k *Call) admit(size, n int) bool {
	c := k.s.c
	switch {
	case k.room+k.counted > 0:
		return true
	case c.loose+n > maxLoose:
		return k.makeRoom(size)
	}
	c.loose += n
	k.loose += n
	if c.turn == 0 {
		turn := min(size, maxLoose)
		if !c.wait(&c.srv.turns, turn) {
			return false
		}
		c.turn = turn
	}
	return !k.over
}

func (k *Call) makeRoom(size int) bool {
	c := k.s.c
	c.leaveTurn()
	if c.gatherer != nil { // who holds room must not wait for more
		if c.gathering+size > maxGathering {
			k.fail(errTooLong)
			return false
		}
		c.gathering += size
		k.counted = size
	} else {
		if !c.wait(&c.srv.room, size) {
			return false
		}
		if k.over {
			c.srv.room.leave(c.origin(), size)
			return false
		}
		k.room, c.gatherer = size, k
	}
	c.loose -= k.loose
	k.loose = 0
	k.s.body = slices.Grow(k.s.body, prefixSize+size-len(k.s.body))
	return true
}

// wait waits until a gate has let n bytes in, while all that is to be written goes out.
func (c *conn) wait(g *gate, n int) bool {
	ready := g.enter(c.origin(), n)
	if ready == nil {
		return true
	}
	c.waits = true
	c.flushUnary()
	c.flushSoon() // who does not read may not hold its turn for that
	c.mu.Unlock()
	var err error
	select {
	case <-ready:
	case <-c.srv.ctx.Done():
		err = context.Cause(c.srv.ctx)
	}
	c.mu.Lock()
	c.waits = false
	if err != nil {
		c.fail(err)
	}
	return err == nil
}

func (c *conn) origin() origin { return originOf(c.nc, c.state) }

// leaveTurn lets others have their turns.
func (c *conn) leaveTurn() {
	if c.turn > 0 {
		c.srv.turns.leave(c.origin(), c.turn)
		c.turn = 0
	}
}

// hurry sets the time in which the next part of a message that holds room has to come, if others wait for that. A client
// is cut off then, whether it is silent, says a little now and then, or reads nothing, so that it is not read either.
func (k *Call) hurry() {
	if n := len(k.s.body); k.late == nil || n >= k.dueAt {
		k.due, k.dueAt = time.Now().Add(gatherTime), n+gatherSize
	}
	if k.late != nil {
		return
	}
	c := k.s.c
	var late *time.Timer
	late = time.AfterFunc(gatherTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		left := time.Until(k.due)
		switch {
		case k.late != late:
		case left > 0:
			late.Reset(left)
		case c.waits || !c.srv.room.busy():
			late.Reset(gatherTime)
		default:
			c.fail(errLate)
		}
	})
	k.late = late
}

var errLate = errors.New("a long message does not come")

// calm ends that: the message has come, or will not.
func (k *Call) calm() {
	if k.late != nil {
		k.late.Stop()
		k.late = nil
	}
}

// leave lets go of what a message that was gathered held.
func (k *Call) leave() {
	c := k.s.c
	c.gathering -= k.counted
	c.loose -= k.loose
	k.counted, k.loose = 0, 0
	k.calm()
	if k.room > 0 {
		c.srv.room.leave(c.origin(), k.room)
		k.room, c.gatherer = 0, nil
	}
}

// deliver gives a message to who waits for it, and lets go of mu meanwhile.
func (k *Call) deliver(message []byte) {
	c := k.s.c
	c.mu.Unlock()
	err := k.receiver.Receive(message)
	c.mu.Lock()
	if err != nil && !k.over {
		k.finish(status.Convert(err))
	}
}

// fail ends the call for a mistake of the client's.
func (k *Call) fail(err *status.Status) {
	k.finish(err)
	k.tell()
}

// finish writes the end of a call, which is over then.
func (k *Call) finish(st *status.Status) {
	s, c := k.s, k.s.c
	k.end()
	switch {
	case !k.headed:
		s.fail(st)
	case st.Code() == codes.OK:
		c.out = c.appendTrailers(c.out, s.id)
	default:
		c.out = appendBlock(c.out, s.id, flagEndStream, appendStatus(c.prefix(nil), st), c.peerFrame)
	}
	if !s.ended {
		c.out = appendReset(c.out, s.id, noError)
	}
	c.drop(s)
}

// abort says that the client has given the call up, or is gone.
func (k *Call) abort() {
	if !k.over {
		k.end()
		if !k.closing {
			k.tell()
		}
	}
	k.leave()
}

func (k *Call) end() {
	k.over = true
	k.queue, k.queued = nil, 0
	k.s.body = nil
}

// tell has the receiver told, when mu can be let go of.
func (k *Call) tell() { k.s.c.over = append(k.s.c.over, k) }

func (c *conn) tellOver() {
	for len(c.over) > 0 {
		over := c.over
		c.over = nil
		c.mu.Unlock()
		for _, k := range over {
			k.receiver.Done()
		}
		c.mu.Lock()
	}
}

// pourLater notes that there may be something to write.
func (k *Call) pourLater() {
	if k.queued > 0 && !k.pouring {
		k.pouring = true
		k.s.c.pouring = append(k.s.c.pouring, k)
	}
}

// pour adds to out of the messages of calls, in turn, as much as is written at once and clients have room for.
func (c *conn) pour() {
	for len(c.pouring) > 0 && len(c.out) < pourSize {
		k := c.pouring[0]
		if c.pouring = c.pouring[1:]; k.pour() {
			c.pouring = append(c.pouring, k)
		} else {
			k.pouring = false
		}
	}
	if len(c.pouring) == 0 {
		c.pouring = nil
	}
	if len(c.out) == 0 && c.out != nil {
		large.give(c.out)
		c.out = nil
	}
}

// pour adds a frame, and says whether there is more.
func (k *Call) pour() bool {
	s, c := k.s, k.s.c
	n := min(s.sendable(k.queued), maxFrame)
	if n == 0 {
		return false
	}
	k.beginData(n)
	k.queued -= n
	for n > 0 {
		m := min(n, len(k.queue[0]))
		c.out = append(c.out, k.queue[0][:m]...)
		n -= m
		if k.queue[0] = k.queue[0][m:]; len(k.queue[0]) == 0 {
			k.queue[0] = nil
			k.queue = k.queue[1:]
		}
	}
	if k.queued == 0 {
		k.queue = nil
		if k.closing {
			k.finish(status.New(codes.OK, ""))
		}
	}
	return k.queued > 0 && s.sendable(1) > 0
}
