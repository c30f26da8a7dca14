package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/machinenativeops/weir/internal/nowait"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy/source"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/compat"
	"github.com/machinenativeops/weir/ratelimit/quota"
)

type rateLimitOptions struct {
	address, httpAddr  string
	config, policy     []string
	cert, key, ca      string
	manager            compat.Client
	keys               int
	headers            []string
	shadow, insecure   bool
	redis              redisOptions
	logLevel, logStyle string
}

func newRateLimit() *cobra.Command {
	var o rateLimitOptions
	cmd := &cobra.Command{
		Use:   "ratelimit [--config PATH...] [--policy PATH...]",
		Short: "Run the rate limit service alone, also in the place of envoyproxy/ratelimit",
		Long: "Answers Envoy's rate limit questions: those of Weir's own routes by the RateLimit documents of --policy, and " +
			"those of other domains by configuration files of envoyproxy/ratelimit, which --config names. Both are read again when they change.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(o.logLevel, o.logStyle)
			if err != nil {
				return err
			}
			switch {
			case len(o.config) == 0 && len(o.policy) == 0 && o.manager.Address == "":
				return errors.New("there is nothing to limit by: name envoyproxy/ratelimit's files with --config PATH, its management server with --config-xds HOST:PORT, or policy documents with --policy PATH")
			case len(o.config) > 0 && o.manager.Address != "":
				return errors.New("--config and --config-xds exclude each other: give one")
			case o.manager.Address != "" && o.manager.CA == "":
				if err := checkLoopback(o.manager.Address); errors.Is(err, errHostPort) {
					return fmt.Errorf("--config-xds %s: %w", o.manager.Address, err)
				} else if err != nil {
					return fmt.Errorf("--config-xds %s: without --config-xds-ca, TLS, the server must be on loopback", o.manager.Address)
				}
			}
			if o.keys < 0 {
				return fmt.Errorf("--keys: want a number from 0 (the default), got %d", o.keys)
			}
			if len(o.headers) != 0 && len(o.headers) != 3 {
				return errors.New("--response-headers: want three names, LIMIT,REMAINING,RESET")
			}
			o.manager.Log = log
			return runRateLimit(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "address", defaultRateLimitAddress, "where Envoys ask (gRPC)")
	f.StringSliceVar(&o.config, "config", nil, "a file or directory of envoyproxy/ratelimit's configuration; may be repeated")
	f.StringVar(&o.manager.Address, "config-xds", "", "the `HOST:PORT` of a management server that serves envoyproxy/ratelimit's configuration over xDS")
	f.StringVar(&o.manager.Node, "config-xds-node", "weir-ratelimit", "the id by which it knows this service")
	f.StringVar(&o.manager.CA, "config-xds-ca", "", "the authorities in PEM of its certificate; without them it must be on loopback")
	f.StringSliceVar(&o.policy, "policy", nil, "a file or directory of policy documents; may be repeated")
	f.StringVar(&o.httpAddr, "http-address", defaultHTTPAddress, "/json, /metrics, /healthz, /readyz and /api/v1/status")
	f.StringVar(&o.cert, "tls-cert", "", "a certificate in PEM, with which --address may be any; read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "the key of --tls-cert in PEM")
	f.StringVar(&o.ca, "tls-client-ca", "", "the authorities in PEM of which clients must have a certificate")
	f.BoolVar(&o.insecure, "insecure", false, "let --address be any without a certificate, and --http-address any: where the network keeps others out")
	f.IntVar(&o.keys, "keys", ratelimit.DefaultKeys, "how many counters there is room for, 32 bytes each")
	f.StringSliceVar(&o.headers, "response-headers", nil, "have answers tell of the nearest limit of --config, in headers of the names `LIMIT,REMAINING,RESET`")
	f.Lookup("response-headers").NoOptDefVal = "RateLimit-Limit,RateLimit-Remaining,RateLimit-Reset"
	f.BoolVar(&o.shadow, "shadow", false, "refuse nobody, and count as if")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logStyle, "log-format", "auto", "text, json, or auto: text on a terminal and JSON elsewhere")
	o.redis.flags(f)
	cmd.AddCommand(newLimitCheck(), newLimitTop())
	return cmd
}

func runRateLimit(ctx context.Context, o rateLimitOptions, log *slog.Logger) error {
	settings, err := serverTLS(o.cert, o.key, o.ca)
	if err != nil {
		return err
	}
	limitAddress, err := listenOn(ctx, "--address", o.address, settings, o.insecure)
	if err != nil {
		return err
	}
	httpAddress, err := listenOn(ctx, "--http-address", o.httpAddr, nil, o.insecure)
	if err != nil {
		return err
	}
	if o.insecure {
		log.Warn("--insecure: whoever reaches these addresses may ask, and read what is limited", "address", o.address, "http", o.httpAddr)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	compatible := ratelimit.Compat{Shadow: o.shadow}
	if len(o.headers) > 0 {
		compatible.Headers = ratelimit.HeaderNames{Limit: o.headers[0], Remaining: o.headers[1], Reset: o.headers[2]}
	}
	tasks, ctx := errgroup.WithContext(ctx)
	o.redis.Keys = o.keys
	store, stop, err := o.redis.run(ctx, registry, log)
	if err != nil {
		return err
	}
	defer stop()
	limits := ratelimit.New(log, ratelimit.Options{Keys: o.keys, Store: store, Compat: compatible})
	quotas := quota.New(log, limits)
	registry.MustRegister(limits, quotas)
	if len(o.config) > 0 {
		files := compat.NewLoader(o.config, log)
		domains, err := files.Load()
		if err != nil {
			return &exitError{exitRefused, err}
		}
		limits.ApplyDomains(domains)
		tasks.Go(func() error { return files.Run(ctx, limits.ApplyDomains) })
	}
	var awaited atomic.Int32 // of what is to come before the service is ready
	if len(o.policy) > 0 {
		awaited.Add(1)
	}
	if o.manager.Address != "" {
		awaited.Add(1)
		var once sync.Once
		tasks.Go(func() error {
			return o.manager.Run(ctx, func(domains []*ratelimit.Domain) {
				limits.ApplyDomains(domains)
				once.Do(func() { awaited.Add(-1) })
			})
		})
	}
	if len(o.policy) > 0 {
		var once sync.Once
		tasks.Go(func() error {
			return source.New(o.policy, log).Run(ctx, func(u source.Update) {
				for _, problem := range u.Problems {
					log.Error("policy refused", "problem", problem.String())
				}
				limits.Apply(mesh.Build(u.Set).Limits)
				once.Do(func() { awaited.Add(-1) })
			})
		})
	}
	httpServer := &http.Server{Handler: rateLimitHandler(limits, registry, func() bool { return awaited.Load() == 0 }), ReadHeaderTimeout: 10 * time.Second}
	log.Info("weir limits", "address", limitAddress.Addr().String(), "http", httpAddress.Addr().String(), "tls", settings != nil, "version", version())
	tasks.Go(func() error { return serveLimits(ctx, limits, quotas, limitAddress) })
	tasks.Go(func() error { return serveHTTP(ctx, httpServer, httpAddress) })
	if err := tasks.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return failed(err)
	}
	log.Info("weir stopped")
	return nil
}

var beyondLoopback = map[string]string{
	"--address":      "give --tls-cert and --tls-key, or --insecure where the network keeps others out",
	"--http-address": "give --insecure where the network keeps others out: it has no TLS",
}

// listenOn opens a flag's address, which without TLS must be a loopback one, unless the user insists.
func listenOn(ctx context.Context, flag, address string, settings *tls.Config, insecure bool) (net.Listener, error) {
	if settings == nil && !insecure {
		if err := checkLoopback(address); errors.Is(err, errLoopback) {
			return nil, fmt.Errorf("%s %s: use 127.0.0.1:PORT or [::1]:PORT, or %s", flag, address, beyondLoopback[flag])
		} else if err != nil {
			return nil, fmt.Errorf("%s %s: %w", flag, address, err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, failed(fmt.Errorf("%s: %w", flag, err))
	}
	if settings != nil {
		l = tls.NewListener(nowait.Listener(l), settings)
	}
	return l, nil
}

// serverTLS gives none where there is no certificate. The files are read at each handshake, so that they may change.
func serverTLS(cert, key, ca string) (*tls.Config, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("--tls-cert and --tls-key go together: give both")
	}
	load := func() (*tls.Config, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair}}
		if ca == "" {
			return c, nil
		}
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("--tls-client-ca: %w", err)
		}
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-client-ca %s: no certificate in it", ca)
		}
		return c, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return load() }}, nil
}

