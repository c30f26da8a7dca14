package h2

// pool keeps some buffers of one size. Thousands of connections read and write from them, none of which has one while it
// has nothing to say.
type pool struct {
	size int
	free chan []byte
}

var (
	small = pool{firstBuffer, make(chan []byte, 256)}
	large = pool{largestBuffer, make(chan []byte, 32)}
)

func (p pool) take() []byte {
	select {
	case b := <-p.free:
		return b
	default:
		return make([]byte, p.size)
	}
}

// give takes back what take gave, however it is cut at its end; anything else is left to the collector.
func (p pool) give(b []byte) {
	if cap(b) != p.size {
		return
	}
	select {
	case p.free <- b[:p.size]:
	default:
	}
}
