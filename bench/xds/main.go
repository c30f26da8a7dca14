// Command xds measures what it costs control planes to serve a fleet of proxies: Weir's, as `weir serve` has it from
// documents on, beside go-control-plane's caches and Istio's control plane, each in a process of its own, with the same
// services.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/xds"
)

func main() {
	var (
		role     = flag.String("role", "", "internal: the control plane to be")
		services = flag.Int("services", 1000, "services, each with a route")
		proxies  = flag.Int("proxies", 1000, "proxies, each of which uses all services")
		rounds   = flag.Int("rounds", 5, "how often a change is made; the median round is told")
		planes   = flag.String("planes", "weir,linear,snapshot", "control planes; another is istio, which is built when it is first asked for, for minutes")
		steps    = flag.String("steps", "first,storm,route,flap,percent,all,stuck", "what is measured, in this order")
		profiles = flag.String("profiles", "", "a folder for CPU and heap profiles of each step's control plane")
		pings    = flag.Bool("pings", false, "clients ping with each message, as gRPC libraries do and Envoys do not")
		patience = flag.Duration("patience", 2*time.Minute, "how long a step may take")
	)
	flag.Parse()
	if *role != "" {
		if err := runServer(*role, *services, *proxies); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	fmt.Printf("%d services, %d proxies that use all of them, %s\n\n", *services, *proxies, time.Now().UTC().Format(time.DateOnly))
	fmt.Printf("%-9s %-9s %9s %9s %9s %9s %9s %9s %10s %9s\n", "plane", "step", "first", "p50", "p99", "last", "cpu s", "MB sent", "resident", "a proxy")
	failed := false
	for _, plane := range strings.Split(*planes, ",") {
		b := bench{plane: plane, services: *services, proxies: *proxies, rounds: *rounds, patience: *patience, profiles: *profiles, pings: *pings}
		if err := b.run(strings.Split(*steps, ",")); err != nil {
			fmt.Printf("%-9s %v\n", plane, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// bench measures one control plane.
type bench struct {
	plane             string
	services, proxies int
	rounds            int
	patience          time.Duration
	profiles          string // folder; "" is none
	pings             bool   // of clients

	server *server
	fleet  *fleet
	ctx    context.Context
	cancel context.CancelFunc
	base   float64 // resident MB before the first proxy

	mu       sync.Mutex
	versions map[string]map[string]string // what the first proxy was sent, by type and name
	start    time.Time
	arrived  []time.Duration // of each proxy's last awaited response
	await    map[string]int  // by type, resources that each proxy is to be sent
	got      []map[string]int
	left     int
	all      chan struct{}
}

func (b *bench) run(steps []string) (err error) {
	if b.server, err = startServer(b.plane, b.services, b.proxies); err != nil {
		return err
	}
	defer func() { b.server.stop() }()
	b.base = b.server.resident()
	b.newFleet()
	defer func() { b.cancel(); b.fleet.ended.Wait() }()
	for _, step := range steps {
		if err := b.profile("-"); err != nil {
			return err
		}
		if err := b.step(step); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if err := b.profile(filepath.Join(b.profiles, b.plane+"-"+step)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) profile(path string) error {
	if b.profiles == "" {
		return nil
	}
	return b.server.tell("profile %s", path)
}

func (b *bench) newFleet() {
	b.fleet = &fleet{address: b.server.address, services: b.services, virtual: b.plane == "weir", istio: b.plane == istio, pings: b.pings, on: b.take, versions: b.versions}
	b.ctx, b.cancel = context.WithCancel(context.Background())
}

// expect makes each proxy wait for resources of types.
func (b *bench) expect(await map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.await, b.left, b.all = await, b.proxies, make(chan struct{})
	if b.fleet.stuck.Load() {
		b.left -= b.proxies / 10
	}
	b.arrived, b.got = make([]time.Duration, b.proxies), make([]map[string]int, b.proxies)
	b.start = time.Now()
}

func (b *bench) take(proxy int, s *seen) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, version := range s.versions {
		if b.versions[s.kind] == nil {
			b.versions[s.kind] = make(map[string]string)
		}
		b.versions[s.kind][name] = version
	}
	if b.await[s.kind] == 0 || b.arrived[proxy] != 0 {
		return
	}
	if b.got[proxy] == nil {
		b.got[proxy] = make(map[string]int)
	}
	b.got[proxy][s.kind] += s.resources
	for kind, n := range b.await {
		if b.got[proxy][kind] < n {
			return
		}
	}
	b.arrived[proxy] = time.Since(b.start)
	if b.left--; b.left == 0 {
		close(b.all)
	}
}

const settle = 100 * time.Millisecond

var errPatience = errors.New("not all proxies were served in time")

func (b *bench) wait() error {
	select {
	case <-b.all:
		return nil
	case <-time.After(b.patience):
		b.mu.Lock()
		defer b.mu.Unlock()
		return fmt.Errorf("%w: %d of %d were not", errPatience, b.left, b.proxies)
	}
}

func (b *bench) step(step string) error {
	routes := func(services int) map[string]int {
		return map[string]int{b.fleet.routes(): b.fleet.resources(services)}
	}
	switch step {
	case "first":
		return b.measure(step, 1, routes(b.services), nil, func() error {
			b.versions = make(map[string]map[string]string)
			b.connect()
			return nil
		})
	case "storm":
		// The control plane is another process, and all come back at once. They are back when an edit reaches them.
		b.cancel()
		b.fleet.ended.Wait()
		b.server.stop()
		var err error
		if b.server, err = startServer(b.plane, b.services, b.proxies); err != nil {
			return err
		}
		if err := b.profile("-"); err != nil {
			return err
		}
		b.newFleet()
		return b.measure(step, 1, routes(1), b.edit("route %d 1 %d", b.services/3, 7), func() error {
			b.connect()
			return b.apply()
		})
	case "flap":
		return b.measure(step, 50, map[string]int{xds.EndpointType: 1}, b.edit("endpoint %d %d", 1, 9000), b.apply)
	case "stuck":
		b.fleet.stuck.Store(true)
		return b.measure(step, 20, routes(b.services), b.edit("route 0 %d %d", b.services, 70), b.apply)
	case "route":
		return b.measure(step, b.rounds, routes(1), b.edit("route %d 1 %d", b.services/2, 10), b.apply)
	case "percent":
		n := max(1, b.services/100)
		return b.measure(step, b.rounds, routes(n), b.edit("route 0 %d %d", n, 30), b.apply)
	case "all":
		return b.measure(step, b.rounds, routes(b.services), b.edit("route 0 %d %d", b.services, 50), b.apply)
	}
	return fmt.Errorf("no step %q", step)
}

func (b *bench) connect() {
	b.fleet.prepare()
	b.fleet.connect(b.ctx, 0, b.proxies)
}

// edit makes an edit of each round, not yet in force; each round has another value.
func (b *bench) edit(format string, n, value int) func(round int) error {
	return func(round int) error { return b.server.tell(format, n, value+round) }
}

func (b *bench) apply() error { return b.server.tell("apply") }

// measure makes a change some times, and tells of the median round. The edit (nil: there is none) is made before the clock
// starts.
func (b *bench) measure(step string, rounds int, await map[string]int, edit func(round int) error, change func() error) error {
	type result struct{ first, p50, p99, last, cpu, sent float64 }
	var results []result
	for round := range rounds {
		if edit != nil {
			if err := edit(round); err != nil {
				return err
			}
		}
		b.expect(await)
		cpu, sent := b.server.cpu(), b.fleet.bytes.Load()
		if err := change(); err != nil {
			return err
		}
		if err := b.wait(); err != nil {
			return err
		}
		time.Sleep(settle) // what is done after the last answer is counted too
		b.mu.Lock()
		arrived := slices.DeleteFunc(slices.Clone(b.arrived), func(d time.Duration) bool { return d == 0 })
		b.mu.Unlock()
		slices.Sort(arrived)
		at := func(share float64) float64 { return arrived[int(share*float64(len(arrived)-1))].Seconds() * 1000 }
		results = append(results, result{at(0), at(0.5), at(0.99), at(1), b.server.cpu() - cpu, float64(b.fleet.bytes.Load()-sent) / 1e6})
	}
	if n := b.fleet.errors.Load(); n > 0 {
		return fmt.Errorf("%d streams broke", n)
	}
	slices.SortFunc(results, func(x, y result) int { return int(1e3 * (x.last - y.last)) })
	r := results[len(results)/2]
	resident := b.server.resident()
	fmt.Printf("%-9s %-9s %6.0f ms %6.0f ms %6.0f ms %6.0f ms %9.2f %9.1f %7.0f MB %6.0f KB\n", b.plane, step, r.first, r.p50, r.p99, r.last, r.cpu, r.sent,
		resident, 1000*(resident-b.base)/float64(b.proxies))
	return nil
}

// server is a control plane's process.
type server struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	address string
	folder  string // of its own
}

const istio = "istio"

func startServer(plane string, services, proxies int) (*server, error) {
	folder, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{folder: folder}
	if err := s.start(plane, services, proxies); err != nil {
		_ = os.RemoveAll(folder)
		return nil, fmt.Errorf("start %s: %w", plane, err)
	}
	return s, nil
}

func (s *server) start(plane string, services, proxies int) (err error) {
	if s.cmd, err = s.command(plane, services, proxies); err != nil {
		return err
	}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.out = bufio.NewScanner(out)
	if !s.out.Scan() {
		s.stop()
		return errEnded
	}
	s.address = s.out.Text()
	return nil
}

var errEnded = errors.New("the control plane ended")

// command is this program in another role, or Istio's.
func (s *server) command(plane string, services, proxies int) (*exec.Cmd, error) {
	if plane == istio {
		path, err := servers.Tool(istio)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(path, strconv.Itoa(services), s.folder)
		// It has no certificates to sign, and would take 25 proxies a second: what it can do is what is measured.
		cmd.Env = append(os.Environ(), "ENABLE_CA_SERVER=false", "PILOT_MAX_REQUESTS_PER_SECOND=1000000")
		return cmd, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(self, "-role", plane, "-services", strconv.Itoa(services), "-proxies", strconv.Itoa(proxies)), nil
}

func (s *server) stop() {
	_ = s.in.Close()
	_ = s.cmd.Process.Kill() // it has nothing to lose
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.folder)
}

// tell gives a command, and waits until it is done.
func (s *server) tell(format string, args ...any) error {
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		return err
	}
	if !s.out.Scan() {
		return errEnded
	}
	return nil
}

// cpu is the process's CPU time so far, in seconds.
func (s *server) cpu() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	user, _ := strconv.ParseFloat(fields[12], 64)
	system, _ := strconv.ParseFloat(fields[13], 64)
	return (user + system) / 100
}

// resident is the process's resident memory in MB, after it has given back what it does not use.
func (s *server) resident() float64 {
	if err := s.tell("collect"); err != nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kb / 1000
}
