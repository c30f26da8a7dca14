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
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/policy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
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

var (
	errMissing     = errors.New("not everything that was promised was seen")
	errInterrupted = errors.New("interrupted before its time, so that nothing was judged")
)

func runDemo(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("demo", flag.ExitOnError)
	seconds := f.Int("seconds", 0, "end after so many seconds, with a summary (0: run until Ctrl-C)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *seconds != 0 && *seconds < 20 {
		return errors.New("--seconds: want at least 20, so that every effect has its time")
	}
	root, err := servers.Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return err
	}
	w := &world{dir: dir, root: root, bin: filepath.Join(root, "bin")}
	if err := w.demonstrate(ctx, os.Stdout, time.Duration(*seconds)*time.Second); err != nil {
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	return os.RemoveAll(dir)
}

// demonstrate starts everything, shows it until ctx is done or the time is up, and ends everything. With a time (0 is
// none), what was promised and not seen is an error.
func (w *world) demonstrate(ctx context.Context, out io.Writer, limit time.Duration) error {
	defer w.stop()
	fmt.Fprintln(out, "starting everything…")
	if err := w.start(ctx); err != nil {
		return err
	}
	printGuide(out, w)
	o := w.show(ctx, newScreen(out), limit)
	switch {
	case limit == 0:
		return nil // the user has played with it: there is nothing to judge
	case ctx.Err() != nil:
		return errInterrupted
	}
	fmt.Fprintln(out)
	if !printEffects(out, judge(o)) {
		return errMissing
	}
	return nil
}

// The demo edits its policy once, after so long, or a third of its time.
const editAfter = 15 * time.Second

// show drives the traffic and keeps the table up to date until ctx is done or the time is up, and gives what was seen
// in the end.
func (w *world) show(ctx context.Context, s *screen, limit time.Duration) observations {
	watch := &watch{world: w, traffic: newTraffic(w.gateway()), started: time.Now()}
	w.warm(ctx, watch.traffic)
	driving, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { watch.traffic.run(driving) })
	edits, end := time.After(editAfter), make(<-chan time.Time)
	if limit > 0 {
		edits, end = time.After(limit/3), time.After(limit)
	}
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-end:
			running = false
		case <-edits:
			watch.saved = w.editPolicy()
		case <-tick.C:
			o := watch.observe(ctx)
			s.draw(o, w.lastChange(ctx))
		}
	}
	stop()
	group.Wait()
	return watch.settle(ctx)
}

// settle waits for what is still on its way: SDKs send every second, and the archive is flushed every other.
func (w *watch) settle(ctx context.Context) observations {
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		w.listed = time.Time{}
		o := w.observe(ctx)
		if o.archive.objects > 0 && o.classes["main"].in > 0 {
			return o
		}
		select {
		case <-ctx.Done():
			return o
		case <-deadline:
			return o
		case <-tick.C:
		}
	}
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
			if drain(resp) == nil && resp.StatusCode == http.StatusOK {
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

// watch follows what the demo does.
type watch struct {
	world          *world
	traffic        *traffic
	started, saved time.Time
	classes        map[string]spans // as the collector told last
	archive        archived
	listed         time.Time // when archive was
}

// The bucket is listed so often: it grows, and a table that is drawn every second needs no newer one.
const listEvery = 5 * time.Second

func (w *watch) observe(ctx context.Context) observations {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // a part that hangs does not hold up the table
	defer cancel()
	if time.Since(w.listed) > listEvery {
		w.archive, w.listed = w.world.bucket(ctx), time.Now()
	}
	// A collector that was killed has no metrics: what it told last stays.
	if classes, err := w.world.sampling(ctx); err == nil {
		w.classes = classes
	}
	o := observations{
		elapsed: time.Since(w.started), edit: edit{saved: w.saved},
		classes: w.classes, archive: w.archive, ended: w.world.ended(),
	}
	var first map[string]time.Time
	o.counts, first = w.traffic.seen()
	if seen, ok := first["2"]; ok && !w.saved.IsZero() {
		o.edit.took = seen.Sub(w.saved)
	}
	return o
}

// screen draws over itself on a terminal, and writes one table after the other elsewhere.
type screen struct {
	out      io.Writer
	terminal bool
	every    time.Duration
	lines    int
}

func newScreen(out io.Writer) *screen {
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &screen{out: out, terminal: true, every: time.Second}
		}
	}
	return &screen{out: out, every: 10 * time.Second}
}

// What a terminal is told: go up and clear what is below; cut long lines, which would be two to go up; and no more.
const (
	redraw   = "\x1b[%dA\x1b[J"
	cutLines = "\x1b[?7l"
	endCut   = "\x1b[?7h"
)

func (s *screen) draw(o observations, change string) {
	var text bytes.Buffer
	printTable(&text, o, change)
	if !s.terminal {
		fmt.Fprintln(s.out, text.String())
		return
	}
	if s.lines > 0 {
		fmt.Fprintf(s.out, redraw, s.lines)
	}
	s.lines = bytes.Count(text.Bytes(), []byte("\n"))
	fmt.Fprint(s.out, cutLines, text.String(), endCut)
}

// weirStatus is what the demo reads of weir's status.
type weirStatus struct {
	Policy struct {
		Applied  time.Time
		Took     string
		Problems []policy.Problem
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
