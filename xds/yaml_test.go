package xds

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestYAMLIsAsTheLibraryWritesIt, whatever the values and names are.
func TestYAMLIsAsTheLibraryWritesIt(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	texts := []string{
		"", "a", "y", "no", "true", "Null", "~", "name", "name_a", "@type", "a.b/c", "a: b", "a #b", "#a", "- a", "-", "[a]", "{a", "*", "&a", "!a", "%a", "'a'", `"a"`,
		"1", "0x1f", "1e3", ".5", "1:20", "2026-11-28", "10.0.0.1", "a\nb", "a\n\n  b\n", "\n", " a", "a ", "a\tb", "\x00", "é", "\u2028", "a\nb\u2028c: d", "a\u2029", "name10", "name9", "NAME",
		"type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "<<", "=", "a very long text of many words that a writer might break into several lines, which would be another text, or call a name that is none",
	}
	text := func() string { return texts[r.IntN(len(texts))] }
	var value func(depth int) any
	value = func(depth int) any {
		switch n := r.IntN(10); {
		case n < 3 && depth > 0:
			m := make(map[string]any)
			for range r.IntN(4) {
				m[text()] = value(depth - 1)
			}
			return m
		case n < 6 && depth > 0:
			list := make([]any, r.IntN(4))
			for i := range list {
				list[i] = value(depth - 1)
			}
			return list
		default:
			return []any{text(), text(), true, int64(-3), 1.5, 1e21, nil}[r.IntN(7)]
		}
	}
	for range 3_000 {
		all := map[string][]any{ClusterType: {value(4)}, RouteType: {value(4), value(3)}}
		got, err := yamlOf(all)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		enc := yaml.NewEncoder(&want)
		enc.SetIndent(2)
		if err := enc.Encode(all); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%#v is\n%s\nand the library writes\n%s", all, got, want.Bytes())
		}
	}
}
