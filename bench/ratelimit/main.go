// Command ratelimit measures what a rate limit decision costs: Weir's service beside a gRPC service that always says
// OK, which is the floor of gRPC-Go's transport, and envoyproxy/ratelimit with a Redis, each in a process of its own, with
// the same limits, asked the same questions by the same client.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	services = 50
	keys     = 100_000
	requests = 100 // a second, of each key
	batch    = 16  // descriptors of a question, where it is batched
)

func main() {
	var (
		role     = flag.String("role", "", "internal: the server to be")
		redis    = flag.String("redis", "", "internal: where it counts")
		planes   = flag.String("planes", "floor,weir", "servers: floor, weir, weir-grpc, weir-redis, weir-lease, peer, peer-cache")
		inFlight = flag.String("in-flight", "1,16,64,256", "questions at once, over one connection")
		batched  = flag.Bool("batched", false, "ask by "+strconv.Itoa(batch)+" descriptors")
		joined   = flag.Bool("together", false, "write all questions in flight at once, the next when all are answered")
		rate     = flag.Float64("rate", 0, "ask so many questions a second at most; their latency is from when they were due")
		during   = flag.Duration("for", 3*time.Second, "how long each is measured; of a scenario, how long what happens lasts")
		scenario = flag.String("scenario", "", "instead: faults, what becomes of Redis under a steady load (planes: program, error, peer), or flood, keys that come once (planes: memory, small, volatile-ttl, noeviction)")
	)
	flag.Parse()
	if *role != "" {
		if err := serve(*role, *redis); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var err error
	switch all := strings.Split(*planes, ","); *scenario {
	case "":
		err = run(all, strings.Split(*inFlight, ","), *batched, *joined, *rate, *during)
	case "faults", "flood":
		err = play(*scenario, all, *rate, *during)
	default:
		err = fmt.Errorf("-scenario %s: want faults or flood", *scenario)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// play is for a scenario, in which Weir is the program that users have.
func play(scenario string, planes []string, rate float64, during time.Duration) error {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := buildProgram(dir)
	if err != nil {
		return err
	}
	if scenario == "flood" {
		return flood(program, planes, cmp.Or(rate, 1e6/60), during)
	}
	return faults(program, planes, cmp.Or(rate, 1000), during)
}

func run(planes, inFlight []string, batched, joined bool, rate float64, during time.Duration) error {
	client := func(s *server, concurrency int, batched bool, during time.Duration) (*result, error) {
		return ask(s, concurrency, batched, rate, during)
	}
	switch {
	case joined && rate > 0:
		return errors.New("-together asks as fast as it is answered: leave -rate out")
	case joined:
		client = askTogether
	}
	fmt.Printf("%d services, %d Zipf keys, %s\n\n", services, keys, time.Now().UTC().Format(time.DateOnly))
	fmt.Printf("%-11s %9s %11s %9s %9s %9s %14s %13s %14s %15s\n",
		"server", "in flight", "decisions/s", "p50", "p99", "p99.9", "server cpu s/M", "redis cpu s/M", "client cpu s/M", "resident, redis")
	for _, plane := range planes {
		s, err := start(plane)
		if err != nil {
			return err
		}
		if err := s.check(plane != "floor"); err != nil {
			s.stop()
			return fmt.Errorf("%s: %w", plane, err)
		}
		for _, n := range inFlight {
			concurrency, err := strconv.Atoi(n)
			if err != nil {
				return err
			}
			r, err := client(s, concurrency, batched, during)
			if err != nil {
				return fmt.Errorf("%s: %w", plane, err)
			}
			fmt.Printf("%-11s %9d %11.0f %9s %9s %9s %14.2f %13.2f %14.2f %7.0f %4.0f MB\n", plane, concurrency, r.rate,
				r.quantile(0.5), r.quantile(0.99), r.quantile(0.999), r.server, r.redis, r.client, resident(s.pid), resident(s.redis))
		}
		s.stop()
	}
	return nil
}

type result struct {
	rate                  float64 // decisions a second
	server, redis, client float64 // CPU seconds a million decisions
	latency               []time.Duration
}

func (r *result) quantile(q float64) time.Duration {
	return r.latency[int(q*float64(len(r.latency)-1))].Round(time.Microsecond)
}

// ask asks one question after another, concurrency at once. With a rate, questions are due at regular times whether or not
// those before them are answered, so that what waits for a slow answer counts as waiting.
func ask(s *server, concurrency int, batched bool, rate float64, during time.Duration) (*result, error) {
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := ratelimitsvcv3.NewRateLimitServiceClient(conn)
	var (
		all    = questions(batched)
		next   atomic.Int64
		failed atomic.Pointer[error]
		each   = len(all[0].GetDescriptors())
	)
	phase := func(during time.Duration) ([]time.Duration, error) {
		var wg sync.WaitGroup
		parts := make([][]time.Duration, concurrency)
		begin, first := time.Now(), next.Load()
		end := begin.Add(during)
		for i := range concurrency {
			wg.Go(func() {
				for failed.Load() == nil {
					n := next.Add(1)
					q, start := all[n%int64(len(all))], time.Now()
					if rate > 0 {
						start = begin.Add(time.Duration(float64(n-first) / rate * float64(time.Second)))
						time.Sleep(time.Until(start))
					}
					if start.After(end) {
						return
					}
					answer, err := client.ShouldRateLimit(context.Background(), q)
					if err == nil && len(answer.GetStatuses()) != each {
						err = fmt.Errorf("%d statuses for %d descriptors", len(answer.GetStatuses()), each)
					}
					if err != nil {
						failed.Store(&err)
						return
					}
					parts[i] = append(parts[i], time.Since(start))
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return nil, *err
		}
		return slices.Concat(parts...), nil
	}
	return measure(s, each, phase, during)
}

// measure has a client ask for a while, which gives the latency of each question, and tells what that cost.
func measure(s *server, each int, phase func(time.Duration) ([]time.Duration, error), during time.Duration) (*result, error) {
	if _, err := phase(time.Second); err != nil { // warms up
		return nil, err
	}
	server, redis, own, begun := cpu(s.pid), cpu(s.redis), ownCPU(), time.Now()
	latency, err := phase(during)
	if err != nil {
		return nil, err
	}
	took := time.Since(begun)
	r := &result{latency: latency}
	slices.Sort(r.latency)
	decisions := float64(len(r.latency) * each)
	r.rate = decisions / took.Seconds()
	r.server = (cpu(s.pid) - server).Seconds() / decisions * 1e6
	r.redis = (cpu(s.redis) - redis).Seconds() / decisions * 1e6
	r.client = (ownCPU() - own).Seconds() / decisions * 1e6
	return r, nil
}

// check asks a key until it is refused, so that what is compared does the same work: each answer tells of the limit, it
// is found for every service, and it refuses, but not too early.
func (s *server) check(limited bool) error {
	if !limited {
		return nil
	}
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := ratelimitsvcv3.NewRateLimitServiceClient(conn)
	var answer *ratelimitsvcv3.RateLimitResponse
	for try := range 50 { // a Redis that was just started is not in time for all
		all := &ratelimitsvcv3.RateLimitRequest{Domain: domain}
		for n := range services {
			all.Descriptors = append(all.Descriptors, descriptor(n, "check-"+strconv.Itoa(try)))
		}
		if answer, err = client.ShouldRateLimit(context.Background(), all); status.Code(err) != codes.Unavailable {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	for n, st := range answer.GetStatuses() {
		if limit := st.GetCurrentLimit(); limit.GetRequestsPerUnit() != requests || limit.GetUnit() != ratelimitsvcv3.RateLimitResponse_RateLimit_SECOND || st.GetLimitRemaining() != requests-1 {
			return fmt.Errorf("service %d has another limit: %v", n, st)
		}
	}
	burst := &ratelimitsvcv3.RateLimitRequest{Domain: domain, Descriptors: []*commonratelimitv3.RateLimitDescriptor{descriptor(0, "burst")}, HitsAddend: requests / 4}
	for n := range 1000 {
		answer, err := client.ShouldRateLimit(context.Background(), burst)
		switch {
		case err != nil:
			return err
		case answer.GetOverallCode() == ratelimitsvcv3.RateLimitResponse_OK:
			continue
		case n < 4:
			return fmt.Errorf("refused after %d of %d requests", n*requests/4, requests)
		}
		return nil
	}
	return errors.New("it refuses nothing")
}

func descriptor(n int, user string) *commonratelimitv3.RateLimitDescriptor {
	return &commonratelimitv3.RateLimitDescriptor{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{
		{Key: serviceKey, Value: service(n)}, {Key: "x-user", Value: user},
	}}
}

// questions are made before anything is measured: each asks for one key of one service, the same for every server.
func questions(batched bool) []*ratelimitsvcv3.RateLimitRequest {
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 1, keys-1)
	n := 1
	if batched {
		n = batch
	}
	all := make([]*ratelimitsvcv3.RateLimitRequest, 200_000/n)
	for i := range all {
		q := &ratelimitsvcv3.RateLimitRequest{Domain: domain}
		for range n {
			key := zipf.Uint64()
			q.Descriptors = append(q.Descriptors, descriptor(int(key%services), "user-"+strconv.FormatUint(key, 10)))
		}
		all[i] = q
	}
	return all
}
