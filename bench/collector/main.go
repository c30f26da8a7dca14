// Command collector measures how many spans a second weir-collector takes over OTLP gRPC on one core: without a sampler,
// with contrib's probabilistic_sampler and tail_sampling, and with Weir's adaptive_sampling span by span and by whole
// traces, behind its receiver otlp_lazy and behind the collector's own. All are in one binary and measured one after another in
// one run. What sending costs is told, too: it must be less than what is measured.
//
//	make build && cd bench && go run ./collector
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

type options struct {
	binary    string
	pipelines string
	core      string
	warm      time.Duration
	measure   time.Duration
	spans     int
	senders   int
	percent   int
	profiles  string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "../bin/weir-collector", "the collector, as make build leaves it")
	flag.StringVar(&o.pipelines, "pipelines", "none,probabilistic,stateless,stateless-otlp,tail,whole,whole-otlp,whole-stored", "which to measure, in this order")
	flag.StringVar(&o.core, "core", "0", "the core that the collector may use; \"\" is all")
	flag.DurationVar(&o.warm, "warm", 7*time.Second, "before measuring; traces are held for 5s")
	flag.DurationVar(&o.measure, "for", 10*time.Second, "how long each is measured")
	flag.IntVar(&o.spans, "spans", 500, "spans of a request")
	flag.IntVar(&o.senders, "senders", 8, "requests in flight")
	flag.IntVar(&o.percent, "percent", 10, "how many per cent of the traces are kept by their rate")
	flag.StringVar(&o.profiles, "profiles", "", "a folder for CPU profiles of what is measured, NAME.pprof each")
	flag.Parse()
	if o.senders < 1 || o.senders > variants {
		fmt.Fprintln(os.Stderr, "collector: -senders must be between 1 and", variants)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	requests := makeRequests(o.spans)
	fmt.Printf("batches of %d spans, %d %% of traces kept, %s\n\n", o.spans, o.percent, time.Now().Format(time.DateOnly))
	fmt.Printf("%-14s %10s %8s %12s %10s %9s %11s\n", "pipeline", "spans/s", "of none", "CPU ns/span", "resident", "refused", "to send, ns")
	var none float64
	for name := range strings.SplitSeq(o.pipelines, ",") {
		r, err := measure(ctx, o, name, requests)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rate := float64(r.spans) / r.took.Seconds()
		if name == "none" {
			none = rate
		}
		of := "–"
		if none > 0 {
			of = fmt.Sprintf("%.2f", rate/none)
		}
		fmt.Printf("%-14s %10.0f %8s %12.0f %7d MB %9d %11.0f\n", name, rate, of, perSpan(r.cpu, r), r.resident>>20, r.refused, perSpan(r.sending, r))
	}
	return nil
}

// perSpan is what a span takes of that time.
func perSpan(d time.Duration, r result) float64 {
	return float64(d.Nanoseconds()) / float64(max(r.spans, 1))
}
