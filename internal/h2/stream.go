package h2

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stream is one call. Its connection's mu guards it.
type stream struct {
	c       *conn
	id      uint32
	unary   bool // of the method that is answered here
	ended   bool // the request has come whole
	aborted bool // nobody waits for the answer
	closed  bool // the handler wants no more of the request

	body       []byte             // what has come of the request and is not read
	length     int64              // what the client says there is still to come; below 0: it does not say
	recvWindow int                // bytes the client may send
	received   int                // bytes for which it has not got new credit
	sendWindow int                // bytes we may send
	cancel     context.CancelFunc // of what works at the answer; nil: nothing does

	pending []byte    // a unary answer that waits for a window
	sent    int       // bytes of it
	changed sync.Cond // of all others: body, window, or an end; L is nil for unary
	call    *Call     // nil: it is none
}

const prefixSize = 5 // of a message of gRPC: a flag, and its length

// abort stops what works at the answer.
func (s *stream) abort() {
	s.aborted = true
	if s.cancel != nil {
		s.cancel()
	}
	if s.call != nil {
		s.call.abort()
	}
	s.wake()
}

func (s *stream) wake() {
	if s.changed.L != nil {
		s.changed.Broadcast()
	}
}

// count takes bytes of the body, and says whether they are as many as the client said.
func (s *stream) count(n int, last bool) bool {
	if s.length < 0 {
		return true
	}
	s.length -= int64(n)
	return s.length >= 0 && (s.length == 0 || !last)
}

// asks says that the stream is a question.
func (s *stream) asks(length int64) {
	s.unary, s.length = true, length
}

// gather takes a part of a question, which as a rule is all of it.
func (s *stream) gather(f *frame, length int) error {
	last := f.flags&flagEndStream != 0
	if !s.count(len(f.payload), last) {
		return s.c.refuse(s.id, protocolError)
	}
	if last && len(s.body) == 0 {
		s.ask(f.payload)
		return nil
	}
	if len(s.body)+len(f.payload) > maxMessage+prefixSize || s.c.gathering+len(f.payload) > maxGathering {
		s.fail(status.New(codes.ResourceExhausted, "the question is too long"))
		return s.c.refuse(s.id, noError)
	}
	s.body = append(s.body, f.payload...)
	s.c.gathering += len(f.payload)
	if last {
		return s.requestEnded()
	}
	s.credit(length)
	return nil
}

// credit lets the client send as much again on the stream.
func (s *stream) credit(n int) {
	if s.received += n; s.received >= streamWindow/2 {
		s.c.out = appendWindowUpdate(s.c.out, s.id, s.received)
		s.recvWindow += s.received
		s.received = 0
	}
}

// requestEnded says that nothing more comes.
func (s *stream) requestEnded() error {
	switch {
	case !s.count(0, true):
		return s.c.refuse(s.id, protocolError)
	case s.call != nil:
		s.call.ended()
	case s.unary:
		s.c.gathering -= len(s.body)
		s.ask(s.body)
	default:
		s.ended = true
		s.wake()
	}
	return nil
}

// ask answers a question, unless that has to wait.
func (s *stream) ask(body []byte) {
	s.ended = true
	c := s.c
	c.answered++
	request, err := unframe(body)
	if err != nil {
		s.fail(err)
		return
	}
	table, start := c.table, len(c.out)
	c.out = s.appendAnswer(c.out)
	message := len(c.out)
	out, ok, e := c.srv.Unary.Answer(request, c.out, s)
	if ok && e == nil {
		c.out = out
		if s.finish(message) {
			c.recycle(s)
		}
		return
	}
	c.out, c.table = c.out[:start], table
	if e != nil {
		s.fail(status.Convert(e))
		return
	}
	c.running++
	c.srv.done.Add(1)
}

var (
	errIncomplete = status.New(codes.Internal, "the question is not one whole message")
	errCompressed = status.New(codes.Unimplemented, "the question is compressed, and does not say how")
)

