package otlplazy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
)

// otlpReceiver takes all signals of one ID. It is made, started and ended once for each of them, and does so the first time.
type otlpReceiver struct {
	cfg     *Config
	set     receiver.Settings
	traces  consumer.Traces // each is nil where no pipeline wants the signal
	metrics consumer.Metrics
	logs    consumer.Logs

	start    sync.Once
	startErr error
	stop     sync.Once
	stopErr  error

	grpc  *grpc.Server // nil where it is not served
	http  *http.Server
	tasks sync.WaitGroup
}

// receivers are those there are, by their configuration, which is the same for all signals of an ID.
var receivers = struct {
	sync.Mutex
	of map[*Config]*otlpReceiver
}{of: map[*Config]*otlpReceiver{}}

// shared gives the receiver of that configuration.
func shared(set receiver.Settings, cfg *Config) *otlpReceiver {
	receivers.Lock()
	defer receivers.Unlock()
	r := receivers.of[cfg]
	if r == nil {
		set.TelemetrySettings = ofNoSignal(set.TelemetrySettings)
		r = &otlpReceiver{cfg: cfg, set: set}
		receivers.of[cfg] = r
	}
	return r
}

// Start implements [component.Component].
func (r *otlpReceiver) Start(ctx context.Context, host component.Host) error {
	r.start.Do(func() { r.startErr = r.open(ctx, host) })
	return r.startErr
}

// open opens both listeners before it serves on either, and leaves nothing behind where it fails.
func (r *otlpReceiver) open(ctx context.Context, host component.Host) error {
	onGRPC, err := r.openGRPC(ctx, host)
	if err != nil {
		return fmt.Errorf("protocols::grpc: %w", err)
	}
	onHTTP, err := r.openHTTP(ctx, host)
	if err != nil {
		if onGRPC != nil {
			_ = onGRPC.Close() // nobody was answered on it
		}
		return fmt.Errorf("protocols::http: %w", err)
	}
	if onGRPC != nil {
		r.serve(host, "gRPC", onGRPC, r.grpc.Serve)
	}
	if onHTTP != nil {
		r.serve(host, "HTTP", onHTTP, r.http.Serve)
	}
	return nil
}

// openGRPC gives nothing where gRPC is not configured.
func (r *otlpReceiver) openGRPC(ctx context.Context, host component.Host) (net.Listener, error) {
	cfg := r.cfg.Protocols.GRPC.Get()
	if cfg == nil {
		return nil, nil
	}
	services, err := r.services("grpc")
	if err != nil {
		return nil, err
	}
	r.grpc, err = cfg.ToServer(ctx, host.GetExtensions(), r.set.TelemetrySettings,
		configgrpc.WithGrpcServerOption(grpc.ForceServerCodecV2(bytesCodec{})),
		configgrpc.WithGrpcServerOption(experimental.BufferPool(&buffers)))
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		s.register(r.grpc)
	}
	return cfg.NetAddr.Listen(ctx)
}

// openHTTP gives nothing where HTTP is not configured.
func (r *otlpReceiver) openHTTP(ctx context.Context, host component.Host) (net.Listener, error) {
	cfg := r.cfg.Protocols.HTTP.Get()
	if cfg == nil {
		return nil, nil
	}
	services, err := r.services("http")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for _, s := range services {
		mux.Handle(s.path, s)
	}
	r.http, err = cfg.ServerConfig.ToServer(ctx, host.GetExtensions(), r.set.TelemetrySettings, mux, confighttp.WithErrorHandler(refuse))
	if err != nil {
		return nil, err
	}
	return cfg.ServerConfig.ToListener(ctx)
}

// service is where senders find a signal.
type service struct {
	signal
	name string // of the gRPC service
	path string // of the URL
}

// services are those of the signals that are wanted, told of as what came by that transport.
func (r *otlpReceiver) services(transport string) (wanted []service, err error) {
	told, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{ReceiverID: r.set.ID, Transport: transport, ReceiverCreateSettings: r.set})
	if err != nil {
		return nil, err
	}
	paths := r.cfg.paths()
	if r.traces != nil {
		var s signal = tracesOf(r.traces, told)
		if r.cfg.Undecoded {
			s = undecoded{tracesOf(r.traces, told)}
		}
		wanted = append(wanted, service{s, "opentelemetry.proto.collector.trace.v1.TraceService", paths[0]})
	}
	if r.metrics != nil {
		wanted = append(wanted, service{metricsOf(r.metrics, told), "opentelemetry.proto.collector.metrics.v1.MetricsService", paths[1]})
	}
	if r.logs != nil {
		wanted = append(wanted, service{logsOf(r.logs, told), "opentelemetry.proto.collector.logs.v1.LogsService", paths[2]})
	}
	return wanted, nil
}

func (r *otlpReceiver) serve(host component.Host, protocol string, l net.Listener, serve func(net.Listener) error) {
	r.set.Logger.Info("takes OTLP", zap.String("protocol", protocol), zap.Stringer("endpoint", l.Addr()))
	r.tasks.Go(func() {
		if err := serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err)) // which ends the collector
		}
	})
}

// Shutdown implements [component.Component]. It waits for the answers to what has come, as long as ctx lasts.
func (r *otlpReceiver) Shutdown(ctx context.Context) error {
	r.stop.Do(func() {
		r.stopErr = r.close(ctx)
		receivers.Lock()
		defer receivers.Unlock()
		delete(receivers.of, r.cfg)
	})
	return r.stopErr
}

func (r *otlpReceiver) close(ctx context.Context) error {
	var err error
	if r.http != nil {
		if err = r.http.Shutdown(ctx); err != nil {
			_ = r.http.Close() // the error is that there was no time to wait
		}
	}
	if r.grpc != nil {
		waits := context.AfterFunc(ctx, r.grpc.Stop)
		r.grpc.GracefulStop()
		waits()
	}
	r.tasks.Wait()
	return err
}
