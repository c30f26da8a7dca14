package redis

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a store until the test ends.
func start(t testing.TB, o Options) *Store {
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
	ready, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	require.NoError(t, s.Ready(ready), "%+v", s.remote())
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
