package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/servers"
)

// replica is a weir with examples/redis, as the example says to run it.
type replica struct {
	*world
	ratelimitsvcv3.RateLimitServiceClient
}

// newReplica starts weir serve, or weir ratelimit, with more flags.
func newReplica(t *testing.T, command string, redis *servers.Redis, more ...string) replica {
	t.Helper()
	ports := freePorts(t, 3)
	w := &world{t: t, http: "http://" + ports[1], client: &http.Client{Timeout: 10 * time.Second}}
	t.Cleanup(w.client.CloseIdleConnections)
	w.args = append([]string{command, "--policy", "../examples/redis", "--redis", "redis://" + redis.Address, "--http-address", ports[1]}, more...)
	if command == "serve" {
		w.args = append(w.args, "--ratelimit-address", ports[0], "--xds-address", ports[2])
	} else {
		w.args = append(w.args, "--address", ports[0])
	}
	w.startWeir()
	return replica{w, limitClient(t, ports[0])}
}

// ask asks about one hit of a key of one of the example's limits.
func (r replica) ask(ctx context.Context, limit, key, value string) (ratelimitsvcv3.RateLimitResponse_Code, error) {
	a, err := r.ShouldRateLimit(ctx, &ratelimitsvcv3.RateLimitRequest{Domain: "weir", Descriptors: []*commonratelimitv3.RateLimitDescriptor{{
		Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: "limit", Value: "limit/shop/" + limit + "/0"}, {Key: key, Value: value}},
	}}})
	return a.GetOverallCode(), err
}

// metric gives a sample of the replica's metrics.
func (r replica) metric(name string) float64 {
	r.t.Helper()
	resp, err := r.client.Get(r.http + "/metrics")
	must(r.t, err)
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	must(r.t, err)
	var n float64
	_, line, _ := strings.Cut("\n"+string(text), "\n"+name+" ")
	if _, err := fmt.Sscan(line, &n); err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestExampleRedis: a weir serve and a weir ratelimit count together.
func TestExampleRedis(t *testing.T) {
	redis := servers.RunRedis(t)
	replicas := []replica{newReplica(t, "serve", redis, "--redis-timeout", "5s"), newReplica(t, "ratelimit", redis, "--redis-timeout", "5s")}
	replicas[0].eventually("both know of each other", func() error {
		for _, r := range replicas {
			if n := r.metric("weir_ratelimit_redis_replicas"); n != 2 {
				return fmt.Errorf("%v replicas", n)
			}
		}
		return nil
	})
	passed := 0
	for i := range 30 {
		code, err := replicas[i%2].ask(t.Context(), "attempts", "x-user", "acme")
		must(t, err)
		if code == limitOK {
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d of 30 attempts passed, with a limit of 10", passed)
	}
}

// TestAnswersOfAFrozenRedis: whatever time a client gives, a question that Redis does not answer is answered as onError says,
// and costs no goroutine while it waits.
func TestAnswersOfAFrozenRedis(t *testing.T) {
	const asking, limit = 600, 10 * time.Second
	redis := servers.RunRedis(t)
	r := newReplica(t, "ratelimit", redis, "--redis-timeout", limit.String())
	if code, err := r.ask(t.Context(), "attempts", "x-user", "first"); err != nil || code != limitOK {
		t.Fatalf("before, it is answered %v %v", code, err)
	}
	before := r.metric("go_goroutines")
	redis.Freeze()
	var waiting atomic.Int64
	var tasks sync.WaitGroup
	all := func(ctx context.Context, want func(strict bool, code ratelimitsvcv3.RateLimitResponse_Code, err error) bool) {
		for i := range asking {
			waiting.Add(1)
			tasks.Go(func() {
				defer waiting.Add(-1)
				limit, key := "tenants", "x-tenant"
				if i%2 == 0 {
					limit, key = "attempts", "x-user"
				}
				if code, err := r.ask(ctx, limit, key, fmt.Sprint("of-", i)); !want(i%2 == 0, code, err) {
					t.Errorf("%s: answered %v %v", limit, code, err)
				}
			})
		}
	}
	onError := func(strict bool, code ratelimitsvcv3.RateLimitResponse_Code, err error) bool {
		if strict {
			return err != nil && grpcstatus.Code(err) != codes.DeadlineExceeded
		}
		return err == nil && code == limitOK
	}

	all(t.Context(), onError) // these wait as long as Weir lets them
	most, during := int64(0), 0.0
	for waiting.Load() > 0 {
		if n := waiting.Load(); n >= most {
			most, during = n, max(during, r.metric("go_goroutines"))
		}
		time.Sleep(10 * time.Millisecond)
	}
	tasks.Wait()
	t.Logf("with %d questions under way there are %.0f goroutines, before %.0f", most, during, before)
	if during > before+asking/6 {
		t.Errorf("there are %.0f goroutines, before %.0f: questions take some", during, before)
	}

	// A client that gives less time goes without an answer, and leaves nothing behind.
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	all(short, func(strict bool, code ratelimitsvcv3.RateLimitResponse_Code, err error) bool {
		return grpcstatus.Code(err) == codes.DeadlineExceeded || onError(strict, code, err)
	})
	tasks.Wait()
	redis.Thaw()
	r.eventually("redis is asked again", func() error {
		code, err := r.ask(t.Context(), "attempts", "x-user", "last")
		if err == nil && code != limitOK {
			err = fmt.Errorf("answered %v", code)
		}
		if n := r.metric("go_goroutines"); err == nil && n > before+asking/6 {
			err = fmt.Errorf("there are %v goroutines", n)
		}
		return err
	})
}
