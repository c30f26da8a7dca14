package h2

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

const (
	maxStreams    = 1024     // at once, on a connection
	maxHeaders    = 32 << 10 // bytes of a header block, and of what it unpacks to
	maxMessage    = 1 << 20  // bytes of a question
	maxGathering  = 4 << 20  // bytes of questions on a connection that are not complete
	connWindow    = 1 << 20  // bytes that a client may send ahead on a connection
	streamWindow  = defaultWindow
	maxPending    = 4 << 20   // bytes of answers on a connection that wait for a window
	maxUnwritten  = 256 << 10 // bytes of answers at which no more questions are read
	firstBuffer   = 4 << 10
	largestBuffer = 64 << 10
	maxTogether   = 8 << 10  // bytes of answers at which they are written before more questions are looked for,
	manyTogether  = 256      // and questions
	pourSize      = 32 << 10 // bytes of calls' messages that are written at once
	writeTimeout  = 30 * time.Second
	sweep         = 10 * time.Second // how often connections are looked at
	silentSweeps  = 3                // after so many a client that says nothing is asked whether it is there,
	goneSweeps    = 6                // and given up after so many: its machine may be too busy to answer at once
)

var errSilent = errors.New("the client does not answer")

// conn is one connection. One goroutine reads it; whoever has something to write does that, unless somebody else is
// at it, who then takes it along. What there is no room for is left to a goroutine that waits for it, so that nobody else
// does.
type conn struct {
	srv    *Server
	nc     net.Conn
	socket *socket              // nil: nc is read and written as it is
	state  *tls.ConnectionState // nil without TLS

	// Of the goroutine that reads, which holds mu but while it waits for the network.
	in       []byte // in[from:to] is not handled yet; nil while a socket waits. It is large while much comes
	cut      frame  // of data, of which left bytes are still to come
	left     int
	much     bool // the last read filled it
	from, to int
	decoder  *hpack.Decoder
	fields   []hpack.HeaderField // of the block that was decoded last
	size     int                 // of them
	block    []byte              // of a header block that goes on in the next frame
	blockOf  frame               // its first frame; stream 0: none goes on
	settled  bool                // the client's first settings have come
	answered int                 // questions since the last write
	asked    []byte              // the last block, if it was a question's and changed no table: the same is the same again
	length   int64               // what it says
	turn     int                 // bytes that the gate has let in for long messages, as far as they are there

	mu         sync.Mutex // guards everything below, and all streams
	written    sync.Cond  // out has become shorter
	out        []byte     // to be written; nil while nothing is
	pouring    []*Call    // those that may have messages to write
	writing    bool       // somebody is at it
	err        error      // of the connection: nothing goes any more
	streams    map[uint32]*stream
	over       []*Call   // that have ended, and are not told so yet
	gatherer   *Call     // whose message holds room; nil: none does
	loose      int       // bytes of calls' long messages that are not complete and hold no room
	free       []*stream // for questions to come
	last       uint32    // the highest stream
	gathering  int       // bytes of questions that are not complete
	pending    int       // bytes of answers that wait for a window
	running    int       // goroutines of handlers, and questions that are answered later
	received   int       // bytes for which the client has not got new credit
	recvWindow int       // bytes the client may send
	sendWindow int       // bytes we may send
	peerWindow int       // the same, of a new stream
	peerFrame  int
	table      table
	draining   bool // no calls are taken after last
	announced  bool // that it will be so
	greeted    bool // our preface is in out
	heard      bool // something, since the last sweep
	waits      bool // reading waits to be admitted: that nothing is heard says nothing
	silent     int  // sweeps since something was heard
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		srv: s, nc: nc, streams: map[uint32]*stream{},
		recvWindow: connWindow, sendWindow: defaultWindow, peerWindow: defaultWindow, peerFrame: maxFrame,
	}
	c.written.L = &c.mu
	c.socket = newSocket(nc, c.room, c.idle)
	c.decoder = hpack.NewDecoder(4096, c.field)
	c.decoder.SetMaxStringLength(maxHeaders)
	return c
}

