package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/policy/source"
)

const tour = "../../examples/tour"

// TestMain is weir itself where a test runs it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("WEIR_TEST_RUNS_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is weir as a process.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "WEIR_TEST_RUNS_MAIN=1")
	return cmd
}

func TestExitCodes(t *testing.T) {
	broken := file(t, "kind: Service\nmetadata: {name: x}\nspec: {portt: 1}\n")
	free := freeAddress(t)
	for _, c := range []struct {
		args   string
		code   int
		stderr string // a part of it
	}{
		{"--version", 0, ""},
		{"help", 0, ""},
		{"validate " + tour, 0, ""},
		{"render " + tour + " --gateway edge", 0, ""},
		{"bootstrap --gateway edge", 0, ""},

		{"validate " + broken, exitRefused, broken + `:3:8: Service x: spec.portt: unknown field (did you mean "port"?)`},
		{"render " + broken + " --service x", exitRefused, `did you mean "port"?`},

		{"nosuch", exitUsage, `unknown command "nosuch"`},
		{"validate", exitUsage, "PATH is missing"},
		{"validate --nosuch " + tour, exitUsage, "`weir validate --help` lists the flags"},
		{"validate --output yaml " + tour, exitUsage, "--output yaml: want text or json"},
		{"render --gateway edge", exitUsage, "PATH is missing"},
		{"render " + tour, exitUsage, "want exactly one of --gateway NAME and --service NAMESPACE/NAME, or of bootstrap and render --grpc NAME"},
		{"render " + tour + " --gateway edge --grpc web", exitUsage, "want exactly one of"},
		{"bootstrap --grpc web --admin 127.0.0.1:1", exitUsage, "--admin is Envoy's"},
		{"render " + tour + " --gateway edge --service shop/checkout", exitUsage, "exactly one of"},
		{"render " + tour + " --gateway edge --output text", exitUsage, "want yaml or json"},
		{"bootstrap", exitUsage, "exactly one of"},
		{"bootstrap --gateway Edge", exitUsage, "--gateway Edge: want [NAMESPACE/]NAME"},
		{"bootstrap --service a/b/c", exitUsage, "--service a/b/c: want [NAMESPACE/]NAME"},
		{"bootstrap --gateway edge extra", exitUsage, "extra"},
		{"bootstrap --gateway edge --xds 18000", exitUsage, `--xds "18000": want HOST:PORT`},
		{"bootstrap --gateway edge --xds host:0", exitUsage, `--xds "host:0": want HOST:PORT`},
		{"bootstrap --gateway edge --peers edge", exitUsage, `--peers "edge": want HOST:PORT`},
		{"bootstrap --gateway edge --peers edge:1,edge-2:1", exitUsage, "--peers edge:1: want one name"},
		{"bootstrap --grpc web --peers 127.0.0.1:1", exitUsage, "--peers is of Envoys"},
		{"bootstrap --gateway edge --admin :9901", exitUsage, `--admin ":9901": want HOST:PORT`},
		{"bootstrap --gateway edge --node-id gateway~other~1", exitUsage, "weir serve would turn it away"},
		{"status --output yaml", exitUsage, "want text or json"},
		{"serve", exitUsage, "--policy PATH is missing"},
		{"ratelimit", exitUsage, "--config PATH"},
		{"ratelimit --config /nowhere --address 127.0.0.1:0 --http-address 127.0.0.1:0", exitRefused, "stat /nowhere"},
		{"ratelimit --config /nowhere --keys -1", exitUsage, "--keys: want a number from 0"},
		{"ratelimit --config-xds manager", exitUsage, "--config-xds manager: want HOST:PORT"},
		{"ratelimit --config-xds 10.0.0.1:18000", exitUsage, "--config-xds-ca"},
		{"ratelimit check domain=shop user=bob", exitUsage, "want one descriptor, in quotes"},
		{"serve --policy " + tour + " --log-level loud", exitUsage, "want debug, info, warn or error"},
		{"serve --policy " + tour + " --log-format xml", exitUsage, "want auto, text or json"},
		{"validate " + tour + " --config /nowhere.yaml", exitUsage, "--config: open /nowhere.yaml"},

		{"validate " + t.TempDir(), exitFailed, "no documents: a directory's are in its files that end in .yaml or .yml"},
		{"validate " + file(t, "kind: Mesh\nmetadata: {name: m}\n"), 0, ""},
		{"validate /nowhere", exitFailed, "read policy: stat /nowhere: no such file or directory"},
		{"render " + tour + " --gateway nobody", exitFailed, "gateway nobody: no document of that kind and name"},
		{"status --http-address " + free, exitFailed, "is it running?"},
		{"serve --policy /nowhere --xds-address 127.0.0.1:0 --ratelimit-address 127.0.0.1:0 --http-address 127.0.0.1:0 --log-level error", exitFailed, "read policy: stat /nowhere"},
	} {
		stdout, stderr, code := weir(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" {
			t.Errorf("weir %s: exit %d, want %d; it says %q, want %q", c.args, code, c.code, stderr, c.stderr)
		}
		if code != 0 && stdout != "" {
			t.Errorf("weir %s: fails with output %q", c.args, stdout)
		}
	}
}

