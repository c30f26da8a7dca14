package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/machinenativeops/weir/internal/catalog"
	"github.com/machinenativeops/weir/policy/source"
)

const fleetSize = 10_000

var quiet = slog.New(slog.DiscardHandler)

// fleetService is a service with its Route, and a limit for one in ten.
func fleetService(i, endpoint, weight int) string {
	service := catalog.Service(i, endpoint, weight)
	if i%10 == 0 {
		service += "      rateLimit: {requests: 100, per: second}\n"
	}
	return service
}

func fleetGateway(port int) string {
	return fmt.Sprintf("kind: Gateway\nmetadata: {name: edge}\nspec: {listeners: [{name: http, port: %d}]}\n", port)
}

// fleetOnDisk is a directory of many services, so many in a file.
type fleetOnDisk struct {
	testing.TB
	dir   string
	each  int
	files map[string][]string // documents
}

func newFleetOnDisk(tb testing.TB, services, each int) *fleetOnDisk {
	f := &fleetOnDisk{TB: tb, dir: tb.TempDir(), each: each, files: make(map[string][]string)}
	for i := range services {
		f.files[f.fileOf(i)] = append(f.files[f.fileOf(i)], fleetService(i, 1, 90))
	}
	for name := range f.files {
		f.write(name)
	}
	f.files[f.gateway()] = []string{fleetGateway(8080)}
	f.write(f.gateway())
	return f
}

func (f *fleetOnDisk) fileOf(i int) string {
	return filepath.Join(f.dir, fmt.Sprintf("team%02d", i*16/fleetSize), fmt.Sprintf("s%05d.yaml", i/f.each))
}

func (f *fleetOnDisk) gateway() string { return filepath.Join(f.dir, "edge.yaml") }

// write puts a file in its place whole, as editors do.
func (f *fleetOnDisk) write(name string) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		f.Fatal(err)
	}
	next := filepath.Join(f.dir, ".next")
	if err := os.WriteFile(next, []byte(strings.Join(f.files[name], "---\n")), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Rename(next, name); err != nil {
		f.Fatal(err)
	}
}

// service gives a service other documents.
func (f *fleetOnDisk) service(i int, text string) {
	name := f.fileOf(i)
	if at := i % f.each; at < len(f.files[name]) {
		f.files[name][at] = text
	} else {
		f.files[name] = append(f.files[name], text)
	}
	f.write(name)
}

// cpu is what the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of itself, it always says
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStart: 10,000 services with a Route each, from files on disk to what proxies are served, for the first time.
// What is to move it: YAML.
func BenchmarkStart(b *testing.B) {
	f := newFleetOnDisk(b, fleetSize, 1)
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		set, problems, err := source.New([]string{f.dir}, quiet).Load()
		if err != nil || len(problems) > 0 {
			b.Fatal(err, problems)
		}
		newTestPlane(b, quiet, prometheus.NewRegistry()).apply(source.Update{Set: set, Read: time.Now()}, time.Now())
	}
	b.ReportMetric(float64((cpu()-before).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// BenchmarkEdit: one edit of 10,000 services, from the file that is in its place until a snapshot with it is served, limits
// are in force and warnings and status are up to date. The time is from seeing the change on: what is waited for before
// more changes is wait-ms, and the CPU time of all of the process, with writing the file, is cpu-ms. What is to move it:
// work that grows with all services.
func BenchmarkEdit(b *testing.B) {
	for _, each := range []int{1, 100} {
		for _, one := range []struct {
			what string
			edit func(f *fleetOnDisk, round int)
		}{
			{"endpoint", func(f *fleetOnDisk, round int) { f.service(fleetSize/2, fleetService(fleetSize/2, 1+round%250, 90)) }},
			{"weight", func(f *fleetOnDisk, round int) { f.service(fleetSize/2+1, fleetService(fleetSize/2+1, 1, 1+round)) }},
			{"service", func(f *fleetOnDisk, round int) { f.service(fleetSize+round, fleetService(fleetSize+round, 1, 90)) }},
			{"gateway", func(f *fleetOnDisk, round int) {
				f.files[f.gateway()] = []string{fleetGateway(8000 + round%100)}
				f.write(f.gateway())
			}},
		} {
			b.Run(fmt.Sprintf("%s/%d-a-file", one.what, each), func(b *testing.B) { benchmarkEdit(b, newFleetOnDisk(b, fleetSize, each), one.edit) })
		}
	}
}

func benchmarkEdit(b *testing.B, f *fleetOnDisk, edit func(*fleetOnDisk, int)) {
	p := newTestPlane(b, quiet, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(b.Context())
	applied, ended := make(chan time.Duration), make(chan error)
	go func() {
		ended <- source.New([]string{f.dir}, quiet).Run(ctx, func(u source.Update) {
			p.apply(u, time.Now())
			applied <- time.Since(u.Read)
		})
	}()
	<-applied
	b.ReportAllocs()
	runtime.GC()
	var took, all time.Duration
	before, round := cpu(), 0
	for b.Loop() {
		round++
		at := time.Now()
		edit(f, round)
		took += <-applied
		all += time.Since(at)
		time.Sleep(220 * time.Millisecond) // what comes sooner is a burst
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds()*1e3/n, "seen-to-served-ms")
	b.ReportMetric(all.Seconds()*1e3/n, "saved-to-served-ms")
	b.ReportMetric(float64((cpu()-before).Microseconds())/1e3/n, "cpu-ms")
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

// TestEditsLeaveNothingBehind: what is kept for the next edit, by anybody, is of the documents as they are, and not as they
// were: files that come and go, names that are never there again.
func TestEditsLeaveNothingBehind(t *testing.T) {
	f := newFleetOnDisk(t, 40, 1)
	s, p, round := source.New([]string{f.dir}, quiet), newTestPlane(t, quiet, prometheus.NewRegistry()), 0
	heap := func() uint64 {
		for range 200 {
			round++
			f.service(round%40, fleetService(round%40, 1+round%250, 1+round))
			f.files[f.gateway()] = []string{fmt.Sprintf("kind: Gateway\nmetadata: {name: edge%d}\nspec: {listeners: [{name: l%d, port: 80}]}\n", round/2, round)}
			f.write(f.gateway())
			extra := filepath.Join(f.dir, "extra.yaml")
			f.files[extra] = []string{fleetService(fleetSize+10*round, 1, 90)}
			f.write(extra)
			set, problems, err := s.Load()
			if err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
			p.apply(source.Update{Set: set, Read: time.Now()}, time.Now())
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	if after := heap(); after > before+before/4 {
		t.Errorf("200 rounds of edits more leave %d bytes where there were %d", after, before)
	}
	runtime.KeepAlive(p)
}
