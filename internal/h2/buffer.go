package h2

import "sync"

// pool keeps some buffers of one size, and gives the one that was used last, which is still in the processor's caches.
// Thousands of connections read and write from them, none of which has one while it has nothing to say.
type pool struct {
	size, most int

	mu   sync.Mutex // guards everything below
	free [][]byte
}

var (
	small = pool{size: firstBuffer, most: 256}
	large = pool{size: largestBuffer, most: 32}
)

func (p *pool) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free) - 1
	if last < 0 {
		return make([]byte, p.size)
	}
	b := p.free[last]
	p.free[last] = nil
	p.free = p.free[:last]
	return b
}

// give takes back what take gave, however it is cut at its end; anything else is left to the collector.
func (p *pool) give(b []byte) {
	if cap(b) != p.size {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < p.most {
		p.free = append(p.free, b[:p.size])
	}
}
