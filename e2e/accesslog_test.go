package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
)

// startCollector runs the real weir-collector with the configuration that users get and more of the kind, and gives
// the address at which it takes OTLP.
func startCollector(t *testing.T, policy string, env []string, more ...string) string {
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
	ports := freePorts(t, 7)
	args := []string{"--config", filepath.Join(root, "collector", "config.yaml")}
	for _, file := range more {
		args = append(args, "--config", filepath.Join(root, "collector", file))
	}
	c := servers.StartProcess(t, servers.Command{
		Name: "weir-collector", Path: strings.TrimSpace(string(binary)), Args: args,
		Env: append(env,
			"AWS_ACCESS_KEY_ID=none", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true",
			"WEIR_POLICY="+policy, "WEIR_QUEUE="+t.TempDir(), "WEIR_OTLP_GRPC="+ports[0], "WEIR_OTLP_HTTP="+ports[1],
			"WEIR_JAEGER_GRPC="+ports[2], "WEIR_JAEGER_HTTP="+ports[3], "WEIR_ZIPKIN="+ports[4],
			"WEIR_HEALTH="+ports[5], "WEIR_METRICS_PORT="+port(ports[6])),
	})
	if err := c.WaitHTTP(t.Context(), "http://"+ports[5]+"/"); err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// TestAccessLogs is examples/access-logs: requests that fail, and those only, are logged with their tags, through the
// collector to whatever keeps logs.
func TestAccessLogs(t *testing.T) {
	example, err := os.ReadFile("../examples/access-logs/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
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
	collector := startCollector(t, "../examples/access-logs", []string{"WEIR_LOGS=" + store.Address, "WEIR_LOGS_INSECURE=true"}, "access-logs.yaml")
	w := newWorld(t, strings.NewReplacer(
		"127.0.0.1:4317", collector, "port: 9001", "port: "+port(up.Address),
		"  tracing:\n", "  tracing:\n    percent: 0\n", // there is no S3 to archive spans in
	).Replace(string(example)))
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
