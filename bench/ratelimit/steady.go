package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// kind is what a question comes to.
type kind int

const (
	passed  kind = iota
	refused      // over the limit
	undone       // an error: onError decides
	late         // no answer within patience
)

const patience = time.Second

// answer is what became of the question that was due then. How long it took is from when it was due.
type answer struct {
	due  time.Time
	took time.Duration
	kind kind
	n    int // of the question
}

// steady is a client that asks at a steady rate, whether or not what was asked before is answered.
type steady struct {
	conn *grpc.ClientConn
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	answers []answer
}

// askSteadily asks the questions one after another, and from the beginning again.
func askSteadily(address string, questions []*ratelimitsvcv3.RateLimitRequest, rate float64) (*steady, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	s := &steady{conn: conn, stop: make(chan struct{})}
	client, begin := ratelimitsvcv3.NewRateLimitServiceClient(conn), time.Now()
	s.done.Go(func() {
		for n := 0; ; n++ {
			due := begin.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			select {
			case <-s.stop:
				return
			case <-time.After(time.Until(due)):
			}
			s.done.Go(func() { s.ask(client, questions, n%len(questions), due) })
		}
	})
	return s, nil
}

func (s *steady) ask(client ratelimitsvcv3.RateLimitServiceClient, questions []*ratelimitsvcv3.RateLimitRequest, n int, due time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), due.Add(patience))
	defer cancel()
	said, err := client.ShouldRateLimit(ctx, questions[n])
	a := answer{due, time.Since(due), passed, n}
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		a.kind = late
	case err != nil:
		a.kind = undone
	case said.GetOverallCode() == ratelimitsvcv3.RateLimitResponse_OVER_LIMIT:
		a.kind = refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
}

// end gives all answers, by when they were due.
func (s *steady) end() []answer {
	close(s.stop)
	s.done.Wait()
	_ = s.conn.Close()
	slices.SortFunc(s.answers, func(a, b answer) int { return a.due.Compare(b.due) })
	return s.answers
}

// counted is answers by kind, and how long they took.
type counted struct {
	kinds [late + 1]int
	took  []time.Duration
}

func count(all []answer) (c counted) {
	for _, a := range all {
		c.kinds[a.kind]++
		c.took = append(c.took, a.took)
	}
	slices.Sort(c.took)
	return c
}

// String is the kinds that there are.
func (c *counted) String() string {
	return fmt.Sprintf("%d/%d/%d/%d", c.kinds[passed], c.kinds[refused], c.kinds[undone], c.kinds[late])
}

func (c *counted) quantile(q float64) time.Duration {
	if len(c.took) == 0 {
		return 0
	}
	return c.took[int(q*float64(len(c.took)-1))].Round(10 * time.Microsecond)
}
