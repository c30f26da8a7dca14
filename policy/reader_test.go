package policy

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/internal/catalog"
)

// readable are documents that are for the reader, with something about each.
var readable = []string{
	"kind: Service\nmetadata: {name: s}\nspec: {}\n",
	"---\nkind: Mesh",
	"---\n# nothing\n\n",
	"",
	"  kind: Mesh\n  spec:\n    a: b\n",
	"a:\n- b\n-  c: d\n   e: f\n- - g\n  -\n  - h\n-\n- i\nj: k\n",
	"a:\n  - b\n\n  # c\n  -   # d\n    e:\n    f: # g\n    - h\nj:\n",
	"a: [b, c,\n  d , {e: f, g: 1}, [], {},]\nh: {i: [j]\n, k: l\n}\n",
	"a: \"b # c: d\"\n'e': 'f'\n\"g\": h\n",
	"a: b # c\nd: e#f\ng: h:i\nj: -1\nk: a - b\nl: {m: n:o, p: q#r}\n",
	"a: ~\nb: null\nc: Null\nd: yes\ne: true\nf: FALSE\ng: .5\nh: .inf\ni: -.Inf\nj: .nan\nk: <<\nl: <400\n",
	"a: 1\nb: 01\nc: 0x1f\nd: 0b11\ne: 0o7\nf: 1_000\ng: 1e3\nh: 1.5\ni: +1\nj: -0\nk: 99999999999999999999\nl: 0b1s\n",
	"a: 2026-11-30\nb: 2026-11-30T18:00:00Z\nc: 2026-11-30 18:00:00.5\nd: 10.0.0.1\ne: 250ms\nf: 1h30m\ng: 90d\nh: 1.2.3\ni: 5%\n",
	"a: /b?c=d&e[0]\nf: =404\ng: '>=500'\nh: $x\n(i): j\nk: ^l$\n",
}

// alien are documents that are not.
var alien = []string{
	"a\n", "--- \na: b\n", "a : b\n", "{a : b}\n", "- a: b\n c\n", "a: b\n c\n", "a: b: c\n", "a: |\n b\n", "a: >\n b\n", "a: &b c\n", "a: *b\n", "a: !c d\n", "? a\n: b\n", "%YAML 1.1\n---\na: b\n",
	"a: \"b\\n\"\n", "a: 'b''c'\n", "a: \"b\n c\"\n", "\ta: b\n", "a:\tb\n", "a: é\n", "a: b\r\n", "a: [b\n", "a: {b}\n", "a: [b: c]\n", "a: {b: }\n", "a: [b # c\n]\n",
	"a: \"b\"#c\n", "a: [b]c\n", "a: [b]: c\n", "a: b\n---\nc: d\n", "a: b\n...\n", "--- a: b\n", "a: @b\n", "a: `b`\n", "a: - b\n", "a: b\n  c: d\n", "a:\n  b: c\n d: e\n",
	"a: [-]\n", "a: [,]\n", "a: {\"b\":c}\n", "{a: b}\n", "[a]\n", "a: [b\n---\n]\n", "a: \x7f\n", "a:\n  b\n", "a:\n  {b: c}\n", "a: b\x00\n",
	strings.Repeat("a", longest+1) + ": b\n", "a: " + strings.Repeat("[", deepest+1) + strings.Repeat("]", deepest+1) + "\n",
}

func TestReader(t *testing.T) {
	for _, text := range readable {
		if !readsAlike(t, text) {
			t.Errorf("%q is not read", text)
		}
	}
	for _, text := range alien {
		if readsAlike(t, text) {
			t.Errorf("%q is read", text)
		}
	}
}

// TestReaderReadsScraps: texts of what means something in YAML, by chance.
func TestReaderReadsScraps(t *testing.T) {
	scraps := []string{
		"a", "b: ", "c: d", "- ", " ", "  ", "\n", "\n", "\n  ", "\n- ", "\n  - ", "{", "}", "[", "]", ", ", ": ", ":", " # e", "#", "\"f\"", "'", "-", "~", "1",
		"? ", "|", "&g ", "*g", "---", "...", "{h: i, j: [k, l]}", "\nm:", "\n  n:", "\n    o: p", "null",
	}
	r, reads := rand.New(rand.NewPCG(1, 1)), 0
	for range 30_000 {
		var b strings.Builder
		for range 1 + r.IntN(14) {
			b.WriteString(scraps[r.IntN(len(scraps))])
		}
		if readsAlike(t, b.String()) {
			reads++
		}
	}
	if reads < 1000 {
		t.Errorf("only %d are read", reads)
	}
}

// FuzzReader: what the reader reads, it reads as the YAML library does.
func FuzzReader(f *testing.F) {
	for _, all := range [][]string{readable, alien, batched} {
		for _, text := range all {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) { readsAlike(t, text) })
}

// readsAlike says whether the reader reads a document, and checks that it is what YAML says.
func readsAlike(t *testing.T, written string) (reads bool) {
	t.Helper()
	var r reader
	root, reads := r.read(text{line: 1, text: written})
	if !reads {
		return false
	}
	var n yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(written))
	if err := dec.Decode(&n); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%q is read, and YAML says: %s", written, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		t.Fatalf("%q is read as one document, and YAML says: %v", written, err)
	}
	want := content(&n)
	if (root == nil) != (want == nil) || root != nil && !reflect.DeepEqual(plain(root), plain(want)) {
		t.Fatalf("%q is read as %+v, and by YAML as %+v", written, root, want)
	}
	return true
}

// TestDocumentsAreForTheReader: what people write is what it is for.
func TestDocumentsAreForTheReader(t *testing.T) {
	all := []File{{Name: "catalog", Data: []byte(catalog.Service(1, 2, 3))}}
	files, err := filepath.Glob("../examples/*/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, File{Name: name, Data: data})
	}
	reads, of := 0, 0
	for _, f := range all {
		for _, one := range documentTexts(f.Data) {
			of++
			if readsAlike(t, one.text) {
				reads++
			} else {
				t.Logf("%s:%d is not read", f.Name, one.line)
			}
		}
	}
	if reads*10 < of*9 {
		t.Errorf("of %d documents %d are read", of, reads)
	}
}