func (c *conn) field(f hpack.HeaderField) {
	if c.size += len(f.Name) + len(f.Value) + 32; c.size <= maxHeaders {
		c.fields = append(c.fields, f)
	}
}

// serve reads until the connection ends.
func (c *conn) serve() {
	defer func() { _ = c.nc.Close() }()
	_ = c.nc.SetDeadline(time.Now().Add(handshakeTimeout))
	state, err := handshake(c.nc)
	if err != nil {
		return
	}
	c.state = state
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.greet() {
		c.end(c.read())
	} else {
		c.end(protocolError)
	}
	c.leaveTurn()
	c.flushAll()
	for c.writing { // by somebody who sees now that the connection is closed
		c.written.Wait()
	}
	c.tellOver()
	c.idle()
}

// greet exchanges prefaces.
func (c *conn) greet() bool {
	c.out = appendHead(c.out, 4*6, frameSettings, 0, 0)
	c.out = appendSetting(c.out, settingMaxStreams, maxStreams)
	c.out = appendSetting(c.out, settingInitialWindow, streamWindow)
	c.out = appendSetting(c.out, settingMaxFrame, maxFrame)
	c.out = appendSetting(c.out, settingMaxHeaders, maxHeaders)
	c.out = appendWindowUpdate(c.out, 0, connWindow-defaultWindow)
	c.greeted, c.heard = true, true
	if c.announced {
		c.appendFarewell()
	}
	for c.to < len(preface) {
		if c.fill() != nil {
			return false
		}
		if n := min(c.to, len(preface)); string(c.in[:n]) != preface[:n] {
			return false
		}
	}
	c.from = len(preface)
	return true
}

