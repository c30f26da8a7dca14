package collector_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestMillionSpans sends a million spans of five classes through the real collector into a real S3 server.
func TestMillionSpans(t *testing.T) {
	const spans = 1_000_000
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	c := newCollector(t, s3, writePolicy(t, s3, nil))
	c.start(t)

	sendAll(t, c, 2*spans/blockSpans)
	kept := c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="kept"`)
	if in := kept + c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="dropped"`); in != spans {
		t.Errorf("the sampler counted %d spans of %d", in, spans)
	}
	eventually(t, 60*time.Second, "everything kept is sent", func() bool {
		return c.metric(t, "otelcol_exporter_sent_spans(?:_total)?") == kept
	})
	counts := archived.spanCounts(t, spans)
	checkOnce(t, counts, kept)
	checkShares(t, counts)
}

func sendAll(t *testing.T, c *collector, requests int) {
	t.Helper()
	client := c.client(t)
	var senders errgroup.Group
	senders.SetLimit(4)
	for n := range requests {
		senders.Go(func() error { return send(t.Context(), client, n) })
	}
	if err := senders.Wait(); err != nil {
		t.Fatal(err)
	}
}

// checkOnce: the archive holds what was kept, and nothing twice.
func checkOnce(t *testing.T, counts []uint8, kept int) {
	t.Helper()
	total := 0
	for span, n := range counts {
		if total += int(n); n > 1 {
			t.Fatalf("span %d is archived %d times", span, n)
		}
	}
	if total != kept {
		t.Errorf("%d spans are archived, %d were kept", total, kept)
	}
}

// checkShares: traces are kept whole within a class, decisions nest across classes, and the shares are the policy's.
func checkShares(t *testing.T, counts []uint8) {
	t.Helper()
	type tally struct{ spans, kept int }
	traces := map[int]*[5]tally{}
	for span, n := range counts {
		trace, class := place(span)
		if traces[trace] == nil {
			traces[trace] = new([5]tally)
		}
		one := &traces[trace][class]
		one.spans++
		one.kept += int(n)
	}
	order := []int{3, 2, 0, 1, 4} // of classes, by rate: health, background, main, api, executions
	var total, kept [5]int
	for trace, tallies := range traces {
		below := false
		for _, class := range order {
			one := tallies[class]
			if one.spans == 0 {
				continue
			}
			if one.kept != 0 && one.kept != one.spans {
				t.Fatalf("trace %d is split: %d of %d spans of class %s", trace, one.kept, one.spans, classes[class])
			}
			if below && one.kept == 0 {
				t.Fatalf("trace %d is kept at a lower rate and not at that of %s", trace, classes[class])
			}
			total[class]++
			if one.kept > 0 {
				below = true
				kept[class]++
			}
		}
	}
	for i, class := range classes {
		share, n := percents[class]/100, float64(total[i])
		off := (float64(kept[i])/n - share) / math.Sqrt(share*(1-share)/n)
		t.Logf("%-10s %6d of %d traces kept: %.3f %%, %+.2f standard errors", class, kept[i], total[i], 100*float64(kept[i])/n, off)
		if math.Abs(off) > 4 {
			t.Errorf("class %s is %.1f standard errors off", class, off)
		}
	}
}

// TestKilledCollector: what the collector has acknowledged arrives, though it is killed again and again.
func TestKilledCollector(t *testing.T) {
	const lives, requestsALife = 3, 16
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	everything := map[string]float64{"main": 100, "api": 100, "background": 100, "health": 100, "executions": 100}
	c := newCollector(t, s3, writePolicy(t, s3, everything))

	var acknowledged []int // requests
	for life := range lives {
		c.start(t)
		acknowledged = append(acknowledged, sendUntilKilled(t, c, life*requestsALife, requestsALife)...)
	}
	const spans = lives * requestsALife * blockSpans / 2
	if missing(acknowledged, archived.spanCounts(t, spans)) == 0 {
		t.Fatal("nothing was waiting when the collector was killed: this proves nothing")
	}
	c.start(t)
	eventually(t, 60*time.Second, "what was acknowledged is archived", func() bool {
		return missing(acknowledged, archived.spanCounts(t, spans)) == 0
	})
	t.Logf("%d of %d requests were acknowledged by a collector killed %d times; all of them arrived", len(acknowledged), lives*requestsALife, lives)
}

