package redis

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
)

const day = 24 * time.Hour

func hit(key string, rate *ratelimit.Rate) ratelimit.Hit {
	return ratelimit.Hit{Key: []byte(key), Rate: rate, N: 1}
}

// take asks as the service does.
func take(t testing.TB, s *Store, hits ...ratelimit.Hit) (bool, error) {
	t.Helper()
	return s.Take(t.Context(), time.Now().UnixNano(), hits)
}

func allowed(t testing.TB, s *Store, hits ...ratelimit.Hit) bool {
	t.Helper()
	ok, err := take(t, s, hits...)
	require.NoError(t, err)
	return ok
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, time.Minute, 5*time.Millisecond, what)
}

// Whatever happens to Redis, limits with onError: deny are an error, the others are counted here at a share; and
// when Redis is back, so is everything.
func TestEachFailureIsBornAndRecoveredFrom(t *testing.T) {
	server := servers.RunRedis(t, "--maxmemory-policy noeviction")
	o := patient(server.Address)
	o.Share, o.Timeout, o.Replicas = true, time.Second, 1
	s := start(t, o)
	rate := ratelimit.NewFixedWindow(3, 300*day)
	for name, f := range map[string]struct {
		fail, mend func()
		loses      bool // what was counted
	}{
		"killed": {
			fail: func() { require.NoError(t, server.Kill()) },
			mend: func() { require.NoError(t, server.Restart(t.Context())) }, loses: true,
		},
		"frozen":         {fail: server.Freeze, mend: server.Thaw},
		"out of memory":  {fail: command(t, server, "CONFIG SET maxmemory 1"), mend: command(t, server, "CONFIG SET maxmemory 0")},
		"a replica":      {fail: command(t, server, "REPLICAOF 127.0.0.1 1"), mend: command(t, server, "REPLICAOF NO ONE")},
		"scripts forgot": {fail: command(t, server, "SCRIPT FLUSH"), mend: func() {}},
	} {
		t.Run(name, func(t *testing.T) {
			strict := hit(name+" strict", &rate)
			strict.Strict = true
			shared := hit(name, &rate)
			assert.True(t, allowed(t, s, strict))
			assert.True(t, allowed(t, s, shared))
			assert.True(t, allowed(t, s, shared))
			f.fail()
			if name != "scripts forgot" {
				eventually(t, "redis is left alone", func() bool {
					_, _ = take(t, s, hit(name+" other", &rate))
					return s.down()
				})
				_, err := take(t, s, strict)
				require.ErrorIs(t, err, ratelimit.ErrUnavailable)
				_, done, err := s.try(0, []ratelimit.Hit{strict})
				require.ErrorIs(t, err, ratelimit.ErrUnavailable)
				assert.True(t, done, "without a wait")
				assert.True(t, allowed(t, s, hit(name+" new", &rate)))
			}
			f.mend()
			eventually(t, "redis is asked again", func() bool { return !s.down() })
			assert.True(t, allowed(t, s, shared))
			assert.Equal(t, f.loses, allowed(t, s, shared), "the third was the last, where Redis knows of the others")
			assert.True(t, allowed(t, s, strict))
		})
	}
}

func command(t *testing.T, r *servers.Redis, line string) func() {
	return func() {
		answer, err := r.Ask(line)
		require.NoError(t, err)
		require.Equal(t, "+OK", answer)
	}
}

// Without Redis each replica gives its share, and together they give no more than the limit.
func TestReplicasShareTheLimitAlone(t *testing.T) {
	server := servers.RunRedis(t)
	o := patient(server.Address)
	o.Share = true
	var replicas []*Store
	for range 4 {
		replicas = append(replicas, start(t, o))
	}
	for _, s := range replicas {
		eventually(t, "all know of each other", func() bool { return s.replicas.Load() == 4 })
	}
	require.NoError(t, server.Kill())
	for _, rate := range []ratelimit.Rate{ratelimit.NewRate(100, 100, day), ratelimit.NewFixedWindow(100, 300*day), ratelimit.NewSlidingWindow(100, 300*day)} {
		passed := 0
		for range 50 {
			for _, s := range replicas {
				if allowed(t, s, hit("k", &rate)) {
					passed++
				}
			}
		}
		assert.Equal(t, 100, passed, rate.Algorithm())
	}
}