func rateLimitHandler(limits *ratelimit.Service, metrics prometheus.Gatherer, ready func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	readyz := func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			writeText(w, http.StatusServiceUnavailable, "no configuration is in force yet\n")
			return
		}
		writeText(w, http.StatusOK, "ready\n")
	}
	mux.HandleFunc("GET /readyz", readyz)
	mux.HandleFunc("GET /healthcheck", readyz) // envoyproxy/ratelimit's
	started := time.Now()
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = writeJSON(w, struct { // a part of statusReport. A client that went away needs no answer
			Version   string           `json:"version"`
			Started   time.Time        `json:"started"`
			RateLimit ratelimit.Status `json:"rateLimit"`
		}{version(), started, limits.Status()})
	})
	limitsAPI(mux, limits)
	mux.HandleFunc("POST /json", func(w http.ResponseWriter, r *http.Request) { answerJSON(w, r, limits) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// answerJSON answers a question that comes as JSON: 200, or 429 where it is over a limit.
func answerJSON(w http.ResponseWriter, r *http.Request, limits *ratelimit.Service) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		writeText(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	var question ratelimitsvcv3.RateLimitRequest
	if err := protojson.Unmarshal(body, &question); err != nil {
		writeText(w, http.StatusBadRequest, "want an envoy.service.ratelimit.v3.RateLimitRequest as JSON: "+err.Error()+"\n")
		return
	}
	answer, err := limits.ShouldRateLimit(r.Context(), &question)
	if err != nil {
		writeText(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	b, err := protojson.Marshal(answer)
	if err != nil {
		writeText(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if answer.GetOverallCode() == ratelimitsvcv3.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(b) // a client that went away needs no answer
}

// serveLimits serves until ctx is done, and then answers what it was asked before.
func serveLimits(ctx context.Context, s *ratelimit.Service, quotas *quota.Server, l net.Listener) error {
	g := grpc.NewServer(ratelimit.GRPCOptions()...)
	s.Register(g)
	quotas.Register(g)
	checks := health.NewServer()
	for _, name := range []string{ratelimitsvcv3.RateLimitService_ServiceDesc.ServiceName, "ratelimit"} { // the latter is envoyproxy/ratelimit's
		checks.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(g, checks)
	reflection.Register(g)
	server := s.Server(g)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		checks.Shutdown()
		_ = server.Shutdown(last)
	})
	err := server.Serve(l)
	if stop() {
		server.Close()
		return err
	}
	<-stopped
	return ctx.Err()
}

// drainTimeout is how long clients may take to leave.
const drainTimeout = 5 * time.Second