// read handles frames; its error is why it stopped.
func (c *conn) read() error {
	for {
		for {
			f, ok, err := c.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if c.out == nil {
				c.out = large.take()[:0]
			}
			if err := c.handle(&f); err != nil {
				return err
			}
			c.tellOver()
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// next takes a frame out of the buffer, if there is a whole one. Data is taken as it comes, as if it came in frames of
// its own, so that a long message needs no large buffer.
func (c *conn) next() (f frame, ok bool, err error) {
	b := c.in[c.from:c.to]
	if c.left > 0 && len(b) > 0 {
		return c.more(b), true, nil
	}
	if len(b) < headSize {
		return f, false, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if n > maxFrame {
		return f, false, frameSizeError
	}
	f = frame{kind: b[3], flags: b[4], stream: binary.BigEndian.Uint32(b[5:]) & maxWindow}
	if len(b) > headSize && len(b) < headSize+n && f.kind == frameData && f.flags&flagPadded == 0 {
		c.from += headSize
		c.cut, c.left = f, n
		return c.more(b[headSize:]), true, nil
	}
	if len(b) < headSize+n {
		return f, false, nil
	}
	c.from += headSize + n
	f.payload = b[headSize : headSize+n : headSize+n]
	return f, true, nil
}

// more gives what there is of a frame of data that is longer.
func (c *conn) more(b []byte) frame {
	f := c.cut
	n := min(c.left, len(b))
	if c.left -= n; c.left > 0 {
		f.flags &^= flagEndStream
	}
	c.from += n
	f.payload = b[:n:n]
	return f
}

// fill writes what there is to write and waits for more to read, and for room where a client does not read. Where several
// questions came together there may be more by now: a look costs far less than to write twice, and holds up the answers
// for less than it takes to write them. So may there be of a message that has its turn, which ends where there is not.
func (c *conn) fill() error {
	if (c.turn > 0 || c.answered > 1 && c.answered < manyTogether) && len(c.out) < maxTogether && c.socket != nil {
		c.makeRoom()
		if n := c.socket.Poll(); n > 0 {
			c.to += n
			return nil
		}
	}
	c.leaveTurn() // nobody waits for this client
	c.flushAll()
	for c.writing && len(c.out) > maxUnwritten && c.err == nil {
		c.written.Wait()
	}
	if c.err != nil {
		return c.err
	}
	c.makeRoom()
	c.mu.Unlock()
	n, err := c.readMore()
	c.mu.Lock()
	c.to += n
	c.heard = true
	c.much = n > 0 && c.to == len(c.in)
	if n > 0 {
		return nil
	}
	return err
}

// flushAll has everything go on that came together.
func (c *conn) flushAll() {
	c.flushUnary()
	c.flush()
}

// flushUnary has questions go on that came together.
func (c *conn) flushUnary() {
	if c.answered > 0 {
		c.answered = 0
		c.srv.Unary.Flush()
	}
}

// makeRoom moves what is not read yet to where there is room behind it.
func (c *conn) makeRoom() {
	switch {
	case c.from == c.to:
		c.from, c.to = 0, 0
	case c.to == len(c.in) && c.from > 0:
		c.to = copy(c.in, c.in[c.from:c.to])
		c.from = 0
	}
}

func (c *conn) readMore() (int, error) {
	if c.socket != nil {
		return c.socket.Read()
	}
	if c.to == 0 && len(c.in) == largestBuffer { // it may be long until there is more
		c.idle()
	}
	return c.nc.Read(c.room())
}

// room gives where to read to. It is large where what came last was more than there was room for, and always longer
// than a frame is.
func (c *conn) room() []byte {
	switch {
	case c.in == nil && c.much:
		c.in = large.take()
	case c.in == nil:
		c.in = small.take()
	case c.to == len(c.in) || c.to == 0 && c.much && len(c.in) == firstBuffer:
		in := large.take()
		copy(in, c.in[:c.to])
		small.give(c.in)
		c.in = in
	}
	return c.in[c.to:]
}

// idle lets go of what to read to, where nothing of it is still to be handled.
func (c *conn) idle() {
	if c.to == 0 {
		small.give(c.in)
		large.give(c.in)
		c.in, c.much = nil, false
	}
}

// flush writes everything that there is room for, unless somebody does already. It waits only for a connection that
// has no socket.
func (c *conn) flush() {
	if !c.writing {
		c.writing = true
		c.writeOut()
	}
}

// flushSoon does what flush does, and never waits.
func (c *conn) flushSoon() {
	switch {
	case c.writing, c.err != nil:
	case c.socket != nil:
		c.flush()
	default:
		c.writing = true
		go func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.writeOut()
		}()
	}
}

// Flush implements [Flusher]. It does not wait.
func (c *conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushSoon()
}

// writeOut writes until there is nothing to write or no room. The caller has set writing.
func (c *conn) writeOut() {
	for c.pour(); len(c.out) > 0 && c.err == nil; c.pour() {
		b := c.out
		c.out = nil
		c.mu.Unlock()
		rest, err := c.write(b)
		c.mu.Lock()
		if err != nil {
			c.fail(err)
		}
		c.written.Broadcast()
		if len(rest) > 0 && err == nil {
			go c.writeRest(rest)
			return
		}
	}
	c.writing = false
	c.written.Broadcast()
	if c.draining && len(c.streams) == 0 {
		_ = c.nc.Close()
	}
}

// write gives what there was no room for, as a copy.
func (c *conn) write(b []byte) (rest []byte, err error) {
	defer large.give(b)
	if c.socket == nil {
		return nil, c.writeAll(b)
	}
	n, err := c.socket.Write(b)
	return bytes.Clone(b[n:]), err
}

func (c *conn) writeAll(b []byte) error {
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.nc.Write(b)
	_ = c.nc.SetWriteDeadline(time.Time{})
	return err
}

// writeRest waits until a client has read so much that there is room, and goes on.
func (c *conn) writeRest(rest []byte) {
	err := c.writeAll(rest)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.fail(err)
	}
	c.writeOut()
}

// check asks a client that has said nothing for long whether it is there, and gives up one that does not answer.
func (c *conn) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.heard || c.waits || !c.settled: // who has not settled has a deadline
		c.heard, c.silent = false, 0
		return
	case c.silent >= goneSweeps:
		c.fail(errSilent)
		return
	}
	if c.silent++; c.silent == silentSweeps {
		c.out = append(appendHead(c.out, len(keepalivePing), framePing, 0, 0), keepalivePing...)
		c.flushSoon()
	}
}

