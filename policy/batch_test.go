package policy

import (
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
)

// batched are documents that something is about where YAML reads them one after another.
var batched = []string{
	"kind: Service\nmetadata: {name: s}\nspec: {}\n",
	"---\nkind: Mesh\nmetadata: {name: m}",
	"--- {kind: Mesh, metadata: {name: m}}\r",
	"# nothing\n\n",
	"",
	"---\n",
	"---\n~\n",
	"\n\n  kind: Mesh\n",
	"kind: [\n",
	"kind: \"\n",
	"kind: 'a\n",
	"--- |\n text\n",
	"--- |2\n text\n",
	"--- >+\n\n\n",
	"kind: &a Mesh\nmetadata: {name: *a}\n",
	"kind: *a\n",
	"%YAML 1.1\n",
	"# a\r%TAG ! tag:x,2026:\r",
	"kind: Mesh\n%b: 1\n",
	"kind: Mesh # 5%\n",
	"\ufeffkind: Mesh\n",
	"\xff\xfek\x00",
	"\xfe\xff\x00k",
	"kind: Mesh\u2028a: b\u0085",
	"kind: Mesh\n\tname: x\n",
	"? a\n: b\n? [c]\n",
	"- a\n-  - b\n",
	"a: b: c\n",
	"kind: \x01\n",
	"kind: !!binary x\n",
	"!<x> {a: b}\n",
	"a\n",
	"a: |\n  b\n\n # c\n",
}

// FuzzDocumentsTogether: what documents are does not depend on which ones a decoder reads before and after them.
func FuzzDocumentsTogether(f *testing.F) {
	for i, a := range batched {
		f.Add(a, batched[(i+7)%len(batched)])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, texts := range [][]string{{a, b}, {b, a}, {a, a}, {b, a, b}} {
			together(t, texts)
		}
	})
}

func TestDocumentsTogether(t *testing.T) {
	for _, a := range batched {
		for _, b := range batched {
			together(t, []string{a, b})
			together(t, []string{b, batched[0], a})
		}
	}
}

func together(t *testing.T, written []string) {
	t.Helper()
	var all []*piece
	for i, w := range written {
		one := documentTexts([]byte(w))[0] // a marker begins another one
		if one.line += i; one.anywhere() {
			all = append(all, &piece{file: "f.yaml", text: one})
		}
	}
	nodes := readAll(all)
	for i := range nodes {
		alone := *all[i]
		alone.parse()
		root := content(&nodes[i])
		if alone.together || (root == nil) != (alone.document == nil) {
			t.Fatalf("%q: of %q a decoder gives something that it does not give of that by itself", written, all[i].text.text)
		}
		if root == nil {
			continue
		}
		if want := alone.text.byYAML(); !reflect.DeepEqual(plain(root), plain(want)) {
			t.Fatalf("%q: %q is %+v, by itself %+v", written, all[i].text.text, plain(root), plain(want))
		}
	}
}

// plain is all of a node but comments, which nothing looks at.
func plain(n *yaml.Node) []any {
	all := []any{n.Kind, n.Style, n.Tag, n.Value, n.Anchor, n.Line, n.Column}
	for _, c := range n.Content {
		all = append(all, plain(c))
	}
	return all
}
