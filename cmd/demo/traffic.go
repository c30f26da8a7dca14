package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// counts is what the traffic has seen.
type counts struct {
	requests, failed, limited, passed int
	byVersion                         map[string]map[string]int // by generation of the route, then version of api
	firstFailure                      string
}

// traffic drives requests through the gateway at a steady rate.
type traffic struct {
	gateway string
	client  *http.Client

	mu     sync.Mutex // guards everything below
	counts counts
	first  map[string]time.Time // when each generation was first seen
}

func newTraffic(gateway string) *traffic {
	return &traffic{
		gateway: gateway,
		client:  &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		counts:  counts{byVersion: make(map[string]map[string]int)},
		first:   make(map[string]time.Time),
	}
}

// flows are the demo's requests: host, path, and how often.
var flows = []struct {
	host, path string
	every      time.Duration
}{
	{"main.demo", "/", 20 * time.Millisecond},
	{"api.demo", "/items", 8 * time.Millisecond},
	{"api.demo", "/limited", 25 * time.Millisecond},
	{"background.demo", "/job", 15 * time.Millisecond},
	{"health.demo", "/healthz", 15 * time.Millisecond},
	{"executions.demo", "/run", 30 * time.Millisecond},
}

// run sends until ctx is done, and returns when every answer is in.
func (t *traffic) run(ctx context.Context) {
	var group sync.WaitGroup
	for _, f := range flows {
		group.Go(func() {
			tick := time.NewTicker(f.every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					group.Go(func() { t.one(context.WithoutCancel(ctx), f.host, f.path) })
				}
			}
		})
	}
	group.Wait()
}

func (t *traffic) one(ctx context.Context, host, path string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.gateway+path, http.NoBody)
	if err != nil {
		t.fail(host+path, err.Error())
		return
	}
	req.Host = host
	req.Header.Set("X-User-Id", "demo")
	resp, err := t.client.Do(req)
	if err != nil {
		t.fail(host+path, err.Error())
		return
	}
	err = drain(resp)
	switch {
	case err != nil:
		t.fail(host+path, err.Error())
	case resp.StatusCode == http.StatusTooManyRequests && path == "/limited":
		t.mu.Lock()
		t.counts.requests++
		t.counts.limited++
		t.mu.Unlock()
	case resp.StatusCode != http.StatusOK:
		t.fail(host+path, resp.Status)
	default:
		t.pass(resp, path)
	}
}

// drain reads an answer to its end, so that its connection serves the next request.
func drain(resp *http.Response) error {
	_, err := io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

func (t *traffic) fail(what, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.requests++
	t.counts.failed++
	if t.counts.firstFailure == "" {
		t.counts.firstFailure = what + ": " + why
	}
}

func (t *traffic) pass(resp *http.Response, path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.requests++
	if path == "/limited" {
		t.counts.passed++
	}
	generation := resp.Header.Get("X-Demo-Generation")
	if generation == "" {
		return
	}
	if t.counts.byVersion[generation] == nil {
		t.first[generation] = time.Now()
		t.counts.byVersion[generation] = make(map[string]int)
	}
	t.counts.byVersion[generation][resp.Header.Get("X-Demo-Version")]++
}

// seen gives a copy of the counts, and when each generation was first seen.
func (t *traffic) seen() (counts, map[string]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	c.byVersion = make(map[string]map[string]int, len(t.counts.byVersion))
	for g, versions := range t.counts.byVersion {
		c.byVersion[g] = maps.Clone(versions)
	}
	return c, maps.Clone(t.first)
}