// unframe takes the one message out of a body.
func unframe(body []byte) ([]byte, *status.Status) {
	if len(body) < prefixSize || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-prefixSize) {
		return nil, errIncomplete
	}
	if body[0] != 0 {
		return nil, errCompressed
	}
	return body[prefixSize:], nil
}

// appendAnswer appends what comes before the message of an answer; finish fills in how long it is.
func (s *stream) appendAnswer(out []byte) []byte {
	out = s.c.appendHeaders(out, s.id)
	out = appendHead(out, 0, frameData, 0, s.id)
	return append(out, 0, 0, 0, 0, 0)
}

// finish ends the answer that stands at the end of out, its message from so far on, and says whether that is all:
// else the rest is pending.
func (s *stream) finish(message int) bool {
	c := s.c
	binary.BigEndian.PutUint32(c.out[message-4:], uint32(len(c.out)-message))
	n := len(c.out) - message + prefixSize
	if n > min(c.peerFrame, c.sendWindow, s.sendWindow) {
		if c.pending+n > maxPending {
			c.out = c.out[:message-prefixSize-headSize]
			_ = c.refuse(s.id, enhanceYourCalm)
			return false
		}
		s.pending = slices.Clone(c.out[message-prefixSize:])
		c.pending += len(s.pending)
		c.out = c.out[:message-prefixSize-headSize]
		s.send()
		return false
	}
	head := c.out[message-prefixSize-headSize:]
	head[0], head[1], head[2] = byte(n>>16), byte(n>>8), byte(n)
	c.sendWindow -= n
	c.out = c.appendTrailers(c.out, s.id)
	c.drop(s)
	return true
}

// unblock goes on with what waited for a window.
func (s *stream) unblock() {
	if s.pending != nil {
		s.send()
	}
	if s.call != nil {
		s.call.pourLater()
	}
	s.wake()
}

// send writes as much as may be of what is pending, and at its end the trailers.
func (s *stream) send() {
	for s.sent < len(s.pending) {
		n := s.sendable(len(s.pending) - s.sent)
		if n == 0 {
			return
		}
		s.appendData(s.pending[s.sent : s.sent+n])
		s.sent += n
	}
	s.c.out = s.c.appendTrailers(s.c.out, s.id)
	s.c.drop(s)
}

func (s *stream) sendable(n int) int {
	return max(min(n, s.c.peerFrame, s.c.sendWindow, s.sendWindow), 0)
}

func (s *stream) appendData(b []byte) {
	s.c.sendWindow -= len(b)
	s.sendWindow -= len(b)
	s.c.out = append(appendHead(s.c.out, len(b), frameData, 0, s.id), b...)
}

// fail answers a call with an error.
func (s *stream) fail(err *status.Status) {
	c := s.c
	block := appendLiteral(c.prefix(nil), ":status", "200")
	block = appendLiteral(block, "content-type", "application/grpc")
	c.out = appendBlock(c.out, s.id, flagEndStream, appendStatus(block, err), c.peerFrame)
	c.drop(s)
}

func appendStatus(block []byte, s *status.Status) []byte {
	block = appendLiteral(block, "grpc-status", statusCode(s.Code()))
	if s.Message() != "" {
		block = appendLiteral(block, "grpc-message", encodeMessage(s.Message()))
	}
	return block
}

// Answer implements [Later].
func (s *stream) Answer(answer []byte, err error) Flusher {
	c := s.c
	defer c.srv.done.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	switch {
	case s.aborted || c.err != nil:
	case err != nil:
		s.fail(status.Convert(err))
	default:
		c.out = s.appendAnswer(c.out)
		message := len(c.out)
		c.out = append(c.out, answer...)
		if s.finish(message) {
			c.recycle(s)
		}
	}
	return c
}

// recycle keeps the memory of a stream that nobody knows any more.
func (c *conn) recycle(s *stream) {
	if len(c.free) < 64 && cap(s.body) <= firstBuffer {
		c.free = append(c.free, s)
	}
}
