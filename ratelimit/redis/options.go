package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/machinenativeops/weir/internal/nowait"
	"github.com/machinenativeops/weir/ratelimit"
)

// Options say where Redis is and how it is used.
type Options struct {
	URLs    []string // redis://[USER@]HOST:PORT[/DATABASE], or rediss: with TLS. With Master of Sentinels, with Cluster of some nodes
	Master  string   // the name by which Sentinels know the server
	Cluster bool

	Password         func() (string, error) // asked for where connections are made anew; nil: none
	SentinelUser     string
	SentinelPassword func() (string, error)
	TLS              *tls.Config // of rediss URLs; nil: the system's authorities

	Prefix   string        // of all keys
	Timeout  time.Duration // of an answer; after it is as without Redis
	Lease    float64       // the part of a limit that a replica may hold of it; 0: every question goes to Redis
	Ahead    float64       // the part of a limit that all replicas may let pass beyond it, so as not to wait where little is used; 0: none. See ahead.go
	Replicas int           // how many there are, until Redis tells
	Share    bool          // without Redis, count by this replica's share of each limit rather than give an error
	Keys     int           // how many of them there is room for without Redis; 0 is [ratelimit.DefaultKeys]

	virtual bool // for tests: by the time that calls have
}

// Defaults of [Options].
const (
	DefaultPrefix  = "weir:"
	DefaultTimeout = 5 * time.Millisecond
	DefaultLease   = 0.1
	DefaultAhead   = 0.1
)

const maxTimeout = 10 * time.Second

func (o *Options) defaults() {
	o.Prefix = cmp.Or(o.Prefix, DefaultPrefix)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.Replicas = max(o.Replicas, 1)
	o.Keys = cmp.Or(o.Keys, ratelimit.DefaultKeys)
}

// fallback is what is done without Redis, for people.
func (o *Options) fallback() string {
	if o.Share {
		return "each replica counts by itself at its share of a limit; where onError is deny, it decides"
	}
	return "onError decides"
}

// address is what a URL says.
type address struct {
	host, user string
	tls        bool
	database   int
}

func parseURL(text string) (a address, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return a, errURL // the error has the text, and that may have a password
	}
	if _, ok := u.User.Password(); ok {
		return a, errors.New("a password is not for a URL, which others can read: put it into a file, or the environment")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" || u.RawQuery != "" {
		return a, fmt.Errorf("%s: %w", u.Redacted(), errURL)
	}
	a = address{host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379")), user: u.User.Username(), tls: u.Scheme == "rediss"}
	if path := strings.Trim(u.Path, "/"); path != "" {
		if a.database, err = strconv.Atoi(path); err != nil || a.database < 0 {
			return a, fmt.Errorf("%s: want a number for the database, got %q", u.Redacted(), path)
		}
	}
	return a, nil
}

var errURL = errors.New("want redis://[USER@]HOST:PORT[/DATABASE], or rediss: for TLS")

// Validate tells what is wrong with options.
func (o *Options) Validate() error {
	_, err := o.client()
	return err
}

func (o *Options) client() (c rueidis.ClientOption, err error) {
	var first address
	for i, text := range o.URLs {
		a, err := parseURL(text)
		if err != nil {
			return c, err
		}
		if i == 0 {
			first = a
		}
		if a.user != first.user || a.tls != first.tls || a.database != first.database {
			return c, fmt.Errorf("%s and %s: several URLs may only differ in host and port", o.URLs[0], text)
		}
		c.InitAddress = append(c.InitAddress, a.host)
	}
	switch {
	case len(o.URLs) == 0:
		return c, errors.New("there is no URL of Redis")
	case o.Master != "" && o.Cluster:
		return c, errors.New("a Cluster has no Sentinels: give one")
	case o.Cluster && first.database != 0:
		return c, errors.New("a Cluster has no database but 0")
	case len(o.URLs) > 1 && o.Master == "" && !o.Cluster:
		return c, errors.New("several URLs are of Sentinels, which need the name of their master, or of a Cluster: say which")
	case o.Lease < 0 || o.Lease > 0.5:
		return c, fmt.Errorf("the lease is a part of a limit, from 0 to 0.5: got %v", o.Lease)
	case o.Ahead < 0 || o.Ahead > 0.5:
		return c, fmt.Errorf("what may pass ahead of Redis is a part of a limit, from 0 to 0.5: got %v", o.Ahead)
	case o.Timeout < 0 || o.Timeout > maxTimeout:
		return c, fmt.Errorf("want a timeout of up to 10s, got %s", o.Timeout)
	}
	c.SelectDB, c.ForceSingleClient = first.database, o.Master == "" && !o.Cluster
	c.DisableCache, c.DisableRetry, c.ClientName = true, true, "weir"
	c.ConnWriteTimeout = max(time.Second, 2*o.Timeout) // so long a connection may be silent
	c.Dialer, c.DialCtxFn = net.Dialer{Timeout: time.Second}, dial
	c.PipelineMultiplex = -1 // one connection: what is gathered goes together
	c.ReadBufferEachConn, c.WriteBufferEachConn = 1<<16, 1<<16
	if first.tls {
		if c.TLSConfig = o.TLS; c.TLSConfig == nil {
			c.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	c.Username = first.user
	if c.Password, err = word(o.Password); err != nil {
		return c, err
	}
	if o.Master != "" {
		c.Sentinel = rueidis.SentinelOption{MasterSet: o.Master, TLSConfig: c.TLSConfig, ClientName: "weir", Dialer: c.Dialer, Username: o.SentinelUser}
		c.Sentinel.Password, err = word(o.SentinelPassword)
	}
	return c, err
}

// dial connects, with TLS where there are settings of it.
func dial(ctx context.Context, address string, d *net.Dialer, settings *tls.Config) (net.Conn, error) {
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	nc = nowait.Conn(nc)
	if settings == nil {
		return nc, nil
	}
	if settings.ServerName == "" {
		settings = settings.Clone()
		settings.ServerName, _, _ = net.SplitHostPort(address)
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	c := tls.Client(nc, settings)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

func word(password func() (string, error)) (string, error) {
	if password == nil {
		return "", nil
	}
	return password()
}
