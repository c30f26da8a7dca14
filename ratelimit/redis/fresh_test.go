package redis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
)

// A fresh key that is written holds what the script makes of one, for as long, and the question has the same answer. One that is
// there stays.
func TestFreshKeysAreAsTheScriptMakesThem(t *testing.T) {
	o := patient(servers.RunRedis(t).Address)
	o.virtual = true
	s := start(t, o)
	c, err := s.client.get()
	require.NoError(t, err)
	get := func(key string) (value string, life int64) {
		value, err := c.Do(context.Background(), c.B().Get().Key(key).Build()).ToString()
		require.NoError(t, err)
		life, err = c.Do(context.Background(), c.B().Pttl().Key(key).Build()).AsInt64()
		require.NoError(t, err)
		return value, life
	}
	random := rand.New(rand.NewPCG(1, 1))
	now := int64(1_795_000_000_000_000_000)
	for i := range 2000 {
		now += random.Int64N(int64(100 * time.Millisecond))
		rate := ratelimit.NewRate(1+random.Uint64N(1000), 1+random.Uint64N(300), []time.Duration{time.Second, time.Minute, day}[random.IntN(3)])
		ask := func(key string) *question {
			return &question{now: now, parts: []part{{key: key, Hit: ratelimit.Hit{Rate: &rate, N: 1}}}}
		}
		written, scripted := ask("w"+strconv.Itoa(i)), ask("s"+strconv.Itoa(i))
		p := &written.parts[0]
		p.N = 1 + random.Uint64N(rate.Limit())
		if random.IntN(3) > 0 {
			p.wish, p.ahead, p.holds = random.Uint64N(rate.Limit()+1), time.Duration(random.Int64N(span)), []int64{0, holdFirst, holdFor}[random.IntN(3)]
		}
		copied := *p
		copied.key = scripted.parts[0].key
		scripted.parts[0] = copied
		require.True(t, written.plain())

		s.virtualTime([]*question{written})
		keys, scripts := []fresh{written.decideFresh(now)}, pack([]*question{scripted}, s.slotOf)
		s.call(keys, scripts)
		require.NoError(t, keys[0].err)
		require.False(t, keys[0].there)
		at, stands, err := readReply(scripts[0].reply, 1)
		require.NoError(t, err)
		scripted.decide(at, stands)
		q := &scripted.parts[0]
		require.Equal(t, q.Decision, p.Decision)
		require.Equal(t, []any{q.from, q.to, q.held}, []any{p.from, p.to, p.held})
		value, life := get(p.key)
		want, wantLife := get(q.key)
		require.Equal(t, want, value)
		require.InDelta(t, wantLife, life, 900, "milliseconds, which begin when the command is run")

		again := []fresh{written.decideFresh(now + 1)}
		s.call(again, nil)
		require.NoError(t, again[0].err)
		require.True(t, again[0].there)
		value, _ = get(p.key)
		require.Equal(t, want, value)
	}
}

// No script is run for keys that come once.
func TestFreshKeysNeedNoScript(t *testing.T) {
	server := servers.RunRedis(t)
	o := patient(server.Address)
	o.Lease = DefaultLease
	s := start(t, o)
	eventually(t, "the time is known", s.time.sure)
	before := s.metrics.asked.Load()
	require.NoError(t, server.Do("SCRIPT", "FLUSH"))
	rate := ratelimit.NewRate(100, 100, time.Second)
	for i := range 200 {
		require.True(t, allowed(t, s, hit(fmt.Sprint("once-", i), &rate)))
	}
	eventually(t, "all went there", func() bool { return s.metrics.asked.Load()-before == 200 })
	c, err := s.client.get()
	require.NoError(t, err)
	known, err := c.Do(context.Background(), c.B().ScriptExists().Sha1(decideName).Build()).AsIntSlice()
	require.NoError(t, err)
	assert.Equal(t, []int64{0}, known)
}

// Replicas that are asked about the same keys find that they are there, count them as one, and soon no longer try.
func TestFreshKeysThatAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		first, second := l.replica(t, Options{Lease: 0.1}), l.replica(t, Options{Lease: 0.1})
		time.Sleep(5 * time.Second) // until the time is known
		rate := ratelimit.NewRate(5, 5, time.Hour)
		for i := range 500 {
			key := strconv.Itoa(i)
			for range 3 {
				require.True(t, allowed(t, first, hit(key, &rate)))
			}
			for n := range 3 {
				require.Equal(t, n < 2, allowed(t, second, hit(key, &rate)))
			}
		}
		assert.InDelta(t, 500+100, l.writes, 100)
		// And if keys are fresh again, they are again written.
		before := l.writes
		for i := range 2000 {
			require.True(t, allowed(t, second, hit("other-"+strconv.Itoa(i), &rate)))
		}
		assert.Greater(t, l.writes-before, 500)
	})
}

// A question that turned to the script has the time that it has left, and is answered once.
func TestFreshKeysInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		s, other := l.replica(t, Options{Lease: 0.1}), l.replica(t, Options{Lease: 0.1})
		time.Sleep(5 * time.Second)
		rate := ratelimit.NewRate(100, 100, time.Hour)
		require.True(t, allowed(t, other, hit("k", &rate)))
		calls := s.call
		s.call = func(fresh []fresh, scripts []script) {
			if calls(fresh, scripts); len(fresh) > 0 {
				l.mu.Lock()
				l.cuts[s] = true
				l.mu.Unlock()
			}
		}
		h := hit("k", &rate)
		h.Strict = true
		begun := time.Now()
		_, err := take(t, s, h)
		require.ErrorIs(t, err, ratelimit.ErrUnavailable)
		assert.LessOrEqual(t, time.Since(begun), 2*DefaultTimeout)
		l.mu.Lock()
		clear(l.cuts)
		l.mu.Unlock()
	})
}
