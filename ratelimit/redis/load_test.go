package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
)

// load asks from many goroutines until it is stopped.
type load struct {
	stop       chan struct{}
	wg         sync.WaitGroup
	mu         sync.Mutex
	took       []time.Duration
	goroutines int

	passed, refused, unavailable atomic.Int64
}

func startLoad(t *testing.T, s *Store) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	rate := ratelimit.NewRate(1000, 1000, time.Second)
	for w := range uint64(16) {
		l.wg.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(w, 1)), 1.1, 1, 10_000)
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				h := []ratelimit.Hit{hit("load-"+strconv.FormatUint(zipf.Uint64(), 10), &rate)}
				h[0].Strict = w%4 == 0
				start := time.Now()
				ok, err := s.Take(t.Context(), start.UnixNano(), h)
				took := time.Since(start)
				switch {
				case err != nil && (!errors.Is(err, ratelimit.ErrUnavailable) || !h[0].Strict):
					t.Errorf("an answer that may not be: %v", err)
				case err != nil:
					l.unavailable.Add(1)
				case ok:
					l.passed.Add(1)
				default:
					l.refused.Add(1)
				}
				l.mu.Lock()
				l.took = append(l.took, took)
				l.goroutines = max(l.goroutines, runtime.NumGoroutine())
				l.mu.Unlock()
				time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Millisecond))))
			}
		})
	}
	return l
}

// end tells how it went; times are only told, since the machine may be busy.
func (l *load) end(t *testing.T, what string) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	slices.Sort(l.took)
	at := func(q float64) time.Duration { return l.took[int(q*float64(len(l.took)-1))] }
	t.Logf("%s: %d passed, %d refused, %d by onError; p50 %s, p99 %s, p99.9 %s; at most %d goroutines",
		what, l.passed.Load(), l.refused.Load(), l.unavailable.Load(), at(0.5), at(0.99), at(0.999), l.goroutines)
	assert.Less(t, l.goroutines, 200, "nothing piles up")
	assert.Positive(t, l.passed.Load())
}

func TestUnderLoadRedisFreezesDiesAndComesBack(t *testing.T) {
	server := servers.RunRedis(t)
	o := Options{URLs: []string{"redis://" + server.Address}, Lease: DefaultLease, Share: true, Timeout: 20 * time.Millisecond}
	s := start(t, o)
	for what, f := range map[string][2]func(){
		"frozen": {server.Freeze, server.Thaw},
		"killed": {func() { require.NoError(t, server.Kill()) }, func() { require.NoError(t, server.Restart(t.Context())) }},
	} {
		l := startLoad(t, s)
		time.Sleep(300 * time.Millisecond)
		f[0]()
		eventually(t, "it is left alone", s.down)
		before := l.unavailable.Load()
		eventually(t, "onError: deny is an error", func() bool { return l.unavailable.Load() > before })
		if what == "frozen" {
			time.Sleep(1500 * time.Millisecond) // longer than connections may be silent
		}
		f[1]()
		eventually(t, "it is asked again", func() bool { return !s.down() })
		time.Sleep(200 * time.Millisecond)
		l.end(t, what)
	}
}

func TestUnderLoadSentinelFailsOver(t *testing.T) {
	master := servers.RunRedis(t)
	replica := servers.RunRedis(t, "--replicaof "+hostPort(master.Address))
	sentinel := servers.RedisSentinel(t, master)
	eventually(t, "the sentinel knows the replica", func() bool {
		c, err := sentinel.Ask("SENTINEL REPLICAS main")
		return err == nil && c == "*1"
	})
	o := Options{URLs: []string{"redis://" + sentinel.Address}, Master: "main", Lease: DefaultLease, Share: true, Timeout: 50 * time.Millisecond}
	s := start(t, o)
	rate := ratelimit.NewFixedWindow(3, 300*day)
	for range 3 {
		assert.True(t, allowed(t, s, hit("kept", &rate)))
	}
	replicated(t, master, replica)
	l := startLoad(t, s)
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, master.Kill())
	eventually(t, "it is left alone", s.down)
	eventually(t, "the replica is asked", func() bool { return !s.down() })
	time.Sleep(200 * time.Millisecond)
	l.end(t, "failed over")
	assert.False(t, allowed(t, s, hit("kept", &rate)), "what was counted is counted still")
}

