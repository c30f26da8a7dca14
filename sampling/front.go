package sampling

import (
	"hash/maphash"
	"sync/atomic"
)

// front is what was asked for lately, each where its name says, to be found without a lock. Others of the place take it, so
// whoever looks has to see whether it is the one, and asks who knows all of them if not.
type front[T any] []atomic.Pointer[T]

func (f front[T]) of(name string) *atomic.Pointer[T] {
	return &f[maphash.String(seed, name)%uint64(len(f))]
}

var seed = maphash.MakeSeed()
