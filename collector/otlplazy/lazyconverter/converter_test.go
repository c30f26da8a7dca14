package lazyconverter

import (
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"
)

// convert gives `undecoded` of the receiver after conversion, and the rest of what it says.
func convert(t *testing.T, yaml, receiver string) (undecoded any, rest string, err error) {
	t.Helper()
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := retrieved.AsConf()
	if err != nil {
		t.Fatal(err)
	}
	err = NewFactory().Create(confmap.ConverterSettings{Logger: zap.NewNop()}).Convert(t.Context(), conf)
	undecoded = conf.Get("receivers::" + receiver + "::undecoded")
	conf.Delete("receivers::" + receiver + "::undecoded")
	return undecoded, fmt.Sprint(conf.Get("receivers::" + receiver)), err
}

// TestWhereItIsRight: a receiver hands requests on undecoded where all of its pipelines of traces take them so.
func TestWhereItIsRight(t *testing.T) {
	const sampled = "traces: {receivers: [otlp_lazy], processors: [adaptive_sampling, batch], exporters: [nop]}"
	for name, c := range map[string]struct {
		receiver, pipelines string
		want                any
	}{
		"sampled":                 {"otlp_lazy: {}", sampled, true},
		"null":                    {"otlp_lazy:", sampled, true},
		"memory_limiter before":   {"otlp_lazy:", "traces: {receivers: [jaeger, otlp_lazy], processors: [memory_limiter/a, adaptive_sampling/b], exporters: [nop]}", true},
		"counted":                 {"otlp_lazy:", "traces: {receivers: [otlp_lazy], processors: [memory_limiter], exporters: [red_metrics, red_metrics/2]}", true},
		"counted, null":           {"otlp_lazy:", "traces: {receivers: [otlp_lazy], processors: , exporters: [red_metrics]}", true},
		"counted and sampled":     {"otlp_lazy:", sampled + "\n    traces/red: {receivers: [otlp_lazy], exporters: [red_metrics]}", true},
		"logs besides":            {"otlp_lazy:", sampled + "\n    logs: {receivers: [otlp_lazy], processors: [batch], exporters: [nop]}", true},
		"another receiver's":      {"otlp_lazy:", sampled + "\n    traces/all: {receivers: [otlp], exporters: [nop]}", true},
		"another of its type":     {"otlp_lazy:", sampled + "\n    traces/all: {receivers: [otlp_lazy/2], exporters: [nop]}", true},
		"no traces":               {"otlp_lazy:", "logs: {receivers: [otlp_lazy], exporters: [nop]}", nil},
		"other processor first":   {"otlp_lazy:", "traces: {receivers: [otlp_lazy], processors: [batch, adaptive_sampling], exporters: [nop]}", nil},
		"other exporter besides":  {"otlp_lazy:", "traces: {receivers: [otlp_lazy], exporters: [red_metrics, nop]}", nil},
		"counted behind another":  {"otlp_lazy:", "traces: {receivers: [otlp_lazy], processors: [batch], exporters: [red_metrics]}", nil},
		"another pipeline is not": {"otlp_lazy:", sampled + "\n    traces/all: {receivers: [otlp_lazy], exporters: [nop]}", nil},
		"told not to":             {"otlp_lazy: {undecoded: false}", sampled, false},
		"told to":                 {"otlp_lazy: {undecoded: true}", sampled, true},
		"not a boolean":           {"otlp_lazy: {undecoded: yes please}", sampled, "yes please"},
		"of another type":         {"otlp_lazy: []", "traces: [otlp_lazy]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := convert(t, "receivers:\n  "+c.receiver+"\nservice:\n  pipelines:\n    "+c.pipelines+"\n", "otlp_lazy")
			if err != nil || got != c.want {
				t.Errorf("undecoded is %v (%v), want %v", got, err, c.want)
			}
		})
	}
}

// TestTheRestIsKept: nothing else that is said of a receiver changes.
func TestTheRestIsKept(t *testing.T) {
	got, rest, err := convert(t, `
receivers: {otlp_lazy: {protocols: {grpc: , http: {endpoint: "127.0.0.1:1"}}}}
service: {pipelines: {traces: {receivers: [otlp_lazy], processors: [adaptive_sampling], exporters: [nop]}}}
`, "otlp_lazy")
	if want := "map[protocols:map[grpc:<nil> http:map[endpoint:127.0.0.1:1]]]"; err != nil || got != true || rest != want {
		t.Errorf("%v, undecoded is %v, and the rest %s, want %s", err, got, rest, want)
	}
}

// TestNames: each receiver of the type is looked at by itself, and others are not.
func TestNames(t *testing.T) {
	const text = `
receivers: {otlp_lazy/a: , otlp_lazy/b: {protocols: {http: }}, otlp: }
service:
  pipelines:
    traces/a: {receivers: [otlp_lazy/a, otlp], processors: [adaptive_sampling], exporters: [nop]}
    traces/b: {receivers: [otlp_lazy/b], exporters: [nop]}
`
	for receiver, want := range map[string]any{"otlp_lazy/a": true, "otlp_lazy/b": nil, "otlp": nil} {
		if got, _, err := convert(t, text, receiver); err != nil || got != want {
			t.Errorf("%s: undecoded is %v (%v), want %v", receiver, got, err, want)
		}
	}
}

// TestWhereItIsWrong: who is told not to decode what a pipeline needs decoded does not start.
func TestWhereItIsWrong(t *testing.T) {
	_, _, err := convert(t, `
receivers: {otlp_lazy/a: {undecoded: true}}
service:
  pipelines:
    traces: {receivers: [otlp_lazy/a], processors: [adaptive_sampling], exporters: [nop]}
    traces/b: {receivers: [otlp_lazy/a], exporters: [nop]}
`, "otlp_lazy/a")
	if err == nil {
		t.Fatal("it is taken")
	}
	for _, part := range []string{"receivers::otlp_lazy/a::undecoded: ", "the pipeline traces/b ", "leave undecoded out"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// TestWithoutSections: what is not a whole configuration is left to the collector, which says what is missing.
func TestWithoutSections(t *testing.T) {
	for _, text := range []string{"", "receivers:", "receivers: {otlp: }", "service: {pipelines: {traces: }}", "receivers: 3\nservice: []"} {
		if got, _, err := convert(t, text, "otlp_lazy"); err != nil || got != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