// TestExitCodesOfTheProcess: what a shell sees.
func TestExitCodesOfTheProcess(t *testing.T) {
	for args, want := range map[string]int{
		"validate " + tour: 0, "validate " + file(t, "kind: Servic"): exitRefused, "validate": exitUsage, "validate /nowhere": exitFailed,
	} {
		cmd := process(t, strings.Fields(args)...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("weir %s: exit %d (%v), want %d\n%s", args, code, err, want, out)
		}
	}
}

const twelveMistakes = `kind: Sevrice
metadata: {name: a}
---
kind: Service
metadata: {name: Not_A_Name}
spec: {endpoints: {static: [{address: 127.0.0.1, port: 80}]}}
---
kind: Service
metadata: {name: b}
spec: {endpoints: {static: [{address: nowhere, port: 80}]}}
---
kind: Service
metadata: {name: c}
spec:
  timeout: soon
  endpoints: {static: [{address: 127.0.0.1, port: 99999}]}
---
kind: Route
metadata: {name: d, namespace: shop}
spec: {service: chekout, rules: [{name: all}]}
---
kind: Route
metadata: {name: e, namespace: shop}
spec: {service: checkout, rules: [{name: all, to: [{version: v3}, {wieght: 3}]}]}
---
kind: RateLimit
metadata: {name: f, namespace: shop}
spec: {service: checkout, limits: [{requests: 10, per: fortnight}]}
---
kind: Sampling
metadata: {name: default}
spec: {classes: {main: 120}}
---
kind: Access
metadata: {name: g}
---
kind: Gateway
metadata: {name: h}
spec: {listeners: [{name: http, port: 8081, protocol: http}, {name: http, port: 8082}]}
`

