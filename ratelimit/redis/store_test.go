package redis

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a store until the test ends, and waits until it asks Redis.
func start(t testing.TB, o Options) *Store {
	t.Helper()
	s := launch(t, o)
	ready, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	require.NoError(t, s.Ready(ready), "%+v", s.remote())
	return s
}

// launch runs a store until the test ends.
func launch(t testing.TB, o Options) *Store {
	t.Helper()
	level := slog.LevelError + 1
	if os.Getenv("WEIR_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	s, err := New(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// patient are options for tests that are not about time.
func patient(address string) Options {
	return Options{URLs: []string{"redis://" + address}, Timeout: maxTimeout}
}

func TestRedisKeepsTheContract(t *testing.T) {
	server := servers.RunRedis(t)
	s := storetest.Suite{Questions: 15_000, New: func(t *testing.T) ratelimit.Store {
		require.NoError(t, server.Do("FLUSHALL"))
		o := patient(server.Address)
		o.virtual = true
		return start(t, o)
	}}
	s.Run(t)
}

// TestScriptsLeaseAsQuestionsDo has Redis decide, lease and hold at random, and then keys stand where they do by what replicas
// work out themselves from its answers.
func TestScriptsLeaseAsQuestionsDo(t *testing.T) {
	o := patient(servers.RunRedis(t).Address)
	o.virtual = true
	s := start(t, o)
	random := rand.New(rand.NewPCG(1, 1))
	rates, model, freed := leaseRates(), map[string]stand{}, map[string]hold{}
	now := int64(1_795_000_000_000_000_000)
	randomPart := func() part {
		i := random.IntN(len(rates))
		rate := &rates[i]
		p := part{key: "k" + strconv.Itoa(i), Hit: ratelimit.Hit{Rate: rate, N: 1, Shadow: random.IntN(9) == 0}}
		switch random.IntN(8) {
		case 0:
			p.N = 0 // it only leases
		case 1, 2:
			p.N, p.Kind = random.Uint64N(2*rate.Limit()), ratelimit.Kind(random.IntN(3))
		}
		if random.IntN(3) > 0 {
			p.wish, p.ahead = random.Uint64N(rate.Limit()/2), time.Duration(random.Int64N(span))
			p.freed = freed[p.key]
			if rate.Algorithm() == ratelimit.GCRA {
				p.holds = []int64{0, holdFirst, holdFor}[random.IntN(3)]
			}
		}
		return p
	}
	for range 10_000 {
		if now += random.Int64N(int64(100 * time.Millisecond)); random.IntN(200) == 0 {
			now += random.Int64N(2 * holdFor * second)
		}
		var batch []*question
		for range 1 + random.IntN(3) {
			q := &question{now: now, parts: []part{randomPart()}}
			if random.IntN(4) == 0 {
				q.parts = append(q.parts, randomPart())
			}
			batch = append(batch, q)
		}
		x := pack(batch, s.slotOf)[0]
		all := []script{x}
		s.virtualTime(batch)
		s.call(nil, all)
		require.NoError(t, all[0].err)
		at, stands, err := readReply(all[0].reply, len(x.names))
		require.NoError(t, err)
		require.Equal(t, now, at)
		for i, name := range x.names {
			want, got := model[name].when(now), stands[i]
			if want.at.NS > now || got.at.NS > now { // else it is as good as never used
				require.Equal(t, want, got, name)
			}
		}
		for _, q := range x.questions {
			q.decide(now, stands)
			for _, p := range q.parts {
				if freed[p.key] = p.held; random.IntN(9) == 0 {
					freed[p.key] = hold{now/second + random.Int64N(holdFor), random.Int64N(second)}
				}
			}
		}
		for i, name := range x.names {
			model[name] = stands[i]
		}
	}
}

// TestRefusedQuestionsTellWhatRemainsWithoutThem has a key be leased that another one, which is used up, brings down: by
// Redis, and by what is known of it here.
func TestRefusedQuestionsTellWhatRemainsWithoutThem(t *testing.T) {
	o := patient(servers.RunRedis(t).Address)
	o.Lease = 0.5
	s := start(t, o)
	year := 365 * 24 * time.Hour
	two, many := ratelimit.NewFixedWindow(2, year), ratelimit.NewFixedWindow(40, year)
	for range 6 {
		require.True(t, allowed(t, s, hit("many", &many)))
	}
	for range 2 {
		require.True(t, allowed(t, s, hit("two", &two), hit("many", &many)))
	}
	for i := range 20 {
		hits := []ratelimit.Hit{hit("two", &two), hit("many", &many)}
		ok, err := take(t, s, hits...)
		require.NoError(t, err)
		require.False(t, ok)
		require.EqualValues(t, 0, hits[0].Decision.Remaining)
		require.True(t, hits[1].Decision.Allowed)
		require.EqualValues(t, 32, hits[1].Decision.Remaining, "time %d", i)
	}
}
