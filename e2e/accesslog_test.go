package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
)

// collector is the real weir-collector with the configuration that users get.
type collector struct {
	otlp    string // the address at which it takes OTLP
	metrics string // and that of its own metrics
	health  string
	command servers.Command
	process *servers.Process
}

// newCollector builds one for a policy and more configuration of the kind.
func newCollector(t *testing.T, policy string, env []string, more ...string) *collector {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), filepath.Join(root, "tools", "collector.sh"))
	build.Stderr = t.Output()
	binary, err := build.Output()
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 9)
	c := &collector{otlp: ports[0], metrics: ports[6], health: ports[5], command: servers.Command{
		Name: "weir-collector", Path: strings.TrimSpace(string(binary)),
		Args: []string{"--config", filepath.Join(root, "collector", "config.yaml")},
		Env: append(
			env,
			"AWS_ACCESS_KEY_ID=none", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true",
			"WEIR_POLICY="+policy, "WEIR_QUEUE="+t.TempDir(), "WEIR_OTLP_GRPC="+ports[0], "WEIR_OTLP_HTTP="+ports[1],
			"WEIR_JAEGER_GRPC="+ports[2], "WEIR_JAEGER_HTTP="+ports[3], "WEIR_ZIPKIN="+ports[4],
			"WEIR_SAMPLING_HTTP="+ports[7], "WEIR_SAMPLING_GRPC="+ports[8],
			"WEIR_HEALTH="+ports[5], "WEIR_METRICS_PORT="+port(ports[6]),
		),
	}}
	for _, file := range more {
		c.command.Args = append(c.command.Args, "--config", filepath.Join(root, "collector", file))
	}
	return c
}

func (c *collector) start(t *testing.T) {
	t.Helper()
	c.process = servers.StartProcess(t, c.command)
	if err := c.process.WaitHTTP(t.Context(), "http://"+c.health+"/"); err != nil {
		t.Fatal(err)
	}
}

// logsOverCollector are the documents of examples/access-logs, without the Gateway.
func logsOverCollector(t *testing.T, collector, upstream string) string {
	t.Helper()
	example, err := os.ReadFile("../examples/access-logs/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(
		"127.0.0.1:4317", collector, "port: 9001", "port: "+port(upstream),
		"  tracing:\n", "  tracing:\n    percent: 0\n", // there is no S3 to archive spans in
	).Replace(string(example))
}

// TestAccessLogs is examples/access-logs: requests that fail, and those only, are logged with their tags, through the
// collector to whatever keeps logs.
func TestAccessLogs(t *testing.T) {
	up, store := envoytest.Upstream(t, "up"), envoytest.NewCollector(t)
	var ids sync.Map // of the requests that the upstream had, by user
	up.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		ids.Store(r.Header.Get("X-User-Id"), r.Header.Get("X-Request-Id"))
		if r.URL.Path == "/broken" {
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	c := newCollector(t, "../examples/access-logs", []string{"WEIR_LOGS=" + store.Address, "WEIR_LOGS_INSECURE=true"}, "access-logs.yaml")
	c.start(t)
	w := newWorld(t, logsOverCollector(t, c.otlp, up.Address))
	// The good ones come first and among the bad: when the last bad one is logged, they would be too.
	const failing = 5
	for n := range failing {
		for path, status := range map[string]int{"/fine": http.StatusOK, "/broken": http.StatusInternalServerError} {
			r := request{host: "checkout.example.com", path: path + "?card=4111", headers: map[string]string{"X-User-Id": fmt.Sprint(path, n)}}
			if got := w.mustDo(r); got.status != status {
				t.Fatalf("%s: %d %s", path, got.status, got.body)
			}
		}
	}
	w.eventually("each failure is logged", func() error {
		if n := len(store.Logs()); n < failing {
			return fmt.Errorf("%d logs", n)
		}
		return nil
	})
	users := make(map[any]bool)
	for _, log := range store.Logs() {
		users[log["user_id"]] = true
		id, _ := ids.Load(log["user_id"])
		for name, want := range map[string]any{
			"service.name": "edge", "http.request.method": "GET", "server.address": "checkout.example.com", "url.path": "/broken",
			"request_id": id, "http.response.status_code": "500", "envoy.upstream_cluster": "shop/checkout",
			"envoy.route_name": "shop/checkout/default",
		} {
			if log[name] != want {
				t.Errorf("%s is %v, want %v, in %v", name, log[name], want, log)
			}
		}
	}
	for n := range failing {
		if !users[fmt.Sprint("/broken", n)] || len(users) != failing {
			t.Errorf("logged are the requests of %v", users)
			break
		}
	}
}

// TestAccessLogsSurvive: what the collector has taken from the proxies arrives after a crash, though nobody kept logs
// at the time.
func TestAccessLogsSurvive(t *testing.T) {
	up, address := envoytest.Upstream(t, "up"), freePorts(t, 1)[0]
	up.Handle = func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusBadGateway)
		return true
	}
	c := newCollector(t, "../examples/access-logs", []string{"WEIR_LOGS=" + address, "WEIR_LOGS_INSECURE=true"}, "access-logs.yaml")
	c.start(t)
	w := newWorld(t, logsOverCollector(t, c.otlp, up.Address))
	if got := w.mustDo(checkout); got.status != http.StatusBadGateway {
		t.Fatalf("%d %s", got.status, got.body)
	}
	w.eventually("the collector has the log", func() error {
		resp, err := w.client.Get("http://" + c.metrics + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if taken := regexp.MustCompile(`(?m)^otelcol_receiver_accepted_log_records(_total)?{.*} 1$`); err == nil && !taken.Match(body) {
			err = fmt.Errorf("no log was taken:\n%s", body)
		}
		return err
	})
	if err := c.process.Kill(); err != nil {
		t.Fatal(err)
	}
	store := envoytest.NewCollectorAt(t, address)
	c.start(t)
	w.eventually("the log arrives", func() error {
		if logs := store.Logs(); len(logs) != 1 || logs[0]["http.response.status_code"] != "502" {
			return fmt.Errorf("%v", logs)
		}
		return nil
	})
}