// TestValidateTellsAllMistakes: each once, with its place.
func TestValidateTellsAllMistakes(t *testing.T) {
	mistaken := file(t, twelveMistakes)
	stdout, stderr, code := weir(t, "validate", tour, mistaken)
	if code != exitRefused || stdout != "" {
		t.Errorf("exit %d, output %q", code, stdout)
	}
	place := regexp.MustCompile(`^` + regexp.QuoteMeta(mistaken) + `:[1-9]\d*:[1-9]\d*: .+: .+`)
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if n := len(lines) - 1; n != 12 || !strings.HasPrefix(lines[n], "12 errors") {
		t.Errorf("%d lines before the last:\n%s", n, stderr)
	}
	for _, line := range lines[:len(lines)-1] {
		if !place.MatchString(line) {
			t.Errorf("no place in %q", line)
		}
	}
	stdout, stderr, code = weir(t, "validate", "--output", "json", tour, mistaken)
	var got struct {
		Valid    bool
		Problems []struct {
			File, Path, Message string
			Line, Column        int
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitRefused || stderr != "" || got.Valid || len(got.Problems) != 12 {
		t.Errorf("exit %d, %v %s%s", code, err, stdout, stderr)
	}
	for _, p := range got.Problems {
		if p.File != mistaken || p.Line == 0 || p.Column == 0 || p.Message == "" {
			t.Errorf("%+v", p)
		}
	}
}

// TestExamplesAreValid, without a warning.
func TestExamplesAreValid(t *testing.T) {
	examples, err := filepath.Glob("../../examples/*")
	if err != nil || len(examples) == 0 {
		t.Fatal(examples, err)
	}
	for _, dir := range examples {
		if _, stderr, code := weir(t, "validate", "--strict", dir); code != 0 {
			t.Errorf("%s: exit %d\n%s", dir, code, stderr)
		}
	}
}

// TestSettings: each flag of each command is the same setting in the environment and in the file, and the nearer wins.
func TestSettings(t *testing.T) {
	samples := map[string][2]string{"string": {"near", "far"}, "stringSlice": {"near,by", "far,away"}, "stringArray": {"near", "far"}, "bool": {"true", "true"}, "int": {"1", "2"}, "duration": {"1s", "2s"}, "float64": {"0.5", "0.25"}}
	for _, command := range newRoot().Commands() {
		if len(command.Commands()) > 0 || command.Name() == "help" {
			continue
		}
		command.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name == helpFlag || f.Name == configFlag && ownConfig(command) {
				return
			}
			sample, ok := samples[f.Value.Type()]
			if !ok {
				t.Fatalf("--%s is a %s: add a sample", f.Name, f.Value.Type())
			}
			near, far := sample[0], sample[1]
			given, env := "--"+f.Name+"="+near, "WEIR_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			line := func(value string) string { return "--config=" + file(t, f.Name+": "+value+"\n") }
			list := line(near)
			if strings.Contains(near, ",") {
				list = line("[" + near + "]")
			}
			for what, got := range map[string]string{
				"flag":                  setting(t, command.Name(), f.Name, "", "", given),
				"environment":           setting(t, command.Name(), f.Name, env, near),
				"file":                  setting(t, command.Name(), f.Name, "", "", line(near)),
				"list in the file":      setting(t, command.Name(), f.Name, "", "", list),
				"flag over environment": setting(t, command.Name(), f.Name, env, far, given),
				"flag over file":        setting(t, command.Name(), f.Name, "", "", given, line(far)),
				"environment over file": setting(t, command.Name(), f.Name, env, near, line(far)),
			} {
				if want := strings.ReplaceAll(near, ",", " "); got != want {
					t.Errorf("weir %s, --%s, %s: %q, want %q", command.Name(), f.Name, what, got, want)
				}
			}
		})
	}
}

// setting gives the value of a command's flag, without what a list is written in.
func setting(t *testing.T, command, flag, env, value string, args ...string) string {
	t.Helper()
	if env != "" {
		t.Setenv(env, value)
		defer func() { _ = os.Unsetenv(env) }() // for the next one of the same test
	}
	root, got := newRoot(), "the command did not run"
	cmd, _, err := root.Find([]string{command})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--config=") }); i >= 0 && ownConfig(cmd) {
		t.Setenv("WEIR_CONFIG", strings.TrimPrefix(args[i], "--config="))
		defer func() { _ = os.Unsetenv("WEIR_CONFIG") }()
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		got = cmd.Flags().Lookup(flag).Value.String()
		return nil
	}
	root.SetArgs(append([]string{command}, args...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Errorf("weir %s %v: %v", command, args, err)
	}
	return strings.NewReplacer("[", "", "]", "", ",", " ").Replace(got)
}

