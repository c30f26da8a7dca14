package collector_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/machinenativeops/weir/internal/servers"
)

const (
	fleetBudget    = 200.0 // spans a second
	fleetDocuments = `
kind: Sampling
metadata: {name: default}
spec: {classes: {default: 100}, adaptive: {spansPerSecond: 200, min: 0, window: 2s}}
---
kind: Retention
metadata: {name: default}
spec: {archive: {bucket: "s3://traces/weir", endpoint: "http://127.0.0.1:1"}}
`
	keepsNothing = "exporters: {nop: }\nservice: {pipelines: {traces: {exporters: [nop]}}}\n"
)

// weirServe is a real weir serve.
type weirServe struct {
	http    string
	command servers.Command
	process *servers.Process
}

func newWeirServe(t *testing.T, policy string) *weirServe {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "weir")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/weir")
	build.Stderr = t.Output()
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 3)
	return &weirServe{http: "http://" + ports[2], command: servers.Command{Name: "weir", Path: binary, Args: []string{
		"serve", "--policy", policy, "--xds-address", ports[0], "--ratelimit-address", ports[1], "--http-address", ports[2],
	}}}
}

func (w *weirServe) start(t *testing.T) {
	t.Helper()
	w.process = servers.StartProcess(t, w.command)
	if err := w.process.WaitHTTP(t.Context(), w.http+"/readyz"); err != nil {
		t.Fatal(err)
	}
}

// shares gives the shares of the budget that Weir has told, in order of names; they are other names after a restart.
func (w *weirServe) shares(t *testing.T) (shares []float64) {
	t.Helper()
	var status struct {
		Sampling struct{ Budget []struct{ Share float64 } }
	}
	if text := get(t, w.http+"/api/v1/status"); text != "" {
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range status.Sampling.Budget {
		shares = append(shares, c.Share)
	}
	return shares
}

// member is a collector of the fleet, which throws away what it keeps, and in how many of ten rounds a batch goes to it.
type member struct {
	*collector
	batches int
}

func newMember(t *testing.T, policy, weir string, batches int, others ...string) member {
	t.Helper()
	c := newCollector(t, &servers.S3{}, policy)
	more := filepath.Join(t.TempDir(), "nop.yaml")
	text := keepsNothing
	if len(others) > 0 {
		text += fmt.Sprintf("extensions: {remote_sampling: {report: {others: [%q]}}}\n", strings.Join(others, `", "`))
	}
	if err := os.WriteFile(more, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.configs = append(c.configs, more)
	c.env = append(c.env, "WEIR_HTTP="+weir)
	c.start(t)
	return member{c, batches}
}

// budget is how many spans a second it may keep.
func (m member) budget(t *testing.T) float64 {
	t.Helper()
	return float64(m.metric(t, "otelcol_weir_sampling_budget(?:_[a-z_]+)?"))
}

func (m member) kept(t *testing.T) int {
	t.Helper()
	return m.metric(t, "otelcol_weir_sampling_spans(?:_total)?", `decision="kept"`)
}

// load sends batches to members, round by round, until stop is called.
func load(t *testing.T, members ...member) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	clients := make([]ptraceotlp.GRPCClient, len(members))
	for i, m := range members {
		clients[i] = m.client(t)
	}
	tasks.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			for i, m := range members {
				if n*m.batches%10 >= m.batches { // its turns are spread evenly
					continue
				}
				if _, err := clients[i].Export(ctx, ptraceotlp.NewExportRequestFromTraces(flood(n*len(members)+i))); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
			time.Sleep(10 * time.Millisecond) // which leaves the machine to the others
		}
	})
	stop = sync.OnceFunc(func() { cancel(); tasks.Wait() })
	t.Cleanup(stop)
	return stop
}

// flood is a batch of a hundred traces of one operation.
func flood(n int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "flood")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	for i := range 100 {
		s := spans.AppendEmpty()
		s.SetTraceID(traceID(100*n + i))
		s.SetSpanID(spanID(i))
		s.SetName("GET /flood")
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		s.SetEndTimestamp(s.StartTimestamp() + 1_000_000)
	}
	return td
}

