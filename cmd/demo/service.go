package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	apitrace "go.opentelemetry.io/otel/trace"
)

// sample is a sample service: it answers with its version after a moment of work, and calls others on the way.
type sample struct {
	name, version, address, collector string
	gateway                           string   // http://HOST:PORT of the Envoy through which it calls
	calls                             []string // services
	tracer                            apitrace.Tracer
	client                            *http.Client
}

var w3c = propagation.TraceContext{}

// run serves until ctx is done.
func (s *sample) run(ctx context.Context) error {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(s.collector), otlptracegrpc.WithInsecure())
	if err != nil {
		return fmt.Errorf("OTLP exporter: %w", err)
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter, trace.WithBatchTimeout(time.Second)),
		trace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", s.name), attribute.String("service.namespace", "demo"), attribute.String("service.version", s.version),
		)),
	)
	defer func() { _ = provider.Shutdown(context.WithoutCancel(ctx)) }() // what can't be sent at the end is lost
	otel.SetTracerProvider(provider)
	s.tracer = provider.Tracer("weir/demo")
	s.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	server := &http.Server{Addr: s.address, Handler: s, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// steps are the work in a request, each a span of its own.
var steps = []string{"authorize", "query", "render"}

// ServeHTTP answers one request in a span of its own, with one for each step of the work and each call.
func (s *sample) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.tracer.Start(ctx, r.Method+" "+r.URL.Path, apitrace.WithSpanKind(apitrace.SpanKindServer))
	defer span.End()
	for _, step := range steps {
		_, work := s.tracer.Start(ctx, step)
		time.Sleep(rand.N(time.Millisecond))
		work.End()
	}
	for _, name := range s.calls {
		s.call(ctx, name)
	}
	w.Header().Set("X-Demo-Version", s.version)
	fmt.Fprintf(w, "%s %s\n", s.name, s.version)
}

// call asks another service through the gateway. What goes wrong is in its span; the answer does not depend on it.
func (s *sample) call(ctx context.Context, name string) {
	ctx, span := s.tracer.Start(ctx, "call "+name, apitrace.WithSpanKind(apitrace.SpanKindClient))
	defer span.End()
	if err := s.ask(ctx, name); err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}

func (s *sample) ask(ctx context.Context, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.gateway+"/"+name, http.NoBody)
	if err != nil {
		return err
	}
	req.Host = name + ".demo"
	w3c.Inject(ctx, propagation.HeaderCarrier(req.Header))
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	if err := drain(resp); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", name, resp.Status)
	}
	return nil
}
