package lazyconverter

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/confmap"
)

// texts are documents that a configuration refers to.
type texts map[string]string

func (t texts) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	return confmap.NewRetrievedFromYAML([]byte(t[strings.TrimPrefix(uri, "at:")]))
}
func (texts) Scheme() string                 { return "at" }
func (texts) Shutdown(context.Context) error { return nil }

func resolve(t *testing.T, files texts) *confmap.Conf {
	r, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:               []string{"at:main"},
		ProviderFactories:  []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return files })},
		ConverterFactories: []confmap.ConverterFactory{NewFactory()},
	})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := r.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

// TestFromElsewhere: what references give counts, and is left as it is.
func TestFromElsewhere(t *testing.T) {
	const unfit = "{pipelines: {traces: {receivers: [otlp_lazy], processors: [adaptive_sampling], exporters: [nop]}, traces/all: {receivers: [otlp_lazy], exporters: [nop]}}}"
	const isFit = "{pipelines: {traces: {receivers: [otlp_lazy], processors: [adaptive_sampling], exporters: [nop]}}}"
	const own = "{protocols: {http: {endpoint: 'a:1'}}}"
	for name, c := range map[string]struct {
		files texts
		want  any
	}{
		"service":   {texts{"main": "receivers: {otlp_lazy: " + own + "}\nservice: ${at:s}", "s": unfit}, nil},
		"receiver":  {texts{"main": "receivers: {otlp_lazy: '${at:r}'}\nservice: " + isFit, "r": own}, nil},
		"receivers": {texts{"main": "receivers: ${at:r}\nservice: " + isFit, "r": "{otlp_lazy: " + own + "}"}, nil},
		"spaces":    {texts{"main": "receivers: {otlp_lazy: " + own + "}\nservice: " + strings.Replace(unfit, "traces/all: {receivers: [otlp_lazy]", "traces/all: {receivers: [' otlp_lazy ']", 1)}, nil},
		"fit":       {texts{"main": "receivers: {otlp_lazy: " + own + "}\nservice: ${at:s}", "s": isFit}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := resolve(t, c.files).ToStringMap()["receivers"].(map[string]any)["otlp_lazy"].(map[string]any)
			if r["undecoded"] != c.want || r["protocols"] == nil {
				t.Errorf("%v, want undecoded %v", r, c.want)
			}
		})
	}
}
