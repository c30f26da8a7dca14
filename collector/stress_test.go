package collector_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestStress sends many times as many spans as may be held until traces are judged, as fast as they are taken: memory stays
// under its limit, what is judged before its time is counted as shed, and is judged as it would have been; who is told to
// try again does so. A moment later nothing is held. With WEIR_STRESS it does so for longer.
func TestStress(t *testing.T) {
	const held, wait, limit = 20_000, 5 * time.Second, 256 // MiB
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv("WEIR_STRESS"), "0s"))
	if err != nil {
		t.Fatal("WEIR_STRESS:", err)
	}
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	c := newCollector(t, s3, writeWhole(t, s3, 30, fmt.Sprintf("  keep: {errors: true}\n  wait: %s\n", wait)))
	small := filepath.Join(t.TempDir(), "small.yaml")
	text := fmt.Sprintf("processors:\n  memory_limiter: {check_interval: 100ms, limit_mib: %d, spike_limit_mib: 64, limit_percentage: 0, spike_limit_percentage: 0}\n  adaptive_sampling: {whole: {max_spans: %d}}\n", limit, held)
	if err := os.WriteFile(small, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.configs = append(c.configs, small)
	c.start(t)

	began := time.Now()
	requests, refused := sendStubbornly(t, c, 60, lasts)
	took := time.Since(began)
	spans := requests * blockSpans / 2
	if n := c.metric(t, "otelcol_weir_sampling_held_spans"); n > held {
		t.Errorf("%d spans are held, and %d may be", n, held)
	}
	if c.metric(t, "otelcol_weir_sampling_traces(?:_total)?", `shed="true"`) == 0 {
		t.Error("nothing was shed: this proves nothing")
	}
	eventually(t, 60*time.Second, "nothing is held any more", func() bool { return c.metric(t, "otelcol_weir_sampling_held_spans") == 0 })
	recovered := time.Since(began) - took
	eventually(t, 120*time.Second, "what is kept is archived", func() bool {
		return c.metric(t, "otelcol_exporter_sent_spans(?:_total)?") == c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="kept"`)
	})
	if wrong := judgedOtherwise(archived.spanCounts(t, spans), 30); wrong != "" {
		t.Error(wrong)
	}
	peak := c.peak(t)
	t.Logf("%.0f spans a second, %.1f times what may be held for %s; %d requests were told to try again; %d traces were shed; at most %d MiB; nothing held %.1f s later",
		float64(spans)/took.Seconds(), float64(spans)/took.Seconds()/(held/wait.Seconds()), wait, refused,
		c.metric(t, "otelcol_weir_sampling_traces(?:_total)?", `shed="true"`), peak, recovered.Seconds())
	if peak > limit {
		t.Errorf("the collector took %d MiB, and its limit is %d", peak, limit)
	}
}

// sendStubbornly sends so many requests at least and for so long, each until it is taken. It gives how many it were, and how
// often one was to be sent again.
func sendStubbornly(t *testing.T, c *collector, least int, lasts time.Duration) (requests int, refused int64) {
	t.Helper()
	client := c.client(t)
	var again atomic.Int64
	var senders errgroup.Group
	senders.SetLimit(4)
	for end := time.Now().Add(lasts); requests < least || requests%2 != 0 || time.Now().Before(end); requests++ {
		n := requests
		senders.Go(func() error {
			for {
				err := send(t.Context(), client, n)
				if code := status.Code(err); code != codes.Unavailable && code != codes.ResourceExhausted {
					return err
				}
				again.Add(1)
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	if err := senders.Wait(); err != nil {
		t.Fatal(err)
	}
	return requests, again.Load()
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak is the most memory that the collector has had, in MiB.
func (c *collector) peak(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	kb, err := strconv.Atoi(string(highWater.FindSubmatch(text)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kb / 1024
}
