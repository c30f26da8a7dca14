package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

const (
	floodLimit  = "{by: [{header: x-user}], requests: 10, per: hour, burst: 10}" // what is counted counts for six minutes and more
	floodRedis  = "64mb"                                                         // of half a million keys
	regulars    = 100                                                            // users that are over their limit
	regularRate = 200                                                            // questions a second of theirs
	inFlood     = 64                                                             // questions of the flood that are written at once
)

// flood asks for keys that come once, so many a second, and all the while for users that have used up their limits: which
// is what has to be refused still, and in time.
func flood(program string, planes []string, rate float64, during time.Duration) error {
	fmt.Printf("%.0f keys a minute that come once, for %s, %s; beside them %d questions a second of %d users that are over their limit\n\n",
		rate*60, during, time.Now().UTC().Format(time.DateOnly), regularRate, regulars)
	fmt.Printf("%-12s %10s %20s %9s %9s %9s %9s %17s %19s %11s %10s\n", "counters", "new keys", "users:", "p50", "p99", "p99.9", "max", "resident", "evicted,", "redis,", "goroutines")
	fmt.Printf("%-12s %10s %20s %9s %9s %9s %9s %17s %19s %11s\n", "", "", "ok/over/error/late", "", "", "", "", "before, after", "by weir, by redis", "at most")
	for _, plane := range planes {
		if err := underFlood(program, plane, rate, during); err != nil {
			return fmt.Errorf("%s: %w", plane, err)
		}
	}
	return nil
}

func underFlood(program, plane string, rate float64, during time.Duration) error {
	s, err := startForFlood(program, plane)
	if err != nil {
		return err
	}
	defer s.stop()
	users := make([]*ratelimitsvcv3.RateLimitRequest, regulars)
	for i := range users {
		users[i] = once(i, "regular-"+strconv.Itoa(i))
	}
	if err := s.useUp(users); err != nil {
		return err
	}
	before := resident(s.pid)
	load, err := askSteadily(s.address, users, regularRate)
	if err != nil {
		return err
	}
	var pour sync.WaitGroup
	var asked int
	var poured error
	pour.Go(func() { asked, poured = s.pour(rate, during) })
	stop := make(chan struct{})
	most := s.watchRedis(stop)
	pour.Wait()
	goroutines, after := s.goroutines(), resident(s.pid)
	answers := load.end()
	close(stop)
	if poured != nil {
		return poured
	}
	st, err := s.status()
	if err != nil {
		return err
	}
	c := count(answers)
	fmt.Printf("%-12s %10d %20s %9s %9s %9s %9s %8.0f, %4.0f MB %9d, %8s %8s MB %10d\n", plane, asked, c.String(), c.quantile(0.5), c.quantile(0.99), c.quantile(0.999), c.quantile(1),
		before, after, st.RateLimit.Store.Evictions, s.redisSays("stats", "evicted_keys"), <-most, goroutines)
	return nil
}

// once is a question of one user.
func once(n int, user string) *ratelimitsvcv3.RateLimitRequest {
	return &ratelimitsvcv3.RateLimitRequest{Domain: domain, Descriptors: []*commonratelimitv3.RateLimitDescriptor{descriptor(n%services, user)}}
}

// useUp asks for users until all are over their limit.
func (s *server) useUp(users []*ratelimitsvcv3.RateLimitRequest) error {
	c, err := dialTogether(s.address)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	for range 20 {
		answers, err := c.ask(users)
		if err != nil {
			return err
		}
		over := 0
		for _, a := range answers {
			if a.GetOverallCode() == ratelimitsvcv3.RateLimitResponse_OVER_LIMIT {
				over++
			}
		}
		if over == len(users) {
			return nil
		}
	}
	return errors.New("the users are not over their limit")
}

// pour asks for keys that come once, whatever the answers are.
func (s *server) pour(rate float64, during time.Duration) (asked int, err error) {
	c, err := dialTogether(s.address)
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	c.lenient = true
	now := make([]*ratelimitsvcv3.RateLimitRequest, inFlood)
	for begin := time.Now(); time.Since(begin) < during; asked += inFlood {
		time.Sleep(time.Until(begin.Add(time.Duration(float64(asked) / rate * float64(time.Second)))))
		for i := range now {
			now[i] = once(asked+i, "attacker-"+strconv.Itoa(asked+i))
		}
		if _, err := c.ask(now); err != nil {
			return asked, err
		}
	}
	return asked, nil
}

// watchRedis gives the most memory in MB that Redis had until stop is closed.
func (s *server) watchRedis(stop <-chan struct{}) <-chan string {
	out := make(chan string, 1)
	go func() {
		most := 0
		for {
			n, _ := strconv.Atoi(s.redisSays("memory", "used_memory"))
			most = max(most, n)
			select {
			case <-stop:
				out <- strconv.Itoa(most / 1e6)
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return out
}

// redisSays is a field of a section of INFO; 0 without a Redis.
func (s *server) redisSays(section, field string) string {
	if s.store == nil {
		return "0"
	}
	text, err := s.store.Info(section)
	if err != nil {
		return "?"
	}
	_, text, _ = strings.Cut(text, "\n"+field+":")
	text, _, _ = strings.Cut(text, "\r")
	return text
}

// startForFlood starts the program with its counters in memory, or in a Redis that has to do with little memory.
func startForFlood(program, plane string) (*server, error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{end: []func(){func() { _ = os.RemoveAll(dir) }}}
	var args []string
	switch plane {
	case "memory":
	case "small":
		args = []string{"--keys", "100000"}
	case "volatile-ttl", "noeviction":
		address, err := s.startRedis(context.Background(), dir, "--maxmemory "+floodRedis, "--maxmemory-policy "+plane)
		if err != nil {
			s.stop()
			return nil, err
		}
		args = []string{"--redis", "redis://" + address}
	default:
		s.stop()
		return nil, errors.New("want -planes memory, small, volatile-ttl or noeviction")
	}
	if err := s.startProgram(program, dir, floodLimit, args...); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}
