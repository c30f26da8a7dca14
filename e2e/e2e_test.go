// Package e2e_test holds a real weir against a real Envoy: what a user is promised, seen from outside.
package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
)

var weirBinary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	weirBinary = filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-o", weirBinary, "github.com/machinenativeops/weir/cmd/weir")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build weir:", err)
		return 1
	}
	return m.Run()
}

// world is one policy directory, one weir and the Envoy of its gateway "edge".
type world struct {
	t       *testing.T
	dir     string // of the policy documents
	weir    *servers.Process
	envoy   *envoytest.Envoy
	args    []string
	http    string // of weir's status API
	gateway string // http://HOST:PORT of Envoy
	client  *http.Client
}

// newWorld starts everything with the given documents, to which it adds a Gateway, and waits until Envoy has them. More
// is added to Envoy's bootstrap.
func newWorld(t *testing.T, documents string, more ...string) *world {
	t.Helper()
	ports := freePorts(t, 4)
	w := &world{
		t: t, dir: t.TempDir(),
		http:    "http://" + ports[2],
		gateway: "http://" + ports[3],
		client:  &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	t.Cleanup(w.client.CloseIdleConnections)
	w.write("gateway.yaml", fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec:
  address: 127.0.0.1
  listeners: [{name: http, port: %s, protocol: http}]
`, port(ports[3])))
	w.write("mesh.yaml", documents)
	w.args = []string{
		"serve", "--policy", w.dir, "--xds-address", ports[0], "--ratelimit-address", ports[1], "--http-address", ports[2],
	}
	w.startWeir()
	bootstrap, err := exec.Command(weirBinary, "bootstrap", "--gateway", "edge", "--xds", ports[0], "--admin", freePorts(t, 1)[0]).Output()
	if err != nil {
		t.Fatalf("weir bootstrap: %v", err)
	}
	w.envoy = envoytest.Start(t, append(bootstrap, strings.Join(more, "")...))
	w.eventually("the gateway listens", func() error {
		resp, err := w.client.Get(w.gateway)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return w
}

func (w *world) startWeir() {
	w.t.Helper()
	w.weir = servers.StartProcess(w.t, servers.Command{Name: "weir", Path: weirBinary, Args: w.args})
	w.eventually("weir is ready", func() error {
		resp, err := w.client.Get(w.http + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		return nil
	})
}

// write replaces a policy file as editors do: all at once.
func (w *world) write(name, text string) {
	w.t.Helper()
	tmp := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits until check gives nil, for 20 seconds.
func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s: not within 20 s: %v", what, err)
		case <-tick.C:
		}
	}
}

// request is one request to the gateway.
type request struct {
	method, host, path string
	headers            map[string]string
	body               io.Reader // nil: none
}

type response struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(ctx context.Context, r request) (response, error) {
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, w.gateway+r.path, r.body)
	if err != nil {
		return response{}, err
	}
	req.Host = r.host
	for k, v := range r.headers {
		req.Header.Set(k, v)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, string(body)}, err
}

func (w *world) mustDo(r request) response {
	w.t.Helper()
	resp, err := w.do(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// status is what these tests look at of weir's status.
type status struct {
	Policy *struct {
		Problems []struct{ Message string } `json:"problems"`
	} `json:"policy"`
}

func (w *world) status() (s status, err error) {
	resp, err := w.client.Get(w.http + "/api/v1/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// command runs weir and gives what it prints.
func (w *world) command(args ...string) (string, error) {
	out, err := exec.CommandContext(w.t.Context(), weirBinary, args...).CombinedOutput()
	return string(out), err
}

// metric sums a metric of weir's over its labels; absent is 0.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	resp, err := w.client.Get(w.http + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var sum float64
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest[:len(rest)-1], ' '):], &v); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}

func port(hostport string) string { return hostport[strings.LastIndexByte(hostport, ':')+1:] }

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	ports := make([]string, n)
	for i := range ports {
		var err error
		if ports[i], err = servers.FreeAddress(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return ports
}
