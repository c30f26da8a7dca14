package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
)

// pipeline is what is measured: a sampler, and the receiver before it.
type pipeline struct{ receiver, processor string }

// pipelines are those that are compared. All keep the same share of traces; those that see whole traces keep failed and slow
// ones too. Contrib's samplers need spans decoded, so that otlp_lazy would do no less before them; Weir's are measured
// behind otlp, too.
func pipelines(policy string, percent int) map[string]pipeline {
	span, stored := fmt.Sprintf("adaptive_sampling: {policy: [%q]}", policy), fmt.Sprintf("adaptive_sampling: {policy: [%q], storage: file_storage}", policy)
	return map[string]pipeline{
		"none":          {"otlp", ""},
		"probabilistic": {"otlp", fmt.Sprintf("probabilistic_sampler: {sampling_percentage: %d}", percent)},
		"tail": {"otlp", fmt.Sprintf(`tail_sampling: {decision_wait: 5s, num_traces: 2000000, policies: [
    {name: errors, type: status_code, status_code: {status_codes: [ERROR]}},
    {name: slow, type: latency, latency: {threshold_ms: 1000}},
    {name: rate, type: probabilistic, probabilistic: {sampling_percentage: %d}}]}`, percent)},
		"stateless":      {"otlp_lazy", span},
		"stateless-otlp": {"otlp", span},
		"whole":          {"otlp_lazy", span}, // the documents say that traces are held
		"whole-otlp":     {"otlp", span},
		"whole-stored":   {"otlp_lazy", stored},
	}
}

const config = `
receivers:
  %s: {protocols: {grpc: {endpoint: "%s", max_recv_msg_size_mib: 16}}}
processors: {%s}
exporters: {nop: }
extensions:
  file_storage: {directory: "%s"}
  pprof: {endpoint: "%s"}
service:
  extensions: [file_storage, pprof]
  telemetry: {metrics: {level: none}, logs: {level: error}}
  pipelines:
    traces: {receivers: [%s], processors: [%s], exporters: [nop]}
`

// collector is a process that takes spans.
type collector struct {
	process *exec.Cmd
	address string
	pprof   string
	folder  string
}

func startCollector(ctx context.Context, o options, name string) (*collector, error) {
	folder, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	c := &collector{folder: folder}
	policy := filepath.Join(folder, "policy.yaml")
	text := fmt.Sprintf("kind: Sampling\nmetadata: {name: default}\nspec:\n  classes: {default: %d}\n", o.percent)
	if strings.HasPrefix(name, "whole") {
		text += "  keep: {errors: true, slowerThan: 1s}\n  wait: 5s\n"
	}
	p, known := pipelines(policy, o.percent)[name]
	if !known {
		return c, fmt.Errorf("no such pipeline")
	}
	if c.address, err = servers.FreeAddress(ctx); err != nil {
		return c, err
	}
	if c.pprof, err = servers.FreeAddress(ctx); err != nil {
		return c, err
	}
	kind, _, _ := strings.Cut(p.processor, ":")
	cfg := filepath.Join(folder, "config.yaml")
	files := map[string]string{policy: text, cfg: fmt.Sprintf(config, p.receiver, c.address, p.processor, folder, c.pprof, p.receiver, kind)}
	for file, text := range files {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return c, err
		}
	}
	command := []string{o.binary, "--config", cfg}
	if o.core != "" {
		command = append([]string{"taskset", "-c", o.core}, command...)
	}
	c.process = exec.CommandContext(ctx, command[0], command[1:]...)
	c.process.Stderr = os.Stderr
	c.process.Env = append(os.Environ(), "GOMAXPROCS="+procs(o.core))
	return c, c.process.Start()
}

// procs is one where there is one core: Go asks the machine when it starts, and taskset has told it by then.
func procs(core string) string {
	if core == "" {
		return ""
	}
	return strconv.Itoa(len(strings.Split(core, ",")))
}

// ready returns when it takes connections.
func (c *collector) ready(ctx context.Context) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.address)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("it does not listen on %s", c.address)
}

// profile writes where the collector's CPU time goes for so long.
func (c *collector) profile(ctx context.Context, length time.Duration, file string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", c.pprof, int(length.Seconds()))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func (c *collector) stop() {
	if c.process != nil && c.process.Process != nil {
		_ = c.process.Process.Kill()
		_ = c.process.Wait()
	}
	_ = os.RemoveAll(c.folder)
}

// cpu is the time that the process has used, and resident the memory that it has now.
func (c *collector) usage() (cpu time.Duration, resident int64) {
	folder := "/proc/" + strconv.Itoa(c.process.Process.Pid)
	if stat, err := os.ReadFile(folder + "/stat"); err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			cpu = time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	if statm, err := os.ReadFile(folder + "/statm"); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			resident = pages * int64(os.Getpagesize())
		}
	}
	return cpu, resident
}
