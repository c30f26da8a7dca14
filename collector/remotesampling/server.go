package remotesampling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jaegertracing/jaeger-idl/proto-gen/api_v2"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/machinenativeops/weir/collector/inforce"
	"github.com/machinenativeops/weir/collector/remotesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling"
)

var _ inforce.Publisher = (*server)(nil)

// server answers SDKs.
type server struct {
	processors
	cfg  *Config
	set  component.TelemetrySettings
	told *metadata.TelemetryBuilder

	http  *http.Server // nil: none
	grpc  *grpc.Server // nil: none
	done  func()       // ends reporting; nil: there is none
	tasks sync.WaitGroup
}

func newServer(set component.TelemetrySettings, cfg *Config) (*server, error) {
	told, err := metadata.NewTelemetryBuilder(set)
	return &server{processors: processors{joined: make(chan struct{}, 1)}, cfg: cfg, set: set, told: told}, err
}

// Start opens all listeners before anything is served.
func (s *server) Start(ctx context.Context, host component.Host) error {
	var onHTTP, onGRPC net.Listener
	err := func() (err error) {
		if c := s.cfg.HTTP.Get(); c != nil {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /sampling", s.serveHTTP)
			if s.http, err = c.ToServer(ctx, host.GetExtensions(), s.set, mux); err != nil {
				return fmt.Errorf("http: %w", err)
			}
			if onHTTP, err = c.ToListener(ctx); err != nil {
				return fmt.Errorf("http: %w", err)
			}
		}
		if c := s.cfg.GRPC.Get(); c != nil {
			if s.grpc, err = c.ToServer(ctx, host.GetExtensions(), s.set); err != nil {
				return fmt.Errorf("grpc: %w", err)
			}
			api_v2.RegisterSamplingManagerServer(s.grpc, manager{s})
			if onGRPC, err = c.NetAddr.Listen(ctx); err != nil {
				return fmt.Errorf("grpc: %w", err)
			}
		}
		return nil
	}()
	if err != nil {
		if onHTTP != nil {
			_ = onHTTP.Close()
		}
		s.http, s.grpc = nil, nil
		return err
	}
	if c := s.cfg.Report.Get(); c != nil {
		client, err := c.ToClient(ctx, host.GetExtensions(), s.set)
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		r := &reporter{processors: &s.processors, budget: c.Budget, client: client, weirs: weirsAt(append([]string{c.Endpoint}, c.Others...)), log: s.set.Logger, told: s.told}
		var running context.Context
		running, s.done = context.WithCancel(context.WithoutCancel(ctx)) // that of a start ends with it
		s.tasks.Go(func() { r.run(running, c.Interval) })
	}
	if onHTTP != nil {
		s.serve(host, func() error { return s.http.Serve(onHTTP) })
	}
	if onGRPC != nil {
		s.serve(host, func() error { return s.grpc.Serve(onGRPC) })
	}
	return nil
}

func (s *server) serve(host component.Host, serve func() error) {
	s.tasks.Go(func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
}

// Shutdown ends what is being answered, too: SDKs ask again.
func (s *server) Shutdown(context.Context) error {
	var err error
	if s.done != nil {
		s.done()
	}
	if s.http != nil {
		err = s.http.Close()
	}
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.tasks.Wait()
	s.told.Shutdown()
	return err
}

var errNothing = errors.New("no adaptive_sampling processor has rates yet")

// strategy is what the service is told, if anything can be said.
func (s *server) strategy(ctx context.Context, service, protocol string) (sampling.Strategy, error) {
	sources := s.sources(time.Now())
	s.told.ExtensionRemoteSamplingAnswers.Add(ctx, 1, metric.WithAttributes(attribute.String("protocol", protocol), attribute.Bool("answered", len(sources) > 0)))
	if len(sources) == 0 {
		return sampling.Strategy{}, errNothing
	}
	return sampling.Told(service, sources...), nil
}

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	service := r.URL.Query().Get("service")
	if service == "" {
		http.Error(w, "want ?service=NAME", http.StatusBadRequest)
		return
	}
	strategy, err := s.strategy(r.Context(), service, "http")
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(inJSON(strategy)) // a client that went away needs no answer
}

// manager answers over gRPC.
type manager struct{ *server }

// GetSamplingStrategy implements api_v2.SamplingManagerServer.
func (m manager) GetSamplingStrategy(ctx context.Context, q *api_v2.SamplingStrategyParameters) (*api_v2.SamplingStrategyResponse, error) {
	if q.ServiceName == "" {
		return nil, status.Error(codes.InvalidArgument, "want a service name")
	}
	strategy, err := m.strategy(ctx, q.ServiceName, "grpc")
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return inProto(strategy), nil
}