func TestWaysToRedis(t *testing.T) {
	rate := ratelimit.NewFixedWindow(3, 300*day)
	exact := func(t *testing.T, s *Store) {
		for i := range 50 {
			for n := range 5 {
				assert.Equal(t, n < 3, allowed(t, s, hit(fmt.Sprint("key", i), &rate)))
			}
		}
	}
	t.Run("TLS and a user", func(t *testing.T) {
		cert, key := servers.RedisCertificate(t)
		server := servers.RunRedis(t, "--tls-cert-file "+cert, "--tls-key-file "+key, "--tls-ca-cert-file "+cert, "--tls-auth-clients yes",
			"--user weir on >wonder ~weir:* +@all", "--user default off")
		pair, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		o := patient("")
		o.URLs = []string{"rediss://weir@" + server.Address}
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
		pem, err := os.ReadFile(cert)
		require.NoError(t, err)
		require.True(t, o.TLS.RootCAs.AppendCertsFromPEM(pem))
		words := make(chan string, 100)
		words <- "wrong"
		o.Password = func() (string, error) {
			select {
			case word := <-words:
				return word, nil
			default:
				return "wonder", nil // it has been changed
			}
		}
		exact(t, start(t, o))
	})
	t.Run("Sentinel", func(t *testing.T) {
		master := servers.RunRedis(t)
		sentinel := servers.RedisSentinel(t, master)
		o := patient(sentinel.Address)
		o.Master = "main"
		exact(t, start(t, o))
	})
	t.Run("Sentinel with passwords", func(t *testing.T) {
		own := []string{"--user weir on >wonder ~* &* +@all", "--user default off", "--masteruser weir", "--masterauth wonder"}
		master := servers.RunRedis(t, own...)
		replica := servers.RunRedis(t, append(own, "--replicaof "+hostPort(master.Address))...)
		sentinel := servers.RedisSentinel(t, master, "sentinel auth-user main weir", "sentinel auth-pass main wonder",
			"user guard on >secret ~* &* +@all", "user default off")
		master.Login, replica.Login, sentinel.Login = "weir wonder", "weir wonder", "guard secret"
		eventually(t, "the sentinel knows the replica", func() bool {
			c, err := sentinel.Ask("SENTINEL REPLICAS main")
			return err == nil && c == "*1"
		})
		o := patient("")
		o.URLs, o.Master, o.SentinelUser = []string{"redis://weir@" + sentinel.Address}, "main", "guard"
		var known atomic.Bool // both are another's at first
		word := func(text string) func() (string, error) {
			return func() (string, error) {
				if known.Load() {
					return text, nil
				}
				return "another's", nil
			}
		}
		o.Password, o.SentinelPassword = word("wonder"), word("secret")
		s := launch(t, o)
		eventually(t, "it is told why it may not ask", func() bool {
			r := s.remote()
			return !r.Up && strings.Contains(r.Error, "WRONGPASS")
		})
		assert.NotContains(t, s.remote().Error, "another's")
		known.Store(true)
		eventually(t, "it is asked", func() bool { return !s.down() })
		exact(t, s)
		last := hit("last", &rate)
		last.Strict = true
		for range 3 {
			assert.True(t, allowed(t, s, last))
		}
		replicated(t, master, replica)
		require.NoError(t, master.Kill())
		eventually(t, "the replica is asked, by the same passwords", func() bool {
			ok, err := take(t, s, last)
			return err == nil && !ok
		})
	})
	t.Run("Cluster", func(t *testing.T) {
		nodes := servers.RedisCluster(t, 3)
		o := patient(nodes[0].Address)
		o.Cluster = true
		s := start(t, o)
		exact(t, s)
		all := ratelimit.NewFixedWindow(10, 300*day)
		for i := range 40 { // all or nothing, also where keys lie in several slots
			a, b, c := hit(fmt.Sprint("a", i), &all), hit(fmt.Sprint("b", i), &rate), hit(fmt.Sprint("c", i), &all)
			for n := range 20 {
				assert.Equal(t, n < 3, allowed(t, s, a, b, c))
			}
			eventually(t, "what was counted is given back", func() bool {
				ask := []ratelimit.Hit{a, c}
				ask[0].N, ask[1].N = 0, 0
				allowed(t, s, ask...)
				return ask[0].Decision.Remaining == 7 && ask[1].Decision.Remaining == 7
			})
		}
		o.Prefix = "{weir}:"
		exact(t, start(t, o))
	})
}
