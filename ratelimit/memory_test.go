package ratelimit

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const someday = int64(1_795_000_000_000_000_000)

func numbered(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte("key-"), n) }

func one(key []byte, rate *Rate) []Hit { return []Hit{{Key: key, Rate: rate, N: 1}} }

func take(t *testing.T, s Store, now int64, hits []Hit) bool {
	t.Helper()
	ok, err := s.Take(t.Context(), now, hits)
	require.NoError(t, err)
	return ok
}

// sequential is a Store as one would write it on paper: a map, and everything again from the beginning on a refusal.
type sequential map[string]int64 // theoretical arrival time in the smallest unit of all rates

// unit is the common one of the rates below, so that plain integers are exact.
const unit = 7 * 11

type simpleRate struct {
	interval, burst int64 // interval in units
	rate            Rate
}

func (s sequential) take(now int64, hits []Hit, rates []simpleRate) (bool, []Decision) {
	after, ok, out := sequential{}, true, make([]Decision, len(hits))
	for i, h := range hits {
		r := rates[i]
		at, known := after[string(h.Key)]
		if !known {
			at = s[string(h.Key)]
		}
		at = max(at, now*unit) + int64(max(h.N, 1))*r.interval
		if out[i].Allowed = at <= now*unit+r.burst*r.interval; out[i].Allowed && h.N > 0 {
			after[string(h.Key)] = at
		}
		ok = ok && (out[i].Allowed || h.Shadow)
	}
	if ok {
		maps.Copy(s, after)
	}
	for i, h := range hits {
		left := now*unit + rates[i].burst*rates[i].interval - max(s[string(h.Key)], now*unit)
		out[i].Remaining = uint64(left / rates[i].interval)
	}
	return ok, out
}

// distinct tells whether no two hits share a key. If they do, what remains is told between them.
func distinct(hits []Hit) bool {
	for i, h := range hits {
		if slices.ContainsFunc(hits[:i], func(o Hit) bool { return bytes.Equal(o.Key, h.Key) }) {
			return false
		}
	}
	return true
}

func TestMemoryAgreesWithSequential(t *testing.T) {
	rates := []simpleRate{
		{1_000_000_000 * unit / 7, 7, NewRate(7, 7, time.Second)},
		{60_000_000_000 * unit / 11, 5, NewRate(11, 5, time.Minute)},
		{10_000_000 * unit, 20, NewRate(100, 20, time.Second)},
		{1_000 * unit, 40, NewRate(1_000_000, 40, time.Second)},
	}
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.1, 4, 3000)
	m, model := NewMemory(1<<16), sequential{}
	hits, used := make([]Hit, 4), make([]simpleRate, 4)
	refused := 0
	for i, now := 0, int64(1); i < 2_000_000; i++ {
		n := 1 + random.IntN(3)
		for j := range n {
			r := random.IntN(len(rates))
			key := binary.BigEndian.AppendUint64([]byte{byte(r)}, zipf.Uint64())
			hits[j] = Hit{Key: key, Rate: &rates[r].rate, N: random.Uint64N(3), Shadow: random.IntN(8) == 0}
			used[j] = rates[r]
		}
		want, decisions := model.take(now, hits[:n], used[:n])
		got, _ := m.Take(t.Context(), now, hits[:n])
		if want != got {
			require.Equal(t, want, got, "request %d", i)
		}
		for j := range n {
			if w, g := decisions[j], hits[j].Decision; w.Allowed != g.Allowed || distinct(hits[:n]) && w.Remaining != g.Remaining {
				require.Equal(t, w, g, "request %d, hit %d of %d", i, j, n)
			}
		}
		if !got {
			refused++
		}
		now += random.Int64N(100_000)
	}
	assert.Zero(t, m.Stats(0).Evictions)
	assert.Greater(t, refused, 100_000)
	assert.Less(t, refused, 1_900_000)
}

func TestExactlyTheLimitUnderConcurrency(t *testing.T) {
	const workers, each = 16, 4000
	a, b := NewRate(1000, 1000, day), NewRate(700, 700, day)
	m := NewMemory(1000)
	var both, onlyA atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				hits := []Hit{{Key: []byte("a"), Rate: &a, N: 1}, {Key: []byte("b"), Rate: &b, N: 1}}
				if w%2 == 1 {
					hits[0], hits[1] = hits[1], hits[0]
				}
				if ok, _ := m.Take(t.Context(), someday, hits); ok {
					both.Add(1)
				}
				if i < each/2 {
					continue
				}
				if ok, _ := m.Take(t.Context(), someday, one([]byte("a"), &a)); ok {
					onlyA.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1000, both.Load()+onlyA.Load())
	assert.LessOrEqual(t, both.Load(), int64(700))
	assert.False(t, take(t, m, someday, one([]byte("a"), &a)))
}

