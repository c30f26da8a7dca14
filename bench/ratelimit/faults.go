package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/machinenativeops/weir/internal/servers"
)

// fault is what becomes of Redis. Without a mend others mend it.
type fault struct {
	name       string
	fail, mend func(*servers.Redis) error
	sentinel   bool
}

func allFaults() []fault {
	kill := func(r *servers.Redis) error { return r.Kill() }
	restart := func(r *servers.Redis) error { return r.Restart(context.Background()) }
	do := func(f func(*servers.Redis)) func(*servers.Redis) error {
		return func(r *servers.Redis) error { f(r); return nil }
	}
	return []fault{
		{name: "none", fail: do(func(*servers.Redis) {}), mend: do(func(*servers.Redis) {})},
		{name: "killed", fail: kill, mend: restart},
		{name: "frozen", fail: do((*servers.Redis).Freeze), mend: do((*servers.Redis).Thaw)},
		{name: "emptied", fail: func(r *servers.Redis) error {
			if err := kill(r); err != nil {
				return err
			}
			return restart(r)
		}, mend: do(func(*servers.Redis) {})},
		{name: "failed over", fail: kill, sentinel: true},
	}
}

// faults asks at a steady rate while Redis fails and comes back. Recovered is how long it took to
// decide again where onError is deny, from when it was mended, or, where nobody mends it, from when it failed.
func faults(program string, planes []string, rate float64, during time.Duration) error {
	fmt.Printf("%.0f questions a second, %d services, %d Zipf keys, %s; while Redis fails, for %s:\n\n", rate, services, keys, time.Now().UTC().Format(time.DateOnly), during)
	fmt.Printf("%-8s %-11s %21s %21s \n", "", "", "onError: deny", "onError: allow")
	fmt.Printf("%-8s %-11s %21s %21s %8s %8s %8s %8s %10s %8s %9s %10s\n", "server", "redis", "ok/over/error/late", "ok/over/error/late", "p50", "p99", "p99.9", "max", "recovered", "then bad", "resident", "goroutines")
	for _, plane := range planes {
		for _, f := range allFaults() {
			if plane == "peer" && f.sentinel {
				continue
			}
			if err := underFault(program, plane, f, rate, during); err != nil {
				return fmt.Errorf("%s, %s: %w", plane, f.name, err)
			}
		}
	}
	return nil
}

func underFault(program, plane string, f fault, rate float64, during time.Duration) error {
	s, err := startForFault(program, plane, f)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.check(true); err != nil {
		return err
	}
	all := questions(false)
	load, err := askSteadily(s.address, all, rate)
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	failed := time.Now()
	if err := f.fail(s.store); err != nil {
		return err
	}
	time.Sleep(during - time.Since(failed))
	mended := time.Now()
	goroutines, memory := s.goroutines(), resident(s.pid)
	if f.mend == nil {
		mended = failed
	} else if err := f.mend(s.store); err != nil {
		return err
	}
	time.Sleep(during)
	answers := load.end()
	report(plane, f.name, all, answers, failed, failed.Add(during), mended, memory, goroutines)
	return nil
}

func report(plane, fault string, all []*ratelimitsvcv3.RateLimitRequest, answers []answer, failed, until, mended time.Time, memory float64, goroutines int) {
	var deny, allow, both, after []answer
	for _, a := range answers {
		if a.due.After(mended) && strict(all[a.n]) {
			after = append(after, a)
		}
		switch {
		case a.due.Before(failed) || a.due.After(until):
			continue
		case strict(all[a.n]):
			deny = append(deny, a)
		default:
			allow = append(allow, a)
		}
		both = append(both, a)
	}
	c, d, e := count(both), count(deny), count(allow)
	back, later, ok := recovered(after)
	took := "not yet"
	if ok {
		took = back.due.Sub(mended).Round(time.Millisecond).String()
	}
	fmt.Printf("%-8s %-11s %21s %21s %8s %8s %8s %8s %10s %8d %6.0f MB %10d\n", plane, fault, d.String(), e.String(),
		c.quantile(0.5), c.quantile(0.99), c.quantile(0.999), c.quantile(1), took, later, memory, goroutines)
}

// recovered is the first of twenty answers in a row that are decisions, where a lease alone never gives as many, and how many
// there were after it that are not.
func recovered(answers []answer) (first answer, later int, ok bool) {
	row := 0
	for i, a := range answers {
		switch {
		case a.kind < undone:
			row++
		case row < 20:
			row = 0
		default:
			later++
		}
		if row == 1 {
			first = answers[i]
		}
	}
	return first, later, row >= 20
}

// strict is whether onError is deny for what a question asks about.
func strict(q *ratelimitsvcv3.RateLimitRequest) bool {
	var n int
	_, _ = fmt.Sscanf(q.GetDescriptors()[0].GetEntries()[0].GetValue(), "limit/shop/service-%d/0", &n)
	return denies(n)
}

// startForFault starts a server of a plane with a Redis, or two and a Sentinel.
func startForFault(program, plane string, f fault) (*server, error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{end: []func(){func() { _ = os.RemoveAll(dir) }}}
	fail := func(err error) (*server, error) {
		s.stop()
		return nil, err
	}
	switch plane {
	case "program", "error":
	case "peer":
		if err := s.startPeer(dir); err != nil {
			return fail(err)
		}
		return s, nil
	default:
		return fail(errors.New("want -planes program, error or peer"))
	}
	address, err := s.startRedis(ctx, dir)
	if err != nil {
		return fail(err)
	}
	args := []string{"--redis", "redis://" + address}
	if f.sentinel {
		sentinel, err := s.startSentinel(ctx, dir)
		if err != nil {
			return fail(err)
		}
		args = []string{"--redis", "redis://" + sentinel, "--redis-sentinel", "main"}
	}
	if plane == "error" {
		args = append(args, "--redis-fallback", "error")
	}
	if err := s.startProgram(program, dir, fmt.Sprintf("{by: [{header: x-user}], requests: %d, per: second, burst: %d}", requests, requests), args...); err != nil {
		return fail(err)
	}
	return s, nil
}

// startSentinel gives the Redis that there is a replica, and a Sentinel that knows both.
func (s *server) startSentinel(ctx context.Context, dir string) (string, error) {
	inner := filepath.Join(dir, "replica")
	if err := os.Mkdir(inner, 0o700); err != nil {
		return "", err
	}
	replica, err := servers.StartRedis(ctx, inner, "--replicaof "+strings.Replace(s.store.Address, ":", " ", 1))
	if err != nil {
		return "", err
	}
	s.end = append([]func(){replica.Stop}, s.end...)
	sentinel, err := servers.StartRedisSentinel(ctx, dir, s.store)
	if err != nil {
		return "", err
	}
	s.end = append([]func(){sentinel.Stop}, s.end...)
	for range 1000 {
		if n, err := sentinel.Ask("SENTINEL REPLICAS main"); err == nil && n == "*1" {
			return sentinel.Address, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", errors.New("the sentinel does not find the replica")
}