// sendUntilKilled sends requests from the first on, kills the collector when half are acknowledged, and gives those
// that were.
func sendUntilKilled(t *testing.T, c *collector, first, requests int) []int {
	t.Helper()
	client := c.client(t)
	var (
		mu           sync.Mutex
		acknowledged []int
		killed       atomic.Bool
		senders      errgroup.Group
	)
	senders.SetLimit(3)
	for n := first; n < first+requests; n++ {
		senders.Go(func() error {
			if killed.Load() || send(t.Context(), client, n) != nil {
				return nil // it was killed in between: not acknowledged, nothing is promised
			}
			mu.Lock()
			defer mu.Unlock()
			if acknowledged = append(acknowledged, n); len(acknowledged) == requests/2 {
				killed.Store(true)
				_ = c.process.Process.Kill()
			}
			return nil
		})
	}
	_ = senders.Wait() // it gives no errors
	c.kill(t)
	if len(acknowledged) < requests/2 {
		t.Fatalf("only %d requests were acknowledged", len(acknowledged))
	}
	return acknowledged
}

// missing counts the spans of these requests that are not in the archive.
func missing(requests []int, counts []uint8) int {
	n := 0
	for _, r := range requests {
		for span := r/2*blockSpans + r%2; span < (r/2+1)*blockSpans; span += 2 {
			if counts[span] == 0 {
				n++
			}
		}
	}
	return n
}

// TestBucketIsAway: while there is no bucket the queue holds what was acknowledged, across a crash too, and what was
// held arrives once there is one.
func TestBucketIsAway(t *testing.T) {
	const requests = 8
	s3 := servers.Minio(t)
	everything := map[string]float64{"main": 100, "api": 100, "background": 100, "health": 100, "executions": 100}
	c := newCollector(t, s3, writePolicy(t, s3, everything))
	c.start(t)
	sendAll(t, c, requests)
	eventually(t, 20*time.Second, "an attempt has failed", func() bool {
		log, err := os.ReadFile(c.output.Name())
		return err == nil && containsAll(string(log), []string{"Exporting failed. Will retry", "NoSuchBucket"})
	})
	c.kill(t)
	archived := newBucket(t, s3)
	c.start(t)
	all := make([]int, requests)
	for i := range all {
		all[i] = i
	}
	eventually(t, 30*time.Second, "everything is archived", func() bool {
		return missing(all, archived.spanCounts(t, requests*blockSpans/2)) == 0
	})
}

// TestRatesChangeWithoutRestart: new documents hold for what comes after them, and bad ones change nothing.
func TestRatesChangeWithoutRestart(t *testing.T) {
	s3 := servers.Minio(t)
	newBucket(t, s3)
	policy := writePolicy(t, s3, map[string]float64{"main": 0, "api": 0, "background": 0, "health": 0, "executions": 0})
	c := newCollector(t, s3, policy)
	c.start(t)
	client := c.client(t)
	kept := func() int {
		return c.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="kept"`, `class="main"`)
	}
	next := 0
	sendOne := func() int {
		before := kept()
		if err := send(t.Context(), client, next); err != nil {
			t.Fatal(err)
		}
		next++
		return kept() - before
	}
	if n := sendOne(); n != 0 {
		t.Fatalf("%d spans are kept at 0 %%", n)
	}
	rate := func(main string) {
		text := fmt.Sprintf("kind: Sampling\nmetadata: {name: default}\nspec: {classes: {main: %s}}\n", main)
		doc, err := os.ReadFile(filepath.Join(writePolicy(t, s3, nil), "policy.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(policy, "policy.yaml"), append(append(doc, "---\n"...), text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rate("100")
	eventually(t, 20*time.Second, "the new rate holds", func() bool { return sendOne() == 1000 })
	rate("plenty")
	eventually(t, 20*time.Second, "the mistake is logged", func() bool {
		log, err := os.ReadFile(c.output.Name())
		return err == nil && containsAll(string(log), []string{"policy document refused", "plenty"})
	})
	if n := sendOne(); n != 1000 {
		t.Errorf("%d of 1000 spans are kept after a document was refused", n)
	}
}