// TestConfigFileIsForAllCommands: lines of other commands' flags are passed over, and what no command knows is wrong.
func TestConfigFileIsForAllCommands(t *testing.T) {
	t.Setenv("WEIR_HELP", "yes please") // is no setting
	t.Setenv("WEIR_XDS_ADDRESS", "::")  // is not validate's
	t.Setenv("WEIR_CONFIG", file(t, "xds-address: 127.0.0.1:1\npolicy: [a, b]\nstrict: true\n"))
	if _, stderr, code := weir(t, "validate", file(t, doubtfulDocuments)); code != exitRefused || !strings.Contains(stderr, "1 warning") {
		t.Errorf("strict: exit %d\n%s", code, stderr)
	}
	for text, want := range map[string]string{
		"xds-addr: 127.0.0.1:1\n": "xds-addr: no command has such a flag",
		"help: true\n":            "help: no command has such a flag",
		"config: x\n":             "config: no command has such a flag",
		"strict: maybe\n":         `strict: invalid argument "maybe"`,
		"strict:\n":               "strict: want a value",
		"strict: {a: b}\n":        "strict: want a value",
		"strict\n":                "want FLAG: VALUE a line",
	} {
		config := file(t, text)
		_, stderr, code := weir(t, "validate", "--config", config, tour)
		if code != exitUsage || !strings.Contains(stderr, "--config "+config) || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit %d, %q, want %q", text, code, stderr, want)
		}
	}
	t.Setenv("WEIR_STRICT", "perhaps")
	if _, stderr, code := weir(t, "validate", tour); code != exitUsage || !strings.Contains(stderr, "environment variable WEIR_STRICT") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

// TestRender: the resources of a gateway and of a proxy beside a workload, the same in YAML and JSON.
func TestRender(t *testing.T) {
	for proxy, listener := range map[string]string{"--gateway=edge": "gateway/edge/http", "--service=shop/checkout": "outbound/shop/checkout"} {
		asYAML, stderr, code := weir(t, "render", tour, proxy)
		asJSON, _, _ := weir(t, "render", tour, proxy, "--output", "json")
		var fromYAML, fromJSON map[string]any
		// JSON is YAML, and read as such keeps its whole numbers.
		err := errors.Join(yaml.Unmarshal([]byte(asYAML), &fromYAML), yaml.Unmarshal([]byte(asJSON), &fromJSON))
		if err != nil || code != 0 || !json.Valid([]byte(asJSON)) {
			t.Fatalf("exit %d: %v %s", code, err, stderr)
		}
		if a, b := fmt.Sprint(fromYAML), fmt.Sprint(fromJSON); a != b {
			t.Errorf("%s: YAML and JSON differ:\n%s\n%s", proxy, a, b)
		}
		for _, want := range []string{"name: " + listener + "\n", "name: shop/checkout/v1\n", "cluster_name: shop/checkout/v2\n", "- checkout.example.com\n"} {
			if !strings.Contains(asYAML, want) {
				t.Errorf("%s: no %q in\n%s", proxy, want, asYAML)
			}
		}
	}
}