// A server of a Cluster dies, of which nothing takes over: the others are asked still. It comes back empty.
func TestUnderLoadAServerOfAClusterDies(t *testing.T) {
	nodes := servers.RedisCluster(t, 4)
	s := start(t, Options{URLs: []string{"redis://" + nodes[0].Address}, Cluster: true, Lease: DefaultLease, Share: true, Timeout: 100 * time.Millisecond})
	l := startLoad(t, s)
	quarter := func(lane int) int { return lane * len(nodes) / laneCount }
	for name, f := range map[string][2]func(){
		"killed": {func() { require.NoError(t, nodes[1].Kill()) }, func() { require.NoError(t, nodes[1].Restart(t.Context())) }},
		"frozen": {nodes[2].Freeze, nodes[2].Thaw},
	} {
		dead := map[string]int{"killed": 1, "frozen": 2}[name]
		f[0]()
		eventually(t, name+": its slots are left alone", func() bool {
			for i, lane := range s.lanes {
				if quarter(i) == dead && !lane.open.Load() {
					return false
				}
			}
			return true
		})
		strict, here, there := keysOn(s, quarter, dead)
		_, done, err := s.try(0, []ratelimit.Hit{strict})
		require.ErrorIs(t, err, ratelimit.ErrUnavailable, name)
		assert.True(t, done, "%s: without a wait", name)
		assert.True(t, allowed(t, s, here), "%s: what is shared is counted here", name)
		eventually(t, name+": the others are asked", func() bool {
			_, err := take(t, s, there)
			return err == nil
		})
		before := l.unavailable.Load()
		eventually(t, name+": onError: deny is an error", func() bool { return l.unavailable.Load() > before })
		f[1]()
		eventually(t, name+": it is asked again", func() bool { return !s.down() })
	}
	l.end(t, "of a Cluster of four, one was killed and one frozen")
}

// keysOn gives a key of the dead server's slots that is not to be counted without it, one that is, and one elsewhere that is
// not to be counted without its server either.
func keysOn(s *Store, quarter func(lane int) int, dead int) (strict, here, there ratelimit.Hit) {
	rate := ratelimit.NewFixedWindow(1000, 300*day)
	for i := 0; strict.Key == nil || here.Key == nil || there.Key == nil; i++ {
		h := hit(fmt.Sprint("on-", i), &rate)
		switch on := quarter(laneOf(slot(s.keyOf(&h)))); {
		case on != dead:
			there = h
		case strict.Key == nil:
			strict = h
		default:
			here = h
		}
	}
	strict.Strict, there.Strict = true, true
	return strict, here, there
}

// A server of a Cluster dies, and its replica takes over, with what was counted.
func TestUnderLoadAClusterFailsOver(t *testing.T) {
	nodes := servers.RedisCluster(t, 3)
	replica := servers.RedisClusterReplica(t, nodes)
	s := start(t, Options{URLs: []string{"redis://" + nodes[0].Address, "redis://" + nodes[1].Address}, Cluster: true, Lease: DefaultLease, Share: true, Timeout: 100 * time.Millisecond})
	rate := ratelimit.NewFixedWindow(3, 300*day)
	kept := hit("kept", &rate)
	for i := 0; slot(s.keyOf(&kept)) >= slots/3; i++ { // until it lies on the first
		kept = hit(fmt.Sprint("kept-", i), &rate)
	}
	for range 3 {
		assert.True(t, allowed(t, s, kept))
	}
	replicated(t, nodes[0], replica)
	l := startLoad(t, s)
	require.NoError(t, nodes[0].Kill())
	eventually(t, "its slots are left alone", s.down)
	eventually(t, "the replica is asked", func() bool { return !s.down() })
	l.end(t, "failed over")
	kept.Strict = true // else it may be counted here
	eventually(t, "what was counted is counted still", func() bool {
		ok, err := take(t, s, kept)
		return err == nil && !ok
	})
}

// replicated waits until the replica has all that has been written.
func replicated(t *testing.T, master, replica *servers.Redis) {
	t.Helper()
	want, err := master.Offset()
	require.NoError(t, err)
	eventually(t, "it is replicated", func() bool {
		n, err := replica.Offset()
		return err == nil && n >= want
	})
}

// hostPort is HOST PORT of HOST:PORT, as replicaof wants it.
func hostPort(address string) string { return strings.Replace(address, ":", " ", 1) }