const keepalivePing = "weir-are"

// fail ends the connection for everybody who waits on it.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	_ = c.nc.Close()
	for _, s := range c.streams {
		s.abort()
	}
	c.pouring = nil
	c.written.Broadcast()
}

// end tells the client why the connection ends, if that is not the client's own doing.
func (c *conn) end(err error) {
	if code, ok := err.(errorCode); ok && c.err == nil { //nolint:errorlint // it is never wrapped
		c.out = appendGoAway(c.out, c.last, code)
		c.flush()
	}
	c.fail(err)
}

// goAway announces that no calls will be taken; from when the client has read it, none are. A client that is not
// greeted yet is told when it is: a write would have to wait for its handshake.
func (c *conn) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.announced {
		return
	}
	c.announced = true
	if c.greeted {
		c.appendFarewell()
		c.flush()
	}
}

func (c *conn) appendFarewell() {
	c.out = appendGoAway(c.out, maxWindow, noError)
	c.out = append(appendHead(c.out, len(drainPing), framePing, 0, 0), drainPing...)
}

const drainPing = "weir-end"

func (c *conn) handle(f *frame) error {
	if !c.settled && f.kind != frameSettings {
		return protocolError
	}
	if c.blockOf.stream != 0 && (f.kind != frameContinuation || f.stream != c.blockOf.stream) {
		return protocolError
	}
	switch f.kind {
	case frameData:
		return c.data(f)
	case frameHeaders:
		return c.headers(f)
	case frameContinuation:
		return c.continuation(f)
	case framePriority:
		return c.priority(f)
	case frameReset:
		return c.reset(f)
	case frameSettings:
		return c.settings(f)
	case framePing:
		return c.ping(f)
	case frameWindowUpdate:
		return c.windowUpdate(f)
	case framePushPromise:
		return protocolError
	case frameGoAway:
		if f.stream != 0 {
			return protocolError
		}
	}
	return nil
}

func (c *conn) priority(f *frame) error {
	switch {
	case f.stream == 0:
		return protocolError
	case len(f.payload) != 5:
		return c.refuse(f.stream, frameSizeError)
	case binary.BigEndian.Uint32(f.payload)&maxWindow == f.stream:
		return c.refuse(f.stream, protocolError)
	}
	return nil
}

func (c *conn) reset(f *frame) error {
	if f.stream == 0 || f.stream > c.last {
		return protocolError
	}
	if len(f.payload) != 4 {
		return frameSizeError
	}
	if s := c.streams[f.stream]; s != nil {
		s.abort()
		c.drop(s)
	}
	return nil
}

func (c *conn) ping(f *frame) error {
	switch {
	case f.stream != 0:
		return protocolError
	case len(f.payload) != 8:
		return frameSizeError
	case f.flags&flagAck == 0:
		c.out = append(appendHead(c.out, 8, framePing, flagAck, 0), f.payload...)
	case c.announced && !c.draining && string(f.payload) == drainPing:
		c.draining = true
		c.out = appendGoAway(c.out, c.last, noError)
	}
	return nil
}

func (c *conn) settings(f *frame) error {
	if f.stream != 0 {
		return protocolError
	}
	if f.flags&flagAck != 0 {
		if len(f.payload) != 0 {
			return frameSizeError
		}
		return nil
	}
	if len(f.payload)%6 != 0 {
		return frameSizeError
	}
	for b := f.payload; len(b) > 0; b = b[6:] {
		if err := c.setting(binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint32(b[2:]))); err != nil {
			return err
		}
	}
	if !c.settled {
		c.settled = true
		_ = c.nc.SetDeadline(time.Time{}) // of the handshake
	}
	c.out = appendHead(c.out, 0, frameSettings, flagAck, 0)
	return nil
}