// While time goes on, seen by each goroutine a little differently, exactly the burst and the rate pass.
func TestExactlyTheRateUnderConcurrency(t *testing.T) {
	const burst, requests = 10, 7000
	rate := NewRate(requests, burst, time.Second)
	m := NewMemory(1000)
	var clock, passed atomic.Int64
	clock.Store(someday)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50_000 {
				now := clock.Add(2000) // some 70 questions an interval
				if ok, _ := m.Take(t.Context(), now, one([]byte("k"), &rate)); ok {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	end := clock.Load()
	for take(t, m, end, one([]byte("k"), &rate)) {
		passed.Add(1)
	}
	// The first question of all may have been any of the first ones.
	assert.InDelta(t, burst+float64(end-someday)*requests/1e9, float64(passed.Load()), 1.01)
	assert.LessOrEqual(t, passed.Load(), burst+(end-someday)*requests/1e9)
}

// So full is the table that one key of six is in its second bucket.
func TestManyKeysConcurrently(t *testing.T) {
	const keys, limit = 2000, 5
	rate := NewRate(limit, limit, day)
	m := NewMemory(keys * 5 / 4)
	var allowed [keys]atomic.Int32
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(w, 0))
			hits := one(nil, &rate)
			for range limit {
				for _, k := range random.Perm(keys) {
					hits[0].Key = numbered(uint64(k))
					if ok, _ := m.Take(t.Context(), someday, hits); ok {
						allowed[k].Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	for k := range allowed {
		require.EqualValues(t, limit, allowed[k].Load(), "key %d", k)
	}
	assert.Equal(t, Stats{Keys: keys, Capacity: m.Stats(0).Capacity}, m.Stats(someday))
}

func TestRefusedRequestUsesNothingUp(t *testing.T) {
	wide, narrow, none := NewRate(3, 3, day), NewRate(1, 1, day), NewRate(0, 0, day)
	m := NewMemory(100)
	hits := func() []Hit {
		return []Hit{{Key: []byte("wide"), Rate: &wide, N: 1}, {Key: []byte("narrow"), Rate: &narrow, N: 1}}
	}
	assert.True(t, take(t, m, someday, hits()))
	for range 10 {
		h := hits()
		assert.False(t, take(t, m, someday, h))
		assert.True(t, h[0].Decision.Allowed)
		assert.EqualValues(t, 2, h[0].Decision.Remaining, "as it stands without the request")
	}
	assert.False(t, take(t, m, someday, append(hits()[:1], Hit{Key: []byte("none"), Rate: &none, N: 1})))
	assert.True(t, take(t, m, someday, one([]byte("wide"), &wide)))
	assert.True(t, take(t, m, someday, one([]byte("wide"), &wide)))
	assert.False(t, take(t, m, someday, one([]byte("wide"), &wide)))
}

func TestSameKeyTwiceInOneRequest(t *testing.T) {
	rate := NewRate(3, 3, day)
	m := NewMemory(100)
	twice := func() []Hit { return append(one([]byte("k"), &rate), one([]byte("k"), &rate)...) }
	assert.True(t, take(t, m, someday, twice()))
	assert.False(t, take(t, m, someday, twice()), "one left")
	assert.True(t, take(t, m, someday, one([]byte("k"), &rate)))
	assert.False(t, take(t, m, someday, one([]byte("k"), &rate)))
}

func TestShadowNeverRefusesAndIsCountedLikeTheRest(t *testing.T) {
	rate, shadow := NewRate(5, 5, day), NewRate(2, 2, day)
	m := NewMemory(100)
	would := 0
	for range 10 {
		h := []Hit{{Key: []byte("s"), Rate: &shadow, N: 1, Shadow: true}, {Key: []byte("r"), Rate: &rate, N: 1}}
		if take(t, m, someday, h) && !h[0].Decision.Allowed {
			would++
		}
	}
	assert.Equal(t, 3, would, "5 pass, 2 of them within the shadow's limit")
}

func TestOverLimitKeysSurviveAFlood(t *testing.T) {
	rate := NewRate(10, 10, time.Hour)
	m := NewMemory(10_000)
	capacity := m.Stats(0).Capacity
	now := someday
	const offenders = 100
	for k := range uint64(offenders) {
		for range 10 {
			require.True(t, take(t, m, now, one(numbered(k), &rate)))
		}
	}
	for k := range uint64(1_000_000) {
		require.True(t, take(t, m, now, one(numbered(1_000_000+k), &rate)), "a new key passes")
		now += 1000
	}
	st := m.Stats(now)
	assert.Equal(t, capacity, st.Keys)
	assert.Equal(t, capacity, st.Capacity)
	assert.GreaterOrEqual(t, st.Evictions, 1_000_000-capacity)
	for k := range uint64(offenders) {
		assert.False(t, take(t, m, now, one(numbered(k), &rate)), "key %d was forgotten", k)
	}
}

func TestExpiredKeysMakeRoomWithoutLoss(t *testing.T) {
	rate := NewRate(10, 10, time.Second)
	m := NewMemory(1000)
	now := someday
	for k := range uint64(100_000) {
		require.True(t, take(t, m, now, one(numbered(k), &rate)))
		now += int64(100*time.Millisecond) / 500 // some 500 in use at a time
	}
	assert.Zero(t, m.Stats(now).Evictions)
	assert.Zero(t, m.Stats(now+int64(time.Second)).Keys)
}

// The capacity is what it says: as many keys as it was made for, all in use, and next to none forgotten.
func TestHoldsTheKeysItWasMadeFor(t *testing.T) {
	const keys = DefaultKeys
	rate := NewRate(10, 10, time.Hour)
	m := NewMemory(0)
	for k := range uint64(keys) {
		take(t, m, someday, one(numbered(k), &rate))
	}
	st := m.Stats(someday)
	assert.Less(t, st.Evictions, uint64(keys/10_000))
	assert.Equal(t, keys-st.Evictions, st.Keys)
	assert.Equal(t, st.Capacity/ways*uint64(unsafe.Sizeof(bucket{})), uint64(32<<20))
}

func TestSmallestTables(t *testing.T) {
	rate := NewRate(2, 2, time.Hour)
	for keys := range 300 {
		m := NewMemory(keys)
		for k := range uint64(5) {
			require.True(t, take(t, m, someday, append(one(numbered(k), &rate), one(numbered(k+1000), &rate)...)))
		}
		assert.GreaterOrEqual(t, m.Stats(0).Capacity, uint64(keys))
	}
}

// slots is what a table holds.
func slots(m *Memory) map[uint64]Arrival {
	all := map[uint64]Arrival{}
	for i := range m.buckets {
		for way := range ways {
			all[m.buckets[i].tagOf(way)] = m.buckets[i].arrival(way)
		}
	}
	return all
}

func TestUndoPutsBackWhatWasPushedOut(t *testing.T) {
	rate, none := NewRate(2, 1, time.Hour), NewRate(0, 0, time.Hour)
	m := NewMemory(1)
	capacity := m.Stats(0).Capacity
	for k := uint64(0); m.Stats(someday).Keys < capacity; k++ {
		take(t, m, someday, one(numbered(k), &rate))
	}
	before := slots(m)
	evictions := m.Stats(someday).Evictions
	for k := range uint64(1000) {
		hits := append(one(numbered(1000+k), &rate), one(numbered(3000+k), &rate)...)
		assert.False(t, take(t, m, someday, append(hits, one([]byte("none"), &none)...)))
	}
	assert.Equal(t, before, slots(m))
	assert.Equal(t, evictions, m.Stats(someday).Evictions)
}

func TestEarlierNowForgetsNothing(t *testing.T) {
	rate := NewRate(5, 5, time.Second)
	m := NewMemory(10)
	for range 5 {
		require.True(t, take(t, m, someday, one([]byte("k"), &rate)))
	}
	assert.False(t, take(t, m, someday-int64(time.Hour), one([]byte("k"), &rate)))
	assert.False(t, take(t, m, someday, one([]byte("k"), &rate)))
	assert.True(t, take(t, m, someday+int64(200*time.Millisecond), one([]byte("k"), &rate)))
}

func TestTakeDoesNotAllocate(t *testing.T) {
	rate := NewRate(1000, 1000, time.Second)
	m := NewMemory(1000)
	ctx, hits := t.Context(), append(one([]byte("a"), &rate), one([]byte("b"), &rate)...)
	now := someday
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		now += 1000
		_, _ = m.Take(ctx, now, hits[:1])
		_, _ = m.Take(ctx, now, hits)
	}))
}

// BenchmarkMemory asks for 100,000 keys, some far more often than others, from all cores. "refusing" has a limit that
// the keys asked most are over, as it is where a limit is needed, "counting" one that nobody reaches. "apart" is what
// the machine can do: the same work, but a table for each core. It should move with the number of cache lines, locks
// and hashes a decision takes.
func BenchmarkMemory(b *testing.B) {
	const keys = 100_000
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.1, 10, keys-1)
	asked := make([]uint32, 1<<20)
	for i := range asked {
		asked[i] = uint32(zipf.Uint64())
	}
	for _, limit := range []struct {
		name string
		rate Rate
	}{{"refusing", NewRate(100, 100, time.Second)}, {"counting", NewRate(1e8, 1e8, time.Second)}} {
		for _, tables := range []string{"", "/apart"} {
			b.Run(limit.name+tables, func(b *testing.B) {
				shared := NewMemory(0)
				var worker atomic.Int64
				start := time.Now()
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					m, i := shared, int(worker.Add(1))*10_007
					if tables != "" {
						m = NewMemory(0)
					}
					key := AppendKey(AppendKey(AppendKey(nil, "RateLimit shop/checkout#0"), "x-tenant"), string(numbered(0)))
					rate := limit.rate
					ctx, hits := b.Context(), one(key, &rate)
					for ; pb.Next(); i++ {
						binary.BigEndian.PutUint32(key[len(key)-4:], asked[i&(len(asked)-1)])
						_, _ = m.Take(ctx, someday+int64(time.Since(start)), hits)
					}
				})
			})
		}
	}
}
