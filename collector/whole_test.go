package collector_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
)

// writeWhole writes the documents of the test fleet with all classes at the same rate, and has traces judged whole.
func writeWhole(t *testing.T, s3 *servers.S3, percent float64, keep string) string {
	t.Helper()
	rates := map[string]float64{}
	for _, class := range classes {
		rates[class] = percent
	}
	folder := writePolicy(t, s3, rates) // it ends with the spec of the Sampling document
	file, err := os.OpenFile(filepath.Join(folder, "policy.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(keep); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return folder
}

// TestKilledWhileTracesAreHeld: what the collector has acknowledged and holds until it can judge whole traces arrives,
// though it is killed again and again.
func TestKilledWhileTracesAreHeld(t *testing.T) {
	const lives, requestsALife = 3, 16
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	c := newCollector(t, s3, writeWhole(t, s3, 100, "  keep: {errors: true}\n  wait: 5s\n"))

	var acknowledged []int // requests
	for life := range lives {
		c.start(t)
		acknowledged = append(acknowledged, sendUntilKilled(t, c, life*requestsALife, requestsALife)...)
	}
	const spans = lives * requestsALife * blockSpans / 2
	held := missing(acknowledged, archived.spanCounts(t, spans))
	if held == 0 {
		t.Fatal("nothing was held when the collector was killed: this proves nothing")
	}
	c.start(t)
	eventually(t, 60*time.Second, "what was acknowledged is archived", func() bool {
		return missing(acknowledged, archived.spanCounts(t, spans)) == 0
	})
	t.Logf("of %d spans that were acknowledged by a collector killed %d times, %d were held at last; all of them arrived", len(acknowledged)*blockSpans/2, lives, held)
}