func (c *conn) setting(id uint16, value int) error {
	switch id {
	case settingTableSize:
		if value < 4096 && !c.table.plain { // ours is never as large as that, but one of two entries is not worth counting
			c.table.plain, c.table.resize = true, true
		}
	case settingPush:
		if value > 1 {
			return protocolError
		}
	case settingInitialWindow:
		if value > maxWindow {
			return flowControlError
		}
		more := value - c.peerWindow
		c.peerWindow = value
		for _, s := range c.streams {
			if s.sendWindow += more; s.sendWindow > maxWindow {
				return flowControlError
			}
		}
		c.unblock()
	case settingMaxFrame:
		if value < maxFrame || value > 1<<24-1 {
			return protocolError
		}
		c.peerFrame = min(value, largestBuffer)
	}
	return nil
}

func (c *conn) windowUpdate(f *frame) error {
	if len(f.payload) != 4 {
		return frameSizeError
	}
	n := int(binary.BigEndian.Uint32(f.payload) & maxWindow)
	if f.stream == 0 {
		blocked := c.sendWindow <= 0 // else nobody waits for it
		switch c.sendWindow += n; {
		case n == 0:
			return protocolError
		case c.sendWindow > maxWindow:
			return flowControlError
		case blocked:
			c.unblock()
		}
		return nil
	}
	if f.stream > c.last {
		return protocolError
	}
	s := c.streams[f.stream]
	switch {
	case n == 0:
		return c.refuse(f.stream, protocolError)
	case s == nil:
		return nil
	}
	if s.sendWindow += n; s.sendWindow > maxWindow {
		return c.refuse(f.stream, flowControlError)
	}
	s.unblock()
	return nil
}

// unblock lets everything go on that waits for a window.
func (c *conn) unblock() {
	for _, s := range c.streams {
		s.unblock()
	}
}

// credit lets the client send as much again.
func (c *conn) credit(n int) {
	if c.received += n; c.received >= connWindow/2 {
		c.out = appendWindowUpdate(c.out, 0, c.received)
		c.recvWindow += c.received
		c.received = 0
	}
}

// refuse ends one stream with an error; the connection goes on.
func (c *conn) refuse(id uint32, code errorCode) error {
	if id == 0 {
		return code
	}
	c.out = appendReset(c.out, id, code)
	if s := c.streams[id]; s != nil {
		s.abort()
		c.drop(s)
	}
	return nil
}

func (c *conn) headers(f *frame) error {
	if f.stream%2 == 0 {
		return protocolError
	}
	if !f.unpad() {
		return protocolError
	}
	if f.flags&flagPriority != 0 {
		if len(f.payload) < 5 {
			return frameSizeError
		}
		if binary.BigEndian.Uint32(f.payload)&maxWindow == f.stream {
			return protocolError
		}
		f.payload = f.payload[5:]
	}
	if f.flags&flagEndHeaders != 0 {
		return c.headed(f, f.payload)
	}
	c.blockOf = *f
	c.block = append(c.block[:0], f.payload...)
	return nil
}

func (c *conn) continuation(f *frame) error {
	if c.blockOf.stream == 0 {
		return protocolError
	}
	if len(c.block)+len(f.payload) > maxHeaders || len(f.payload) == 0 && f.flags&flagEndHeaders == 0 {
		return enhanceYourCalm // RFC 9113, section 10.5.1; a block of empty frames need never end
	}
	c.block = append(c.block, f.payload...)
	if f.flags&flagEndHeaders == 0 {
		return nil
	}
	first := c.blockOf
	c.blockOf = frame{}
	err := c.headed(&first, c.block)
	if cap(c.block) > firstBuffer {
		c.block = nil
	}
	return err
}

