package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/machinenativeops/weir/internal/h2"
	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/loadtest"
	"github.com/machinenativeops/weir/policy/source"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/quota"
	"github.com/machinenativeops/weir/sampling/proxies"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

const (
	defaultXDSAddress       = "127.0.0.1:18000"
	defaultRateLimitAddress = "127.0.0.1:18001"
	defaultHTTPAddress      = "127.0.0.1:18002"
)

type serveOptions struct {
	policy                        []string
	state                         string
	xdsAddr, limitAddr, httpAddr  string
	limitDial, logLevel, logStyle string
	redis                         redisOptions
	freeze, decay                 time.Duration
}

func newServe() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve --policy PATH...",
		Short: "Run the control plane, the rate limit service and the status API",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(o.logLevel, o.logStyle)
			if err != nil {
				return err
			}
			if len(o.policy) == 0 {
				return errors.New("--policy PATH is missing: a file or directory of policy documents")
			}
			return runServe(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.policy, "policy", nil, "a file or directory of policy documents; may be repeated")
	f.StringVar(&o.state, "state", stateDirectory(), "a `FOLDER` where the documents in force are kept over a restart, so that it may find broken ones; --state= for none (default: $STATE_DIRECTORY, which systemd sets, or else none)")
	f.StringVar(&o.xdsAddr, "xds-address", defaultXDSAddress, "where Envoys get their configuration (gRPC)")
	f.StringVar(&o.limitAddr, "ratelimit-address", defaultRateLimitAddress, "where Envoys ask about rate limits (gRPC)")
	f.StringVar(&o.limitDial, "ratelimit-dial", "", "the rate limit `HOST:PORT` as proxies reach it (default: --ratelimit-address)")
	f.StringVar(&o.httpAddr, "http-address", defaultHTTPAddress, "status API, /metrics, /healthz and /readyz")
	o.redis.flags(f)
	f.DurationVar(&o.freeze, "sampling-freeze", proxies.Freeze, "how long proxies go on making the traces that collectors wanted, when no collector reports any more")
	f.DurationVar(&o.decay, "sampling-decay", proxies.Decay, "how long it takes them from then on to go back to what the documents say")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logStyle, "log-format", "auto", "text, json, or auto: text on a terminal and JSON elsewhere")
	return cmd
}

// stateDirectory is the first folder of those that systemd's StateDirectory= gives a service.
func stateDirectory() string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return first
}

func newLogger(level, style string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", level)
	}
	if err := checkOutput(style, "auto", outputText, outputJSON); err != nil {
		return nil, fmt.Errorf("--log-format %s: want auto, text or json", style)
	}
	o := &slog.HandlerOptions{Level: l}
	if style == outputText || style == "auto" && isTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// listeners are opened before anything starts, so that a taken port stops the program.
type listeners struct{ xds, limit, http net.Listener }

func listen(ctx context.Context, o serveOptions) (l listeners, err error) {
	for _, one := range []struct {
		flag, address string
		to            *net.Listener
	}{
		{"--xds-address", o.xdsAddr, &l.xds},
		{"--ratelimit-address", o.limitAddr, &l.limit},
		{"--http-address", o.httpAddr, &l.http},
	} {
		if err := checkLoopback(one.address); err != nil {
			return l, fmt.Errorf("%s %s: %w", one.flag, one.address, err)
		}
		if *one.to, err = new(net.ListenConfig).Listen(ctx, "tcp", one.address); err != nil {
			return l, failed(fmt.Errorf("%s: %w", one.flag, err))
		}
	}
	return l, nil
}

var errLoopback = errors.New("without TLS, which this version does not have yet, Weir listens on loopback only: use 127.0.0.1:PORT or [::1]:PORT")

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return errHostPort
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return errLoopback
	}
	return nil
}

func runServe(ctx context.Context, o serveOptions, log *slog.Logger) error {
	l, err := listen(ctx, o)
	if err != nil {
		return err
	}
	documents := source.New(o.policy, log)
	if o.state != "" {
		if err := documents.Keep(o.state); err != nil {
			return failed(fmt.Errorf("--state: %w", err))
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	tasks, ctx := errgroup.WithContext(ctx)
	store, stop, err := o.redis.run(ctx, registry, log)
	if err != nil {
		return err
	}
	defer stop()
	limits := ratelimit.New(log, ratelimit.Options{Store: store})
	streams := serve.New(log)
	quotas := quota.New(log, limits)
	reports := loadreport.New(log)
	stops, err := loadtest.Open(o.state, log)
	if err != nil {
		return failed(fmt.Errorf("--state: %w", err))
	}
	registry.MustRegister(limits, streams, quotas, reports)

	dial := o.limitDial
	if dial == "" {
		dial = l.limit.Addr().String()
	}
	feedback := newFeedback(registry, proxies.NewTable(o.freeze, o.decay))
	plane := newPlane(log, registry, services{limits, streams, reports, stops, feedback}, xds.Options{RateLimitAddress: dial})

	xdsServer := streams.Server(xdsHandler())
	xdsServer.Calls = h2.Several{xdsServer.Calls, reports}
	httpServer := &http.Server{Handler: plane.handler(registry), ReadHeaderTimeout: 10 * time.Second}

	log.Info("weir serves", "xds", l.xds.Addr().String(), "ratelimit", l.limit.Addr().String(), "http", l.http.Addr().String(), "version", version())
	tasks.Go(func() error { return serveXDS(ctx, xdsServer, l.xds) })
	tasks.Go(func() error { return serveLimits(ctx, limits, quotas, l.limit) })
	tasks.Go(func() error { return serveHTTP(ctx, httpServer, l.http) })
	updates := make(chan source.Update)
	tasks.Go(func() error { return plane.run(ctx, updates) })
	tasks.Go(func() error {
		return documents.Run(ctx, func(u source.Update) {
			select {
			case updates <- u:
			case <-ctx.Done():
			}
		})
	})
	if err := tasks.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return failed(err)
	}
	log.Info("weir stopped")
	return nil
}

// xdsHandler has what is asked on the port of discovery beside that.
func xdsHandler() http.Handler {
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	return g
}

// serveXDS serves until ctx is done. Streams are cut rather than drained: an Envoy keeps what it has and comes back.
func serveXDS(ctx context.Context, s *h2.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serveHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
