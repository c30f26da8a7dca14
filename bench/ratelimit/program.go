package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/machinenativeops/weir/internal/servers"
)

// document is a policy with one limit for each service, as a line of YAML says it. Of every second one onError is deny.
func document(limit string) []byte {
	out := []byte("apiVersion: weir.dev/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {address: 127.0.0.1, listeners: [{name: http, port: 8080, protocol: http}]}\n")
	for n := range services {
		out = fmt.Appendf(out, `---
apiVersion: weir.dev/v1
kind: Service
metadata: {name: service-%[1]d, namespace: shop}
spec: {hosts: [service-%[1]d.example.com], endpoints: {static: [{address: 127.0.0.1, port: 9000}]}}
---
apiVersion: weir.dev/v1
kind: RateLimit
metadata: {name: service-%[1]d, namespace: shop}
spec: {service: service-%[1]d, onError: %[2]s, limits: [%[3]s]}
`, n, []string{"deny", "allow"}[n%2], limit)
	}
	return out
}

// denies is whether onError is deny for a service.
func denies(n int) bool { return n%2 == 0 }

// buildProgram builds weir in a folder.
func buildProgram(dir string) (path string, err error) {
	root, err := servers.Root()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-o", path, "./cmd/weir")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build weir: %w", err)
	}
	return path, nil
}

// startProgram starts "weir ratelimit" with a policy of [document].
func (s *server) startProgram(program, dir, limit string, args ...string) error {
	ctx := context.Background()
	policy := filepath.Join(dir, "policy.yaml")
	err := os.WriteFile(policy, document(limit), 0o600)
	if err != nil {
		return err
	}
	if s.address, err = servers.FreeAddress(ctx); err != nil {
		return err
	}
	address, err := servers.FreeAddress(ctx)
	if err != nil {
		return err
	}
	s.http = "http://" + address
	p, err := servers.Start(servers.Command{
		Name: "weir", Path: program, Log: filepath.Join(dir, "weir.log"),
		Args: append([]string{"ratelimit", "--policy", policy, "--address", s.address, "--http-address", address}, args...),
	})
	if err != nil {
		return err
	}
	s.end = append([]func(){p.Stop}, s.end...)
	s.pid = p.PID()
	return p.WaitHTTP(ctx, s.http+"/readyz")
}

// told is what weir tells of its counters.
type told struct {
	RateLimit struct {
		Store struct {
			Keys, Capacity, Evictions uint64
			Remote                    struct{ Up bool }
		}
	}
}

func (s *server) status() (st told, err error) {
	resp, err := http.Get(s.http + "/api/v1/status")
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// goroutines are those of the program, 0 if it does not tell.
func (s *server) goroutines() (n int) {
	if s.http == "" {
		return 0
	}
	resp, err := http.Get(s.http + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var text strings.Builder
	if err := resp.Write(&text); err != nil {
		return 0
	}
	_, after, _ := strings.Cut(text.String(), "\ngo_goroutines ")
	_, _ = fmt.Sscan(after, &n)
	return n
}
