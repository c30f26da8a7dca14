// Package limits compares what one decision costs: Weir's table in memory, and limiters as they are made of well-known
// parts, asked for the same keys.
package limits

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/time/rate"

	"github.com/machinenativeops/weir/ratelimit"
)

const (
	keys   = 100_000 // which also is the bound, where there is one
	perKey = 100     // requests a second, and at once
	begun  = int64(1_795_000_000_000_000_000)
)

// limiter decides for a key. Its key is kept by the caller only until it returns, as that of a request is.
type limiter interface {
	allow(key string, now int64) bool
}

// each gives a limiter to each goroutine, of which all share the counters.
type each func() limiter

// BenchmarkLimiters asks for 100,000 Zipf keys from all cores. cpu-ns/op is of all threads, what the collection of
// garbage costs included; B/key is what the heap grows by when each key is asked for once, what is made beforehand
// included.
func BenchmarkLimiters(b *testing.B) {
	names := []string{"weir", "x-time-rate", "golang-lru", "otter", "xsync", "sharded-map"}
	makers := []func(bound int) each{weir, xTime, golangLRU, otterCache, xsyncMap, shardedMap}
	all, order := asked()
	for i, name := range names {
		b.Run(name, func(b *testing.B) { run(b, makers[i], all, order) })
	}
}

// asked is all keys, and the order in which they are asked for.
func asked() (all []string, order []uint32) {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.1, 10, keys-1)
	all, order = make([]string, keys), make([]uint32, 1<<20)
	for i := range all {
		number := binary.BigEndian.AppendUint64([]byte("key-"), uint64(i))
		all[i] = "\x1eRateLimit shop/checkout#0\x08x-tenant\x0c" + string(number)
	}
	for i := range order {
		order[i] = uint32(zipf.Uint64())
	}
	return all, order
}

func run(b *testing.B, maker func(int) each, all []string, order []uint32) {
	before := heap()
	shared := maker(keys)
	filling := shared()
	for _, key := range all {
		filling.allow(key, begun)
	}
	perKey := float64(heap()-before) / keys

	var worker atomic.Int64
	start := time.Now()
	used := cpu()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		l, i := shared(), int(worker.Add(1))*10_007
		for ; pb.Next(); i++ {
			l.allow(all[order[i&(len(order)-1)]], begun+int64(time.Since(start)))
		}
	})
	b.ReportMetric(float64(cpu()-used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(perKey, "B/key")
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what sync.Pool keeps goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type weirMemory struct {
	memory *ratelimit.Memory
	hits   []ratelimit.Hit
}

func weir(bound int) each {
	m, limit := ratelimit.NewMemory(bound), ratelimit.NewRate(perKey, perKey, time.Second)
	return func() limiter {
		return &weirMemory{m, []ratelimit.Hit{{Rate: &limit, N: 1}}}
	}
}

func (w *weirMemory) allow(key string, now int64) bool {
	w.hits[0].Key = append(w.hits[0].Key[:0], key...)
	ok, _ := w.memory.Take(context.Background(), now, w.hits)
	return ok
}

// arrival is a GCRA in one number: when the next request is due.
type arrival struct{ atomic.Int64 }

func (a *arrival) allow(now int64) bool {
	for {
		at := a.Load()
		next, ok := gcra(at, now)
		if !ok {
			return false
		}
		if a.CompareAndSwap(at, next) {
			return true
		}
	}
}

func gcra(at, now int64) (next int64, ok bool) {
	const interval = int64(time.Second) / perKey
	next = max(at, now) + interval
	return next, next <= now+perKey*interval
}

// xTimeRate keeps a golang.org/x/time/rate.Limiter for each key, without a bound.
type xTimeRate struct{ limiters sync.Map }

func xTime(int) each {
	x := new(xTimeRate)
	return func() limiter { return x }
}

func (x *xTimeRate) allow(key string, now int64) bool {
	l, ok := x.limiters.Load(key)
	if !ok {
		l, _ = x.limiters.LoadOrStore(strings.Clone(key), rate.NewLimiter(perKey, perKey))
	}
	return l.(*rate.Limiter).AllowN(time.Unix(0, now), 1)
}

type lruCache struct{ cache *lru.Cache[string, *arrival] }

func golangLRU(bound int) each {
	c, err := lru.New[string, *arrival](bound)
	if err != nil {
		panic(err)
	}
	return func() limiter { return lruCache{c} }
}

func (l lruCache) allow(key string, now int64) bool {
	a, ok := l.cache.Get(key)
	if !ok {
		a = new(arrival)
		if before, ok, _ := l.cache.PeekOrAdd(strings.Clone(key), a); ok {
			a = before
		}
	}
	return a.allow(now)
}

type otterMap struct {
	cache *otter.Cache[string, *arrival]
}

func otterCache(bound int) each {
	c := otter.Must(&otter.Options[string, *arrival]{MaximumSize: bound})
	return func() limiter { return otterMap{c} }
}

func (o otterMap) allow(key string, now int64) bool {
	a, ok := o.cache.GetIfPresent(key)
	if !ok {
		a, _ = o.cache.SetIfAbsent(strings.Clone(key), new(arrival))
	}
	return a.allow(now)
}

// xsync's map has no bound.
type xsyncCounters struct{ counters *xsync.Map[string, *arrival] }

func xsyncMap(int) each {
	m := xsync.NewMap[string, *arrival]()
	return func() limiter { return xsyncCounters{m} }
}

func (x xsyncCounters) allow(key string, now int64) bool {
	a, ok := x.counters.Load(key)
	if !ok {
		a, _ = x.counters.LoadOrStore(strings.Clone(key), new(arrival))
	}
	return a.allow(now)
}

// sharded is 256 maps with a lock each, without a bound.
type sharded struct {
	seed   maphash.Seed
	shards [256]struct {
		mu sync.Mutex
		at map[string]int64
		_  [48]byte
	}
}

func shardedMap(int) each {
	s := &sharded{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].at = map[string]int64{}
	}
	return func() limiter { return s }
}

func (s *sharded) allow(key string, now int64) bool {
	shard := &s.shards[maphash.String(s.seed, key)>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	at, known := shard.at[key]
	next, ok := gcra(at, now)
	switch {
	case !ok:
	case known:
		shard.at[key] = next
	default:
		shard.at[strings.Clone(key)] = next
	}
	return ok
}
