package parallel_test

import (
	"sync/atomic"
	"testing"

	"github.com/machinenativeops/weir/internal/parallel"
)

func TestRuns(t *testing.T) {
	for _, n := range []int{0, 1, 2, 63, 64, 65, 1000} {
		seen := make([]atomic.Int32, n)
		parallel.Runs(n, 10, func(from, to int) {
			if from >= to || to-from > 10 {
				t.Errorf("%d: a run from %d to %d", n, from, to)
			}
			for i := from; i < to; i++ {
				seen[i].Add(1)
			}
		})
		for i := range seen {
			if times := seen[i].Load(); times != 1 {
				t.Errorf("%d: %d comes %d times", n, i, times)
			}
		}
	}
}