// Many keys that come once fill neither this process nor Redis for longer than they count.
func TestManyKeysAreForgotten(t *testing.T) {
	server := servers.RunRedis(t)
	o := patient(server.Address)
	o.Lease = DefaultLease
	s := start(t, o)
	rate := ratelimit.NewRate(10, 10, time.Minute)
	var wg sync.WaitGroup
	const keys = 30_000
	for w := range 64 {
		wg.Go(func() {
			for i := range keys / 64 {
				if !allowed(t, s, hit(fmt.Sprint(w, "-", i), &rate)) {
					t.Error("a new key is refused")
				}
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, s.leases.count(), uint64(2*leaseShards*leaseKeys))
	c, err := s.client.get()
	require.NoError(t, err)
	text, err := c.Do(context.Background(), c.B().Info().Section("keyspace").Build()).ToString()
	require.NoError(t, err)
	var n, expires int
	_, text, _ = strings.Cut(text, "db0:")
	_, err = fmt.Sscanf(text, "keys=%d,expires=%d", &n, &expires)
	require.NoError(t, err, text)
	assert.Equal(t, n, expires, "each goes by itself")
	t.Logf("%d keys in %d calls", keys, s.metrics.calls.Load())
}

// What is no counter of ours is as good as none.
func TestWhateverRedisHolds(t *testing.T) {
	server := servers.RunRedis(t)
	s := start(t, patient(server.Address))
	c, err := s.client.get()
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(1, 1))
	for i, rate := range slices.Repeat(leaseRates(), 20) {
		h := hit(fmt.Sprint("k", i), &rate)
		value := make([]byte, []int{0, 3, 16, 28, 28, 28, 200}[random.IntN(7)])
		for j := range value {
			value[j] = byte(random.Uint32())
		}
		if len(value) == 28 && random.IntN(2) == 0 { // some that are counters
			value = appendStand(nil, stand{ratelimit.Arrival{NS: random.Int64N(1 << 62), Frac: random.Uint32()}, hold{random.Int64N(1 << 32), random.Int64N(1 << 51)}})
		}
		require.NoError(t, c.Do(context.Background(), c.B().Set().Key(s.keyOf(&h)).Value(string(value)).Build()).Error())
		for range 3 {
			_, err := take(t, s, h)
			require.NoError(t, err)
		}
	}
	list := ratelimit.NewFixedWindow(3, 300*day)
	h := hit("list", &list)
	require.NoError(t, c.Do(context.Background(), c.B().Lpush().Key(s.keyOf(&h)).Element("x").Build()).Error())
	assert.True(t, allowed(t, s, h))
	assert.True(t, allowed(t, s, h))
}

// BenchmarkTake asks a real Redis: keys that come once, keys of which some are asked about far more often than others,
// and one of the first among seven of those. It should move with the round trips, and the scripts' time for each key.
func BenchmarkTake(b *testing.B) {
	for _, lease := range []float64{0, DefaultLease} {
		for name, coldOf := range map[string]int{"cold": 1, "hot": 0, "mixed": 8} {
			b.Run(fmt.Sprintf("%s/lease=%v", name, lease), func(b *testing.B) { benchmarkTake(b, lease, coldOf) })
		}
	}
}

func benchmarkTake(b *testing.B, lease float64, coldOf int) {
	server, err := servers.StartRedis(context.Background(), b.TempDir())
	require.NoError(b, err)
	b.Cleanup(server.Stop)
	o := patient(server.Address)
	o.Lease = lease
	s := start(b, o)
	rate := ratelimit.NewRate(1000, 1000, time.Second)
	var worker, cold atomic.Uint64
	b.SetParallelism(128)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		w := worker.Add(1)
		zipf := rand.NewZipf(rand.New(rand.NewPCG(w, 1)), 1.1, 10, 100_000)
		h := []ratelimit.Hit{hit("", &rate)}
		for i := w; pb.Next(); i++ {
			if coldOf > 0 && i%uint64(coldOf) == 0 {
				h[0].Key = strconv.AppendUint(append(h[0].Key[:0], "cold-"...), cold.Add(1), 10)
			} else {
				h[0].Key = strconv.AppendUint(append(h[0].Key[:0], "hot-"...), zipf.Uint64(), 10)
			}
			now := time.Now().UnixNano()
			_, _ = s.Take(b.Context(), now, h)
		}
	})
	b.ReportMetric(float64(s.metrics.calls.Load())/float64(b.N), "calls/op")
	b.ReportMetric(float64(s.metrics.asked.Load())/float64(b.N), "asked/op")
}

// TestManyKeysAtOnce asks about more keys at once than a script can be given.
func TestManyKeysAtOnce(t *testing.T) {
	s := start(t, patient(servers.RunRedis(t).Address))
	rate := ratelimit.NewFixedWindow(1000, day)
	var all sync.WaitGroup
	for i := range 1000 {
		all.Go(func() {
			hits := make([]ratelimit.Hit, 100)
			for n := range hits {
				hits[n] = hit(strconv.Itoa(100*i+n), &rate)
			}
			ok, err := s.Take(t.Context(), time.Now().UnixNano(), hits)
			assert.NoError(t, err)
			assert.True(t, ok)
		})
	}
	all.Wait()
}
