// Package limits compares what one decision costs: Weir's table in memory, and limiters as they are made of well-known
// parts, asked for the same keys.
package limits

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

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

// limiter decides for a key, which is the caller's as soon as it returns, as that of a request is: it has just been made,
// of what was asked, and lies where the next one will.
type limiter interface {
	allow(key []byte, now int64) bool
}

// each gives a limiter to each goroutine, of which all share the counters.
type each func() limiter

// BenchmarkLimiters asks for 100,000 Zipf keys from all cores. cpu-ns/op is of all threads, what the collection of
// garbage costs included; B/key is what the heap grows by when each key is asked for once, what is made beforehand
// included. Of both the first line is what it costs to ask, and "alone" what cores give that share nothing.
func BenchmarkLimiters(b *testing.B) {
	names := []string{"nothing", "arithmetic", "alone", "weir", "x-time-rate", "golang-lru", "otter", "xsync", "sharded-map", "sharded-hashes"}
	makers := []func(bound int) each{nothing, arithmetic, alone, weir, xTime, golangLRU, otterCache, xsyncMap, shardedStrings, shardedHashes}
	order := asked()
	for i, name := range names {
		b.Run(name, func(b *testing.B) { run(b, makers[i], order) })
	}
}

// asked is the order in which keys are asked for.
func asked() []uint32 {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.1, 10, keys-1)
	order := make([]uint32, 1<<20)
	for i := range order {
		order[i] = uint32(zipf.Uint64())
	}
	return order
}

// tenant is a key as Weir makes it, whose last bytes say which.
func tenant() (key, number []byte) {
	key = []byte("\x1eRateLimit shop/checkout#0\x08x-tenant\x0ckey-\x00\x00\x00\x00\x00\x00\x00\x00")
	return key, key[len(key)-8:]
}

func run(b *testing.B, maker func(int) each, order []uint32) {
	before := heap()
	shared := maker(keys)
	filling := shared()
	key, number := tenant()
	for i := range uint64(keys) {
		binary.LittleEndian.PutUint64(number, i)
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
		key, number := tenant()
		for now := begun; pb.Next(); i++ {
			if i%16 == 0 { // questions come together, and the clock is none of this
				now = begun + int64(time.Since(start))
			}
			binary.LittleEndian.PutUint64(number, uint64(order[i&(len(order)-1)]))
			l.allow(key, now)
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

type nobody struct{}

func nothing(int) each { return func() limiter { return nobody{} } }

func (nobody) allow(key []byte, now int64) bool { return int64(len(key)) < now }

// sum is what it has come to for one goroutine, which nobody else touches.
type sum struct{ total uint64 }

func arithmetic(int) each { return func() limiter { return new(sum) } }

func (s *sum) allow(key []byte, now int64) bool {
	x := s.total + uint64(len(key))
	for range 50 {
		x = x*6364136223846793005 + uint64(now)
	}
	s.total = x
	return x != 0
}

// alone is Weir's with a table for each goroutine.
func alone(bound int) each {
	first := weir(bound)
	var made atomic.Bool
	return func() limiter {
		if made.Swap(true) {
			return weir(bound)()
		}
		return first()
	}
}

// inText is the key as a string, for those who look it up by one.
func inText(key []byte) string { return unsafe.String(&key[0], len(key)) }

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

func (w *weirMemory) allow(key []byte, now int64) bool {
	w.hits[0].Key = key
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

func (x *xTimeRate) allow(key []byte, now int64) bool {
	l, ok := x.limiters.Load(inText(key))
	if !ok {
		l, _ = x.limiters.LoadOrStore(string(key), rate.NewLimiter(perKey, perKey))
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

func (l lruCache) allow(key []byte, now int64) bool {
	a, ok := l.cache.Get(inText(key))
	if !ok {
		a = new(arrival)
		if before, ok, _ := l.cache.PeekOrAdd(string(key), a); ok {
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

func (o otterMap) allow(key []byte, now int64) bool {
	a, ok := o.cache.GetIfPresent(inText(key))
	if !ok {
		a, _ = o.cache.SetIfAbsent(string(key), new(arrival))
	}
	return a.allow(now)
}

// xsync's map has no bound.
type xsyncCounters struct{ counters *xsync.Map[string, *arrival] }

func xsyncMap(int) each {
	m := xsync.NewMap[string, *arrival]()
	return func() limiter { return xsyncCounters{m} }
}

func (x xsyncCounters) allow(key []byte, now int64) bool {
	a, ok := x.counters.Load(inText(key))
	if !ok {
		a, _ = x.counters.LoadOrStore(string(key), new(arrival))
	}
	return a.allow(now)
}

// sharded is 256 maps with a lock each, without a bound.
type sharded[K comparable, V any] struct {
	seed   maphash.Seed
	shards [256]struct {
		mu sync.Mutex
		at map[K]V
		_  [48]byte
	}
}

func newSharded[K comparable, V any]() *sharded[K, V] {
	s := &sharded[K, V]{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].at = map[K]V{}
	}
	return s
}

// shardedMap keeps the keys. What it keeps for one is behind a pointer: a map that is assigned to keeps the key it is
// given, which here would have to be made anew each time.
type shardedMap struct{ *sharded[string, *int64] }

func shardedStrings(int) each {
	s := shardedMap{newSharded[string, *int64]()}
	return func() limiter { return s }
}

func (s shardedMap) allow(key []byte, now int64) bool {
	shard := &s.shards[maphash.Bytes(s.seed, key)>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	at, known := shard.at[string(key)]
	if !known {
		at = new(int64)
		shard.at[string(key)] = at
	}
	next, ok := gcra(*at, now)
	if ok {
		*at = next
	}
	return ok
}

// shardedHash knows a key by 64 bits of its hash, as Weir does.
type shardedHash struct{ *sharded[uint64, int64] }

func shardedHashes(int) each {
	s := shardedHash{newSharded[uint64, int64]()}
	return func() limiter { return s }
}

func (s shardedHash) allow(key []byte, now int64) bool {
	hash := maphash.Bytes(s.seed, key)
	shard := &s.shards[hash>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	next, ok := gcra(shard.at[hash], now)
	if ok {
		shard.at[hash] = next
	}
	return ok
}
