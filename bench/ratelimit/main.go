// Command ratelimit measures what a rate limit decision costs: Weir's service beside a gRPC service that always says
// OK, which is the floor of gRPC-Go's transport, and envoyproxy/ratelimit, each in a process of its own, asked the same
// questions by the same client.
package main

import (
	"context"
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
	"google.golang.org/grpc/credentials/insecure"
)

const (
	services = 50
	keys     = 100_000
	batch    = 16 // descriptors of a question, where it is batched
)

func main() {
	var (
		role     = flag.String("role", "", "internal: the server to be")
		planes   = flag.String("planes", "floor,weir", "servers")
		inFlight = flag.String("in-flight", "1,16,64,256", "questions at once, over one connection")
		batched  = flag.Bool("batched", false, "ask by "+strconv.Itoa(batch)+" descriptors")
		during   = flag.Duration("for", 3*time.Second, "how long each is measured")
	)
	flag.Parse()
	if *role != "" {
		if err := serve(*role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(strings.Split(*planes, ","), strings.Split(*inFlight, ","), *batched, *during); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(planes, inFlight []string, batched bool, during time.Duration) error {
	fmt.Printf("%d services, %d Zipf keys, %s\n\n", services, keys, time.Now().UTC().Format(time.DateOnly))
	fmt.Printf("%-8s %9s %11s %9s %9s %9s %14s %14s %10s\n",
		"server", "in flight", "decisions/s", "p50", "p99", "p99.9", "server cpu s/M", "client cpu s/M", "resident")
	for _, plane := range planes {
		s, err := start(plane)
		if err != nil {
			return err
		}
		for _, n := range inFlight {
			concurrency, err := strconv.Atoi(n)
			if err != nil {
				return err
			}
			r, err := ask(s, concurrency, batched, during)
			if err != nil {
				return fmt.Errorf("%s: %w", plane, err)
			}
			fmt.Printf("%-8s %9d %11.0f %9s %9s %9s %14.2f %14.2f %7.0f MB\n", plane, concurrency, r.rate,
				r.quantile(0.5), r.quantile(0.99), r.quantile(0.999), r.server, r.client, s.resident())
		}
		s.stop()
	}
	return nil
}

type result struct {
	rate           float64 // decisions a second
	server, client float64 // CPU seconds a million decisions
	latency        []time.Duration
}

func (r *result) quantile(q float64) time.Duration {
	return r.latency[int(q*float64(len(r.latency)-1))].Round(time.Microsecond)
}

func ask(s *server, concurrency int, batched bool, during time.Duration) (*result, error) {
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
		parts  = make([][]time.Duration, concurrency)
		each   = len(all[0].GetDescriptors())
	)
	phase := func(during time.Duration, keep bool) {
		var wg sync.WaitGroup
		end := time.Now().Add(during)
		for i := range concurrency {
			wg.Go(func() {
				for time.Now().Before(end) && failed.Load() == nil {
					q := all[next.Add(1)%int64(len(all))]
					start := time.Now()
					answer, err := client.ShouldRateLimit(context.Background(), q)
					if err == nil && len(answer.GetStatuses()) != each {
						err = fmt.Errorf("%d statuses for %d descriptors", len(answer.GetStatuses()), each)
					}
					if err != nil {
						failed.Store(&err)
						return
					}
					if keep {
						parts[i] = append(parts[i], time.Since(start))
					}
				}
			})
		}
		wg.Wait()
	}
	phase(time.Second, false) // warms up
	server, own, begun := s.cpu(), ownCPU(), time.Now()
	phase(during, true)
	took := time.Since(begun)
	r := &result{latency: slices.Concat(parts...)}
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	slices.Sort(r.latency)
	decisions := float64(len(r.latency) * each)
	r.rate = decisions / took.Seconds()
	r.server = (s.cpu() - server).Seconds() / decisions * 1e6
	r.client = (ownCPU() - own).Seconds() / decisions * 1e6
	return r, nil
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
			q.Descriptors = append(q.Descriptors, &commonratelimitv3.RateLimitDescriptor{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{
				{Key: serviceKey, Value: service(int(key % services))},
				{Key: "x-user", Value: "user-" + strconv.FormatUint(key, 10)},
			}})
		}
		all[i] = q
	}
	return all
}
