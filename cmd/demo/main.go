// Demo runs the whole of Weir on one machine: sample services, an Envoy that Weir configures, the collector and an S3
// server, with traffic through all of it and one live table.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "service" {
		err = runService(ctx, os.Args[2:])
	} else {
		err = runDemo(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func runService(ctx context.Context, args []string) error {
	var s sample
	f := flag.NewFlagSet("demo service", flag.ExitOnError)
	f.StringVar(&s.name, "name", "", "the service")
	f.StringVar(&s.version, "version", "", "its version")
	f.StringVar(&s.address, "address", "", "where it listens")
	f.StringVar(&s.collector, "collector", "", "where its spans go (OTLP gRPC)")
	f.StringVar(&s.gateway, "gateway", "", "the Envoy through which it calls others")
	calls := f.String("calls", "", "the services that it calls, with commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *calls != "" {
		s.calls = strings.Split(*calls, ",")
	}
	return s.run(ctx)
}

var errMissing = errors.New("not everything that was promised was seen")

func runDemo(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("demo", flag.ExitOnError)
	seconds := f.Int("seconds", 0, "end after so many seconds, with a summary (0: run until Ctrl-C)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *seconds != 0 && *seconds < 20 {
		return errors.New("--seconds: want at least 20, so that every effect has its time")
	}
	dir, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return err
	}
	w := &world{dir: dir}
	defer w.stop()
	fmt.Println("starting everything…")
	if err := w.start(ctx); err != nil {
		return fmt.Errorf("%w\nlogs are in %s", err, dir)
	}
	printGuide(os.Stdout, w)
	o := w.show(ctx, *seconds)
	fmt.Println()
	if !printEffects(os.Stdout, judge(o)) && *seconds > 0 {
		return fmt.Errorf("%w; logs are in %s", errMissing, dir)
	}
	w.stop()
	return os.RemoveAll(dir)
}

// The demo edits its policy once, after so long, or a third of its time.
const editAfter = 15 * time.Second

// show drives the traffic and keeps the table up to date until ctx is done or the time is up, and gives what was seen
// in the end.
func (w *world) show(ctx context.Context, seconds int) observations {
	started := time.Now()
	traffic := newTraffic(w.gateway())
	w.warm(ctx, traffic)
	driving, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { traffic.run(driving) })
	edits := time.After(editAfter)
	if seconds > 0 {
		edits = time.After(time.Duration(seconds) * time.Second / 3)
	}
	end := make(<-chan time.Time)
	if seconds > 0 {
		end = time.After(time.Duration(seconds) * time.Second)
	}
	redraw := newScreen()
	tick := time.NewTicker(redraw.every)
	defer tick.Stop()
	var saved time.Time
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-end:
			running = false
		case <-edits:
			saved = w.editPolicy()
		case <-tick.C:
			redraw.draw(w.observe(ctx, started, saved, traffic), w.lastChange(ctx))
		}
	}
	stop()
	group.Wait()
	// What is still on its way arrives: SDKs send every second, and the archive is flushed every other.
	settle := context.WithoutCancel(ctx)
	o := w.observe(settle, started, saved, traffic)
	for deadline := time.Now().Add(15 * time.Second); seconds > 0 && time.Now().Before(deadline) && (o.archive.objects == 0 || o.classes["main"].in == 0); {
		<-tick.C
		o = w.observe(settle, started, saved, traffic)
	}
	return o
}

// warm waits until the gateway has its routes, which is not the traffic's business.
func (w *world) warm(ctx context.Context, t *traffic) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.gateway+"/", http.NoBody)
		if err != nil {
			return
		}
		req.Host = "health.demo"
		if resp, err := t.client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// editPolicy does what a user would: new weights, saved.
func (w *world) editPolicy() time.Time {
	file := filepath.Join(w.policy, "api.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: edit the policy:", err)
		return time.Time{}
	}
	edited := strings.NewReplacer("weight: 90", "weight: 50", "weight: 10", "weight: 50", `x-demo-generation: "1"`, `x-demo-generation: "2"`).Replace(string(text))
	saved := time.Now()
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "demo: edit the policy:", err)
	}
	return saved
}

func (w *world) observe(ctx context.Context, started, saved time.Time, t *traffic) observations {
	o := observations{elapsed: time.Since(started), edit: edit{saved: saved}, archive: w.bucket(ctx)}
	var generation string
	var changed time.Time
	o.counts, generation, changed = t.seen()
	if !saved.IsZero() && generation == "2" {
		o.edit.took = changed.Sub(saved)
	}
	classes, err := w.sampling(ctx)
	if err == nil { // a collector that was killed has no metrics for a while
		o.classes = classes
	}
	return o
}

// screen draws over itself on a terminal, and writes line by line elsewhere.
type screen struct {
	terminal bool
	every    time.Duration
	lines    int
}

func newScreen() *screen {
	info, err := os.Stdout.Stat()
	if err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return &screen{terminal: true, every: time.Second}
	}
	return &screen{every: 10 * time.Second}
}

func (s *screen) draw(o observations, change string) {
	var text bytes.Buffer
	printTable(&text, o, change)
	if s.terminal && s.lines > 0 {
		fmt.Printf("\x1b[%dA\x1b[J", s.lines)
	}
	s.lines = bytes.Count(text.Bytes(), []byte("\n"))
	fmt.Print(text.String())
	if !s.terminal {
		fmt.Println()
	}
}

// weirStatus is what the demo reads of weir's status.
type weirStatus struct {
	Policy struct {
		Applied  time.Time
		Took     string
		Problems []struct{ Message string }
	}
}

func getStatus(ctx context.Context, url string) (s weirStatus, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}
