package h2

import "sync"

// buffers are what connections read into and write from, none of which has one while it has nothing to say: thousands of
// connections that are silent take no memory for it.
var buffers = sync.Pool{New: func() any { return new([largestBuffer]byte) }}

// takeBuffer gives a buffer of largestBuffer bytes.
func takeBuffer() []byte { return buffers.Get().(*[largestBuffer]byte)[:] }

// giveBuffer takes back what takeBuffer gave, however it is cut at its end; anything else is left to the collector.
func giveBuffer(b []byte) {
	if cap(b) == largestBuffer {
		buffers.Put((*[largestBuffer]byte)(b[:largestBuffer]))
	}
}