// headed begins a stream, or ends its request if these are its trailers.
func (c *conn) headed(f *frame, block []byte) error {
	s := c.streams[f.stream]
	again := s == nil && len(c.asked) > 0 && bytes.Equal(block, c.asked)
	if !again {
		if err := c.decode(block); err != nil {
			return err
		}
	}
	if s != nil {
		switch {
		case s.ended:
			return c.refuse(f.stream, streamClosed)
		case f.flags&flagEndStream == 0 || !validTrailers(c.fields):
			return c.refuse(f.stream, protocolError)
		}
		return s.requestEnded()
	}
	if f.stream <= c.last {
		return streamClosed
	}
	c.last = f.stream
	switch {
	case c.draining, len(c.streams) >= maxStreams, c.running >= 2*maxStreams:
		return c.refuse(f.stream, refusedStream)
	case c.size > maxHeaders:
		return c.tooLarge(f)
	}
	if again && f.flags&flagEndStream == 0 {
		c.open(f.stream).asks(c.length)
		return nil
	}
	r, ok := parseRequest(c.fields)
	if !ok {
		return c.refuse(f.stream, protocolError)
	}
	s = c.open(f.stream)
	s.ended = f.flags&flagEndStream != 0
	if c.srv.Calls != nil && !s.ended && r.isGRPC() && s.begin(&r) {
		c.fields = nil // no others come, as a rule
		return nil
	}
	if !s.ended && r.isUnary(c.srv.Path) {
		s.asks(r.length)
		if indexed(block) {
			c.asked, c.length = append(c.asked[:0], block...), r.length
		}
		return nil
	}
	return s.hand(&r)
}

// decode takes a block apart. What was known of earlier ones may have changed by it.
func (c *conn) decode(block []byte) error {
	c.fields, c.size, c.asked = c.fields[:0], 0, c.asked[:0]
	if _, err := c.decoder.Write(block); err != nil {
		return compressionError
	}
	if err := c.decoder.Close(); err != nil {
		return compressionError
	}
	return nil
}

// tooLarge answers headers that are more than we take: RFC 6585, section 5.
func (c *conn) tooLarge(f *frame) error {
	c.out = appendBlock(c.out, f.stream, flagEndStream, appendLiteral(c.prefix(nil), ":status", "431"), c.peerFrame)
	if f.flags&flagEndStream == 0 {
		return c.refuse(f.stream, noError)
	}
	return nil
}

// open makes a stream, in the memory of an earlier one.
func (c *conn) open(id uint32) *stream {
	var s *stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
		*s = stream{c: c, body: s.body[:0]}
	} else {
		s = &stream{c: c}
	}
	s.id, s.sendWindow, s.recvWindow = id, c.peerWindow, streamWindow
	c.streams[id] = s
	return s
}

// drop forgets a stream.
func (c *conn) drop(s *stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if s.call != nil {
		s.call.leave()
	}
	c.pending -= len(s.pending)
	s.pending = nil
	if s.unary && !s.ended {
		c.gathering -= len(s.body)
	}
}

func (c *conn) data(f *frame) error {
	if f.stream == 0 {
		return protocolError
	}
	length := len(f.payload) // the padding counts
	if c.recvWindow -= length; c.recvWindow < 0 {
		return flowControlError
	}
	s := c.streams[f.stream]
	switch {
	case f.stream > c.last:
		return protocolError
	case s == nil: // it may be under way since before the client knew
		c.credit(length)
		c.out = appendReset(c.out, f.stream, streamClosed)
		return nil
	case s.ended:
		c.credit(length)
		return c.refuse(f.stream, streamClosed)
	}
	if s.recvWindow -= length; s.recvWindow < 0 {
		return c.refuse(f.stream, flowControlError)
	}
	if !f.unpad() {
		return protocolError
	}
	if s.unary || s.call != nil {
		c.credit(length)
	}
	switch {
	case s.call != nil:
		return s.call.data(f, length)
	case s.unary:
		return s.gather(f, length)
	}
	c.credit(length - len(f.payload)) // the padding
	s.credit(length - len(f.payload))
	return s.receive(f)
}
