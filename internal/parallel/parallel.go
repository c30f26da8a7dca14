// Package parallel has work done by all cores.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/machinenativeops/weir/internal/nowait"
)

// Each calls f with each of 0 to n-1, and returns when all calls have. Others have their turns meanwhile.
func Each(n int, f func(int)) {
	nowait.Announce()
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				f(i - 1)
			}
		})
	}
	all.Wait()
}

// Runs calls f with runs of 0 to n-1, none longer than most and each from a number on and up to one before another, so that
// together they are all of them, and returns when all calls have.
func Runs(n, most int, f func(from, to int)) {
	size := min(1+n/(8*runtime.GOMAXPROCS(0)), most)
	Each((n+size-1)/size, func(i int) { f(i*size, min((i+1)*size, n)) })
}

// Do calls all, and returns when all calls have.
func Do(all ...func()) { Each(len(all), func(i int) { all[i]() }) }