// TestEnvoyTakesTheBootstrap: whatever the flags.
func TestEnvoyTakesTheBootstrap(t *testing.T) {
	for _, args := range [][]string{
		{"--gateway", "edge"},
		{"--service", "shop/checkout", "--zone", "a", "--cluster", "east", "--admin", "127.0.0.1:9901", "--node-id", "checkout-7"},
		{"--gateway", "infra/edge", "--xds", "weir.infra:18000", "--node-id", "gateway~infra/edge~7"},
		{"--gateway", "edge", "--xds", "[::1]:18000", "--admin", "[::1]:9901"},
	} {
		stdout, stderr, code := weir(t, append([]string{"bootstrap"}, args...)...)
		if code != 0 {
			t.Errorf("%v: exit %d %s", args, code, stderr)
			continue
		}
		envoytest.Validate(t, []byte(stdout))
		var b struct {
			Node struct {
				ID, Cluster string
				Locality    struct{ Zone string }
				Metadata    struct {
					Weir struct{ Role, Name, Cluster string }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(stdout), &b); err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(args); i += 2 {
			got, ok := map[string]string{
				"--gateway": b.Node.Metadata.Weir.Name, "--service": b.Node.Metadata.Weir.Name, "--zone": b.Node.Locality.Zone,
				"--cluster": b.Node.Metadata.Weir.Cluster, "--node-id": b.Node.ID,
			}[args[i]]
			if ok && got != args[i+1] {
				t.Errorf("%s is %q, want %q", args[i], got, args[i+1])
			}
		}
	}
}

// TestLoopbackOnly: without TLS nobody else is listened to.
func TestLoopbackOnly(t *testing.T) {
	for _, flag := range []string{"--xds-address", "--ratelimit-address", "--http-address"} {
		for address, want := range map[string]string{
			"0.0.0.0:0": "loopback only", "[::]:0": "loopback only", "192.0.2.1:0": "loopback only", ":0": "loopback only",
			"localhost:0": "loopback only", "18000": "want HOST:PORT",
		} {
			args := []string{"serve", "--policy", tour, "--log-level", "error"}
			for _, other := range []string{"--xds-address", "--ratelimit-address", "--http-address"} {
				if other != flag {
					args = append(args, other, "127.0.0.1:0")
				}
			}
			_, stderr, code := weir(t, append(args, flag, address)...)
			if code != exitUsage || !strings.Contains(stderr, flag+" "+address+": ") || !strings.Contains(stderr, want) {
				t.Errorf("%s %s: exit %d, %q, want %q", flag, address, code, stderr, want)
			}
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := servers.FreeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// TestServeAndStatus: a weir from its start to its end, seen by `weir status` and over HTTP.
func TestServeAndStatus(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.yaml", cleanDocuments)
	xds, limits, http := freeAddress(t), freeAddress(t), freeAddress(t)
	serve := process(t, "serve", "--policy", dir, "--xds-address", xds, "--ratelimit-address", limits, "--http-address", http, "--log-format", "json")
	var log syncBuffer
	serve.Stderr = &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	t.Cleanup(func() { _ = serve.Process.Kill() })
	status := func(args ...string) (string, string, int) {
		return weir(t, append([]string{"status", "--http-address", http}, args...)...)
	}
	eventually(t, func() error { _, err := get(t, "http://"+http+"/readyz"); return err })
	for path, want := range map[string]string{
		"/healthz": "ok", "/metrics": `weir_policy_documents{kind="Service"} 1`, "/debug/pprof/": "goroutine", "/api/v1/status": `"Service": 1`,
	} {
		if body, err := get(t, "http://"+http+path); err != nil || !strings.Contains(body, want) {
			t.Errorf("%s: %v, want %q in %q", path, err, want, body)
		}
	}
	if out, stderr, code := status(); code != 0 || !strings.Contains(out, "1 service") || strings.Contains(out, "refused") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}

	write("bad.yaml", refusedDocuments[len(cleanDocuments):])
	eventually(t, func() error {
		if out, stderr, code := status(); code != exitRefused || !strings.Contains(out, "refused: 1 error") || !strings.Contains(out, "bad.yaml:") || stderr != "" {
			return fmt.Errorf("exit %d\n%s%s", code, out, stderr)
		}
		return nil
	})
	out, _, code := status("--output", "json")
	var report struct {
		Policy struct {
			Documents map[string]int
			Problems  []struct{ File, Message string }
		}
		XDS struct{ Proxies, Refused []any }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitRefused || len(report.Policy.Problems) != 1 || report.Policy.Documents["Service"] != 1 || report.XDS.Proxies == nil {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}

	if _, stderr, code := weir(t, "serve", "--policy", dir, "--xds-address", xds, "--log-level", "error"); code != exitFailed || !strings.Contains(stderr, "--xds-address: listen") {
		t.Errorf("a taken port: exit %d %s", code, stderr)
	}

	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !strings.Contains(log.String(), `"msg":"weir stopped"`) {
		t.Errorf("asked to end: %v\n%s", err, log.String())
	}
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

// TestServeKeepsLastGoodDocuments: a weir that is killed and starts again over a broken document serves its last good
// version, and says so.
func TestServeKeepsLastGoodDocuments(t *testing.T) {
	path, state := file(t, cleanDocuments), t.TempDir()
	life := func(want, env string, args ...string) string {
		t.Helper()
		http := freeAddress(t)
		serve := process(t, append([]string{
			"serve", "--policy", path, "--xds-address", freeAddress(t), "--ratelimit-address", freeAddress(t), "--http-address", http,
		}, args...)...)
		serve.Env = append(serve.Env, env)
		var log syncBuffer
		serve.Stderr = &log
		if err := serve.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = serve.Wait() // it is killed
			close(ended)
		}()
		t.Cleanup(func() {
			_ = serve.Process.Kill()
			<-ended
		})
		eventually(t, func() error {
			body, err := get(t, "http://"+http+"/api/v1/status")
			if err == nil && !strings.Contains(body, want) {
				err = fmt.Errorf("want %s in %s", want, body)
			}
			return err
		})
		if strings.HasSuffix(env, state) {
			eventually(t, func() error { _, err := os.Stat(filepath.Join(state, source.StateFile)); return err })
		}
		_ = serve.Process.Kill()
		return log.String()
	}
	life(`"Service": 1`, "WEIR_STATE="+state)
	if err := os.WriteFile(path, []byte(strings.Replace(cleanDocuments, "port: 80", "port: no", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{"WEIR_STATE=" + state, "STATE_DIRECTORY=" + state} {
		if log := life(`"Service": 1`, env); !strings.Contains(log, "last good version of before this start") {
			t.Errorf("it is not said:\n%s", log)
		}
	}
	life(`"Service": 0`, "WEIR_STATE=")
	life(`"Service": 0`, "STATE_DIRECTORY="+state, "--state=")
}

// TestReadmeShowsTheTour: what one reads is what one runs.
func TestReadmeShowsTheTour(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	documents, err := os.ReadFile(filepath.Join(tour, "checkout.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```yaml\n"+string(documents)+"```\n") {
		t.Error("examples/tour is another than the README's")
	}
	// The mistake that it shows.
	path := filepath.Join(t.TempDir(), "checkout.yaml")
	text := strings.Replace(string(documents), "{version: v2, weight: 10}", "{veri"+"son: v2, weight: 10}", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, _ := weir(t, "validate", path)
	if line, _, _ := strings.Cut(stderr, "\n"); !strings.Contains(string(readme), "\nexamples/tour/checkout.yaml"+strings.TrimPrefix(line, path)+"\n") {
		t.Errorf("the README shows another error than %s", line)
	}
}

// TestHelp: each command says what it does, and each of its flags too; the README names them all.
func TestHelp(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, command := range newRoot().Commands() {
		names = append(names, command.Name())
		if command.Name() != "help" && command.Name() != "completion" && !strings.Contains(string(readme), "| `weir "+command.Name()) {
			t.Errorf("the README has nothing of weir %s", command.Name())
		}
		stdout, stderr, code := weir(t, command.Name(), "--help")
		if code != 0 || stderr != "" || !strings.Contains(stdout, cmp.Or(command.Long, command.Short)) || !strings.Contains(stdout, "weir "+command.Name()) {
			t.Errorf("%s: exit %d\n%s%s", command.Name(), code, stdout, stderr)
		}
		command.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || !strings.Contains(stdout, "--"+f.Name) {
				t.Errorf("weir %s: nothing of --%s", command.Name(), f.Name)
			}
		})
	}
	if want := []string{"bootstrap", "diff", "render", "serve", "status", "validate"}; !isSubset(want, names) {
		t.Errorf("the commands are %v", names)
	}
	if stdout, _, code := weir(t); code != 0 || !strings.Contains(stdout, "--config FILE") {
		t.Errorf("weir alone: exit %d\n%s", code, stdout)
	}
}

func isSubset(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(s string) bool { return !slices.Contains(whole, s) })
}