// TestOneBudgetForTheFleet: real collectors that report to a real Weir keep one budget together, each its part by what comes
// to it; so it stays while Weir is away and when it comes back, and the share of one that dies is the others'.
func TestOneBudgetForTheFleet(t *testing.T) {
	policy := t.TempDir()
	if err := os.WriteFile(filepath.Join(policy, "policy.yaml"), []byte(fleetDocuments), 0o600); err != nil {
		t.Fatal(err)
	}
	weir := newWeirServe(t, policy)
	weir.start(t)
	fleet := []member{newMember(t, policy, weir.http, 6), newMember(t, policy, weir.http, 3), newMember(t, policy, weir.http, 1)}
	want := []float64{0.6, 0.3, 0.1}
	budgets := func() (all []float64, sum float64) {
		for _, m := range fleet {
			if m.process != nil {
				all = append(all, m.budget(t))
				sum += all[len(all)-1]
			}
		}
		return all, sum
	}
	stop := load(t, fleet...)
	eventually(t, 2*time.Minute, "each has its part of the budget", func() bool {
		all, sum := budgets()
		for i, b := range all {
			if math.Abs(b-want[i]*fleetBudget) > 0.05*fleetBudget {
				return false
			}
		}
		return math.Abs(sum-fleetBudget) < 0.05*fleetBudget
	})
	if shares := weir.shares(t); len(shares) != len(fleet) {
		t.Errorf("Weir tells of the shares %v", shares)
	}
	held := func(what string) {
		t.Helper()
		all, sum := budgets()
		if sum > 1.3*fleetBudget { // each was told at another time
			t.Errorf("%s, the budgets are %v", what, all)
		}
	}

	// So much is kept, and not three times as much.
	kept := func() (sum int) {
		for _, m := range fleet {
			sum += m.kept(t)
		}
		return sum
	}
	before, began := kept(), time.Now()
	time.Sleep(10 * time.Second)
	rate := float64(kept()-before) / time.Since(began).Seconds()
	t.Logf("together they keep %.0f spans a second", rate)
	if rate > 1.4*fleetBudget || rate < 0.2*fleetBudget { // less, where the machine has no time to send as many
		t.Errorf("together they keep %.0f spans a second, with a budget of %v", rate, fleetBudget)
	}
	held("while it was counted")

	// Weir dies: they keep their shares.
	if err := weir.process.Kill(); err != nil {
		t.Fatal(err)
	}
	refused := func(m member) int {
		return m.metric(t, "otelcol_extension_remote_sampling_reports(?:_total)?", `taken="false"`)
	}
	eventually(t, time.Minute, "they notice that Weir is away", func() bool {
		return refused(fleet[0]) > 2 && refused(fleet[1]) > 2 && refused(fleet[2]) > 2
	})
	held("while Weir is away")
	weir.start(t)
	eventually(t, time.Minute, "the new Weir knows all", func() bool { held("when Weir is back"); return len(weir.shares(t)) == len(fleet) })

	// The busiest dies, and the others have what it had.
	stop()
	fleet[0].kill(t)
	load(t, fleet[1:]...)
	eventually(t, 3*time.Minute, "the others have the share of the dead", func() bool {
		held("after one has died")
		_, sum := budgets()
		return math.Abs(sum-fleetBudget) < 0.05*fleetBudget
	})

	// A new one takes its part.
	fleet[0] = newMember(t, policy, weir.http, 6)
	eventually(t, time.Minute, "the new one shares the budget", func() bool {
		all, sum := budgets()
		return all[0] > 0 && all[0] < 0.5*fleetBudget && sum <= 1.05*fleetBudget
	})
	if t.Failed() {
		fmt.Fprintln(t.Output(), get(t, weir.http+"/api/v1/status"))
	}
}

// TestOneBudgetOfSeveralWeirs: real collectors that report to two real Weirs, which don't know each other, keep one budget, also
// when one Weir dies, a collector comes that it never heard of, and it is back while the other dies.
func TestOneBudgetOfSeveralWeirs(t *testing.T) {
	policy := t.TempDir()
	if err := os.WriteFile(filepath.Join(policy, "policy.yaml"), []byte(fleetDocuments), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := newWeirServe(t, policy), newWeirServe(t, policy)
	a.start(t)
	b.start(t)
	begin := func() member { return newMember(t, policy, a.http, 1, b.http) }
	fleet := []member{begin(), begin()}
	each := func(part float64) func() bool { // nobody needs anything, so that all have the same
		return func() bool {
			for _, m := range fleet {
				if math.Abs(m.budget(t)-part*fleetBudget) > 0.01*fleetBudget {
					return false
				}
			}
			return true
		}
	}
	knows := func(w *weirServe, n int) func() bool { return func() bool { return len(w.shares(t)) == n } }
	eventually(t, time.Minute, "each has its half", each(1.0/2))
	eventually(t, time.Minute, "both Weirs know both", func() bool { return knows(a, 2)() && knows(b, 2)() })
	if err := a.process.Kill(); err != nil {
		t.Fatal(err)
	}
	fleet = append(fleet, begin())
	eventually(t, time.Minute, "each has its third, by the Weir that is left", each(1.0/3))
	a.start(t)
	eventually(t, time.Minute, "the new Weir knows all", func() bool { return knows(a, 3)() && each(1.0/3)() })
	if err := b.process.Kill(); err != nil {
		t.Fatal(err)
	}
	refused := func() int {
		return fleet[0].metric(t, "otelcol_extension_remote_sampling_reports(?:_total)?", `taken="false"`)
	}
	before := refused()
	eventually(t, time.Minute, "it is noticed that a Weir is away", func() bool { return refused() > before })
	if !each(1.0 / 3)() {
		t.Error("they have another share when the Weir that was there before dies")
	}
}
