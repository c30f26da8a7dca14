package serve

import (
	"runtime"
	"sync"

	"github.com/machinenativeops/weir/internal/nowait"
)

// pushers have streams looked at, in turn, by as many goroutines as there are processors, which are there only while
// there is something to do. A stream that waits for its turn waits once, however much changes.
type pushers struct {
	mu      sync.Mutex // guards everything below
	waiting []*stream
	running int
}

// many streams take milliseconds to be looked at.
const many = 64

func (p *pushers) push(streams ...*stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range streams {
		if st.queued.CompareAndSwap(false, true) {
			p.waiting = append(p.waiting, st)
		}
	}
	if p.running == 0 && len(p.waiting) > many {
		nowait.Announce() // else nobody is served while they are looked at, if it is an answer that was read which has changed something
	}
	for ; p.running < min(len(p.waiting), runtime.GOMAXPROCS(0)); p.running++ {
		go p.run()
	}
}

func (p *pushers) run() {
	for st := p.next(); st != nil; st = p.next() {
		st.queued.Store(false)
		st.push()
	}
}

func (p *pushers) next() *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.waiting = nil
		p.running--
		return nil
	}
	st := p.waiting[0]
	p.waiting[0] = nil
	p.waiting = p.waiting[1:]
	return st
}
