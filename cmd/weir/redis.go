package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/redis"
)

// redisOptions say where counters are that replicas share.
type redisOptions struct {
	redis.Options
	passwordFile, sentinelPasswordFile string
	ca, cert, key                      string
	fallback                           string
	plaintext                          bool
}

// The variables of the environment that hold passwords. They are no flags, which others can read.
const (
	redisPassword         = "WEIR_REDIS_PASSWORD"
	redisSentinelPassword = "WEIR_REDIS_SENTINEL_PASSWORD"
)

const (
	fallbackShare = "share"
	fallbackError = "error"
)

func (o *redisOptions) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.URLs, "redis", nil, "keep the counters of rate limits in Redis, for all replicas: `redis://[USER@]HOST:PORT[/DATABASE]`, or rediss: with TLS; several are of Sentinels or of a Cluster")
	f.StringVar(&o.Master, "redis-sentinel", "", "the name of the master that the Sentinels at --redis look after")
	f.BoolVar(&o.Cluster, "redis-cluster", false, "--redis are nodes of a Cluster")
	f.StringVar(&o.passwordFile, "redis-password-file", "", "a file with the password, read again where connections are made anew (or "+redisPassword+" in the environment)")
	f.StringVar(&o.SentinelUser, "redis-sentinel-user", "", "the user by which Sentinels know Weir")
	f.StringVar(&o.sentinelPasswordFile, "redis-sentinel-password-file", "", "a file with the password for Sentinels (or "+redisSentinelPassword+" in the environment)")
	f.StringVar(&o.ca, "redis-ca", "", "the authorities in PEM of rediss: servers (default: the system's)")
	f.StringVar(&o.cert, "redis-cert", "", "Weir's own certificate in PEM, for rediss: servers that ask for one")
	f.StringVar(&o.key, "redis-key", "", "the key of --redis-cert in PEM")
	f.BoolVar(&o.plaintext, "redis-plaintext", false, "let redis: URLs without TLS lead to other machines")
	f.StringVar(&o.Prefix, "redis-prefix", redis.DefaultPrefix, "what all keys in Redis begin with; with a hash tag, such as {weir}:, all are in one slot of a Cluster")
	f.DurationVar(&o.Timeout, "redis-timeout", redis.DefaultTimeout, "how long Redis may take to answer")
	f.Float64Var(&o.Lease, "redis-lease", redis.DefaultLease, "the part of a limit that a replica may hold, to answer without Redis: what others can be short of; 0 asks Redis each time")
	f.Float64Var(&o.Ahead, "redis-ahead", redis.DefaultAhead, "the part of a limit that all replicas together may let pass beyond it, so that a key of which little is used need not wait for Redis; 0 lets nothing pass beyond a limit")
	f.IntVar(&o.Replicas, "redis-replicas", 1, "how many replicas there are, as long as Redis has never told")
	f.StringVar(&o.fallback, "redis-fallback", fallbackShare, "while Redis can't be asked: share, each replica counts by itself at its share of a limit, but where onError is deny; or error, onError decides")
}

// run starts the store, or gives none where no Redis is named. It waits a moment for Redis, and goes on without it. What it
// returns ends the store, when nobody asks it any more.
func (o *redisOptions) run(ctx context.Context, registry prometheus.Registerer, log *slog.Logger) (ratelimit.Store, func(), error) {
	if len(o.URLs) == 0 {
		return nil, func() {}, nil
	}
	store, err := o.open(log)
	if err != nil {
		return nil, nil, err
	}
	registry.MustRegister(store)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = store.Run(running) // it ends when it is told to
	}()
	ready, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if store.Ready(ready) != nil {
		log.Warn("redis does not answer yet", "redis", strings.Join(o.URLs, " "))
	}
	return store, func() { stop(); <-done }, nil
}

func (o *redisOptions) open(log *slog.Logger) (*redis.Store, error) {
	switch o.fallback {
	case fallbackShare, fallbackError:
	default:
		return nil, fmt.Errorf("--redis-fallback %s: want share or error", o.fallback)
	}
	if !o.plaintext {
		for _, u := range o.URLs {
			if err := checkPlaintext(u); err != nil {
				return nil, err
			}
		}
	}
	given := o.Options
	given.Share = o.fallback == fallbackShare
	given.Password = password(o.passwordFile, redisPassword)
	given.SentinelPassword = password(o.sentinelPasswordFile, redisSentinelPassword)
	var err error
	if given.TLS, err = o.tls(); err != nil {
		return nil, err
	}
	store, err := redis.New(log, given)
	if err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	return store, nil
}

// checkPlaintext refuses what others could read on its way. What is no URL is told elsewhere.
func checkPlaintext(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "redis" || u.Hostname() == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--redis %s: without TLS, others may read the password and change counters: use rediss:, or say that the network is yours alone with --redis-plaintext", u.Redacted())
}

// password reads one from a file or the environment; nil where there is none.
func password(file, variable string) func() (string, error) {
	if file != "" {
		return func() (string, error) {
			text, err := os.ReadFile(file)
			return strings.TrimRight(string(text), "\r\n"), err
		}
	}
	if word, ok := os.LookupEnv(variable); ok {
		return func() (string, error) { return word, nil }
	}
	return nil
}

func (o *redisOptions) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--redis-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--redis-ca %s: no certificate in it", o.ca)
		}
	}
	if (o.cert == "") != (o.key == "") {
		return nil, errors.New("--redis-cert and --redis-key go together: give both")
	}
	if o.cert == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, fmt.Errorf("--redis-cert, --redis-key: %w", err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}
