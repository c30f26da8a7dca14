package whole

import (
	"math/bits"
	"strings"
	"sync"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// Operations remembers so many operations. Those beyond have no history: no rule that needs one keeps their traces, so
// that a stream of invented names is not kept in full.
type Operations struct {
	most int

	mu sync.RWMutex
	m  map[operationKey]*Operation
}

type operationKey struct {
	service policy.Ref
	name    string
}

// NewOperations remembers at most so many.
func NewOperations(most int) *Operations {
	return &Operations{most: most, m: map[operationKey]*Operation{}}
}

// Of gives an operation, or nil where there are too many. The name is kept no longer than the call.
func (o *Operations) Of(service policy.Ref, name string, now int64) *Operation {
	key := operationKey{service, name}
	o.mu.RLock()
	op := o.m[key]
	o.mu.RUnlock()
	if op != nil {
		return op
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if op = o.m[key]; op == nil && len(o.m) < o.most {
		op = &Operation{used: now}
		o.m[operationKey{service, strings.Clone(name)}] = op
	}
	return op
}

// Forget drops operations of which no trace was judged since.
func (o *Operations) Forget(since int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, op := range o.m {
		op.mu.Lock()
		old := op.used < since
		op.mu.Unlock()
		if old {
			delete(o.m, key)
		}
	}
}

const (
	perOctave = 8  // buckets: each is 1/8 of a power of two wide, 6 to 12 % of the duration
	shortest  = 10 // octave of the first bucket: about a microsecond, and all that is shorter
	octaves   = 34 // until five hours, and all that is longer
	buckets   = perOctave * octaves

	memory  = 1 << 14 // durations; when there are so many, each counts half from then on
	refresh = 64      // durations after which the bound is found anew
)

// Operation is the history of one operation's traces. A nil one has none. Its methods may be called from many
// goroutines.
type Operation struct {
	mu   sync.Mutex // guards everything below
	used int64      // when it was judged by last
	kept int64      // when a trace was kept last; 0: never

	// The sketch: durations by bucket, of which those above bound are the slowest.
	counts  *[buckets]uint16 // Invariant: their sum is total, below memory
	total   int
	pending int // durations since bound was found
	bound   int // buckets: nothing is known yet
	percent float64
}

// slowest says whether a duration is among the slowest per cent of those before it, and takes note of it. Nothing is
// before there have been enough to tell.
func (o *Operation) slowest(d time.Duration, percent float64, now int64) bool {
	if o == nil || percent <= 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.used = now
	b := bucket(d)
	if o.counts == nil {
		o.counts, o.bound = new([buckets]uint16), buckets
	}
	if o.percent != percent || o.pending >= refresh {
		o.percent, o.pending, o.bound = percent, 0, o.find(percent)
	}
	slow := b > o.bound
	o.counts[b]++
	o.total++
	o.pending++
	if o.total == memory {
		o.halve()
	}
	return slow
}

func (o *Operation) halve() {
	o.total = 0
	for i := range o.counts {
		o.counts[i] /= 2
		o.total += int(o.counts[i])
	}
}

// find gives the lowest bucket above which there are no more than so many per cent.
func (o *Operation) find(percent float64) int {
	most := float64(o.total) * percent / 100
	if most < 1 {
		return buckets
	}
	above := 0.0
	for b := buckets - 1; b > 0; b-- {
		if above += float64(o.counts[b]); above > most {
			return b
		}
	}
	return 0
}

func bucket(d time.Duration) int {
	if d < 1<<shortest {
		return 0
	}
	octave := bits.Len64(uint64(d)) - 1
	part := int(d>>(octave-3)) & (perOctave - 1)
	return min((octave-shortest)*perOctave+part, buckets-1)
}

// rare says whether nothing of the operation was kept for so long; if so, the trace for which it is asked is. The
// first ever is rare.
func (o *Operation) rare(than time.Duration, now int64) bool {
	if o == nil || than <= 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.used = now
	if o.kept != 0 && now-o.kept < int64(than) {
		return false
	}
	o.kept = now
	return true
}

// keep takes note that a trace was kept.
func (o *Operation) keep(now int64) {
	if o == nil {
		return
	}
	o.mu.Lock()
	o.used, o.kept = now, max(o.kept, now)
	o.mu.Unlock()
}
