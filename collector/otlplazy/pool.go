package otlplazy

import (
	"math/bits"
	"sync"
)

// pool keeps buffers by powers of two. It is a [mem.BufferPool] which does not clear them, as gRPC's own does before each use: both
// the frames of a connection and what is made of them are written over as far as they are read.
type pool struct{ classes [classes]sync.Pool }

// buffers are those of all that comes by gRPC.
var buffers pool

const (
	smallest = 12 // 4 KB
	classes  = 13 // to 16 MB; a longer request has a buffer of its own
)

// class is which buffers hold n bytes.
func class(n int) int { return max(bits.Len(uint(max(n, 1)-1)), smallest) - smallest }

// Get implements [mem.BufferPool].
func (p *pool) Get(n int) *[]byte {
	c := class(n)
	if c >= classes {
		b := make([]byte, n)
		return &b
	}
	if b, is := p.classes[c].Get().(*[]byte); is {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(c+smallest))
	return &b
}

// Put implements [mem.BufferPool].
func (p *pool) Put(b *[]byte) {
	if c := class(cap(*b)); c < classes && cap(*b) == 1<<(c+smallest) {
		p.classes[c].Put(b)
	}
}
