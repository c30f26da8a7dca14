package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/internal/servers"
)

// world is everything that the demo runs, each a process of its own on free loopback ports.
type world struct {
	dir, policy string // the run's folder, and the documents in it
	root, bin   string // the checkout, and where its programs are
	ports       map[string]string
	s3          *servers.S3
	processes   []*servers.Process
	weirArgs    []string
}

// examplePorts are the ports of examples/demo, each replaced by a free one.
var examplePorts = []string{"4317", "8080", "9101", "9102", "9103", "9104", "9105", "9106"}

// ownPorts are the other ports that the demo needs.
var ownPorts = []string{"xds", "ratelimit", "http", "admin", "otlphttp", "jaegergrpc", "jaegerhttp", "samplinghttp", "samplinggrpc", "zipkin", "health", "metrics"}

func (w *world) address(port string) string { return "127.0.0.1:" + w.ports[port] }
func (w *world) gateway() string            { return "http://" + w.address("8080") }

// start brings everything up. What it started is stopped by stop, also after an error.
func (w *world) start(ctx context.Context) error {
	if err := w.takePorts(ctx); err != nil {
		return err
	}
	var err error
	if w.s3, err = servers.StartMinio(ctx, w.dir, bucketName); err != nil {
		return err
	}
	w.processes = append(w.processes, w.s3.Process)
	if err := w.writePolicy(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{w.startCollector, w.startWeir, w.startServices, w.startEnvoy} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) takePorts(ctx context.Context) error {
	w.ports = make(map[string]string)
	for _, name := range slices.Concat(examplePorts, ownPorts) {
		port, err := servers.FreePort(ctx)
		if err != nil {
			return err
		}
		w.ports[name] = strconv.Itoa(port)
	}
	return nil
}

// writePolicy copies examples/demo with this run's ports.
func (w *world) writePolicy() error {
	w.policy = filepath.Join(w.dir, "policy")
	if err := os.MkdirAll(w.policy, 0o700); err != nil {
		return err
	}
	pairs := []string{"http://127.0.0.1:9000", w.s3.Endpoint}
	for _, port := range examplePorts {
		pairs = append(pairs, "port: "+port, "port: "+w.ports[port], "127.0.0.1:"+port, w.address(port))
	}
	files, err := filepath.Glob(filepath.Join(w.root, "examples", "demo", "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		mine := strings.NewReplacer(pairs...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(w.policy, filepath.Base(file)), []byte(mine), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// run starts a process and, where ready is a URL, waits until it answers.
func (w *world) run(ctx context.Context, ready string, c servers.Command) error {
	c.Log = filepath.Join(w.dir, c.Name+".log")
	p, err := servers.Start(c)
	if err != nil {
		return err
	}
	w.processes = append(w.processes, p)
	if ready == "" {
		return nil
	}
	return p.WaitHTTP(ctx, ready)
}

func (w *world) startCollector(ctx context.Context) error {
	return w.run(ctx, "http://"+w.address("health")+"/", servers.Command{
		Name: "weir-collector", Path: filepath.Join(w.bin, "weir-collector"),
		Args: []string{"--config", filepath.Join(w.root, "collector", "config.yaml")},
		Env: append(
			w.s3.Env(),
			"AWS_EC2_METADATA_DISABLED=true", "WEIR_POLICY="+w.policy, "WEIR_QUEUE="+filepath.Join(w.dir, "queue"),
			"WEIR_OTLP_GRPC="+w.address("4317"), "WEIR_OTLP_HTTP="+w.address("otlphttp"),
			"WEIR_JAEGER_GRPC="+w.address("jaegergrpc"), "WEIR_JAEGER_HTTP="+w.address("jaegerhttp"),
			"WEIR_ZIPKIN="+w.address("zipkin"), "WEIR_HEALTH="+w.address("health"),
			"WEIR_SAMPLING_HTTP="+w.address("samplinghttp"), "WEIR_SAMPLING_GRPC="+w.address("samplinggrpc"),
			"WEIR_METRICS_PORT="+w.ports["metrics"], "WEIR_ARCHIVE_FLUSH=2s",
		),
	})
}

func (w *world) startWeir(ctx context.Context) error {
	w.weirArgs = []string{
		"serve", "--policy", w.policy, "--xds-address", w.address("xds"),
		"--ratelimit-address", w.address("ratelimit"), "--http-address", w.address("http"),
	}
	return w.run(ctx, "http://"+w.address("http")+"/readyz", servers.Command{
		Name: "weir", Path: filepath.Join(w.bin, "weir"), Args: w.weirArgs,
	})
}

func (w *world) startServices(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, s := range []struct{ name, version, port, calls string }{
		{"main", "v1", "9101", "api,executions"},
		{"api", "v1", "9102", ""},
		{"api", "v2", "9103", ""},
		{"background", "v1", "9104", ""},
		{"health", "v1", "9105", ""},
		{"executions", "v1", "9106", ""},
	} {
		err := w.run(ctx, "http://"+w.address(s.port)+"/start", servers.Command{
			Name: s.name + "-" + s.version, Path: self,
			Args: []string{
				"service", "--name", s.name, "--version", s.version, "--address", w.address(s.port),
				"--collector", w.address("4317"), "--gateway", w.gateway(), "--calls", s.calls,
			},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) startEnvoy(ctx context.Context) error {
	envoy, err := servers.Tool("envoy")
	if err != nil {
		return err
	}
	bootstrap, err := exec.CommandContext(ctx, filepath.Join(w.bin, "weir"), "bootstrap", "--gateway", "edge",
		"--xds", w.address("xds"), "--admin", w.address("admin")).Output()
	if err != nil {
		return fmt.Errorf("weir bootstrap: %w", err)
	}
	file := filepath.Join(w.dir, "envoy.yaml")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		return err
	}
	return w.run(ctx, "http://"+w.address("admin")+"/ready", servers.Command{
		Name: "envoy", Path: envoy, Args: []string{"-c", file, "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning"},
	})
}

// stop ends every process, the last started first.
func (w *world) stop() {
	for _, p := range slices.Backward(w.processes) {
		p.Stop()
	}
}

// ended names the processes that have ended by themselves, or that somebody has killed.
func (w *world) ended() (names []string) {
	for _, p := range w.processes {
		select {
		case <-p.Done():
			names = append(names, p.Name)
		default:
		}
	}
	return names
}

// pid gives the process id of a running part.
func (w *world) pid(name string) int {
	for _, p := range w.processes {
		if p.Name == name {
			return p.PID()
		}
	}
	return 0
}
