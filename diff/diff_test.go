package diff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/tools/txtar"

	"github.com/machinenativeops/weir/internal/golden"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// load gives the set of documents; ok is false where they are refused.
func load(text []byte) (set *policy.Set, ok bool) {
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: text}}, nil)
	return set, len(problems) == 0
}

func mustLoad(t *testing.T, text []byte) *policy.Set {
	t.Helper()
	set, problems := policy.Load([]policy.File{{Name: "policy.yaml", Data: text}}, nil)
	for _, p := range problems {
		t.Fatal(p)
	}
	return set
}

func compare(t *testing.T, a, b *policy.Set) *Report {
	t.Helper()
	r, err := Compare(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(r *Report) string {
	var b bytes.Buffer
	r.Text(&b)
	return b.String()
}

func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		r := compare(t, mustLoad(t, files["old.yaml"]), mustLoad(t, files["new.yaml"]))
		out := map[string][]byte{"diff.txt": []byte(text(r))}
		if _, ok := files["json"]; ok {
			data, err := json.MarshalIndent(r, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			out["diff.json"] = append(data, '\n')
		}
		return out
	})
}

// worlds are documents that have every field: those of the examples, and of the tests of translation.
func worlds(t *testing.T) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	examples, err := filepath.Glob("../examples/*")
	if err != nil || len(examples) == 0 {
		t.Fatal("no examples", err)
	}
	for _, dir := range examples {
		files, _ := filepath.Glob(dir + "/*.yaml")
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[dir] = append(append(all[dir], data...), "\n---\n"...)
		}
	}
	archives, err := filepath.Glob("../xds/testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if f.Name == "policy.yaml" {
				all[name] = f.Data
			}
		}
	}
	return all
}

// documents reads a world as YAML.
func documents(t *testing.T, world []byte) []*yaml.Node {
	t.Helper()
	var all []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(world))
	for {
		n := new(yaml.Node)
		if dec.Decode(n) != nil {
			return all
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			all = append(all, n)
		}
	}
}

func write(t *testing.T, documents []*yaml.Node) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	for _, d := range documents {
		if err := enc.Encode(d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestWhatIsWrittenOtherwiseIsEqual: comments, the order of documents, how they are spread and the order of fields are
// no change.
func TestWhatIsWrittenOtherwiseIsEqual(t *testing.T) {
	for name, world := range worlds(t) {
		all := documents(t, world)
		slices.Reverse(all)
		for _, d := range all {
			d.HeadComment = "# another comment"
			fields := d.Content[0].Content
			for i, j := 0, len(fields)-2; i < j; i, j = i+2, j-2 {
				fields[i], fields[i+1], fields[j], fields[j+1] = fields[j], fields[j+1], fields[i], fields[i+1]
			}
		}
		r := compare(t, mustLoad(t, world), mustLoad(t, write(t, all)))
		if got := text(r); !r.Equal || got != "no change in effect\n" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestFromNothingAndToNothing: every service and gateway of the examples is told, with a proxy of its own.
func TestFromNothingAndToNothing(t *testing.T) {
	nothing := mustLoad(t, nil)
	for name, world := range worlds(t) {
		set := mustLoad(t, world)
		for kind, r := range map[string]*Report{Added: compare(t, nothing, set), Removed: compare(t, set, nothing)} {
			for _, s := range set.Services {
				hasChange(t, r, Change{Subject: "Service " + s.Ref().String(), Kind: kind})
			}
			for _, g := range set.Gateways {
				hasChange(t, r, Change{Subject: "Gateway " + g.Ref().String(), Kind: kind})
			}
			if len(r.Proxies) != len(set.Services)+len(set.Gateways) || slices.ContainsFunc(r.Proxies, func(p Proxies) bool { return p.Kind != kind }) {
				t.Errorf("%s: %d groups of proxies %s", name, len(r.Proxies), kind)
			}
		}
	}
}

func hasChange(t *testing.T, r *Report, want Change) {
	t.Helper()
	if !slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Subject == want.Subject && c.Kind == want.Kind && c.What == "" }) {
		t.Errorf("%s %s is not told:\n%s", want.Subject, want.Kind, text(r))
	}
}

// TestWordsAndResourcesAgree makes every small edit of every field of every world that is still valid, and holds what
// is said to what there is: where resources differ, words tell it; and where words are, something differs that somebody
// acts on. The latter is asked of the examples only: other worlds have fields that do nothing, to see that.
func TestWordsAndResourcesAgree(t *testing.T) {
	edits := 0
	for name, world := range worlds(t) {
		before := sideOf(t, mustLoad(t, world))
		actedBefore := acted(before)
		all := documents(t, world)
		edit(all, func(what string) {
			set, ok := load(write(t, all))
			if !ok {
				return
			}
			edits++
			after := sideOf(t, set)
			r := compareSides(before, after)
			words, acts := len(r.Changes) > 0, len(r.Proxies) > 0 || actedBefore != acted(after)
			if acts && !words || words && !acts && strings.HasPrefix(name, "../examples") || r.Equal != (!words && !acts) {
				t.Errorf("%s: %s: words: %t, acted on: %t, equal: %t\n%s", name, what, words, acts, r.Equal, text(r))
			}
		})
	}
	if edits < 1000 {
		t.Errorf("%d edits prove little", edits)
	}
	t.Logf("%d edits", edits)
}

func sideOf(t *testing.T, set *policy.Set) side {
	t.Helper()
	s, err := newSide(set)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// acted is what others than Envoy act on: the rate limit service, the collector, and Weir itself when a load test is over or has to stop.
func acted(s side) string {
	var classes []string
	for _, d := range s.set.Services {
		classes = append(classes, d.Ref().String()+" "+d.Spec.Class)
	}
	var ends []any
	for _, d := range s.set.Routes {
		for _, r := range d.Spec.Rules {
			if r.LoadTest != nil {
				ends = append(ends, r.LoadTest.Ends(), r.LoadTest.StopWhen)
			}
		}
	}
	data, err := json.Marshal([]any{s.model.Limits, classes, ends, s.set.Sampling.Spec, s.set.Retention.Spec})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// edit makes each edit, calls f, and takes it back.
func edit(all []*yaml.Node, f func(what string)) {
	for _, d := range all {
		walk(d.Content[0], "", f)
	}
}

func walk(n *yaml.Node, path string, f func(string)) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			at := path + "." + n.Content[i].Value
			replaced(n, remove(n.Content, i, 2), func() { f("without " + at) })
			walk(n.Content[i+1], at, f)
		}
	case yaml.SequenceNode:
		for i := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			replaced(n, remove(n.Content, i, 1), func() { f("without " + at) })
			if i > 0 {
				swapped := slices.Clone(n.Content)
				swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
				replaced(n, swapped, func() { f("swapped " + at) })
			}
			walk(n.Content[i], at, f)
		}
	case yaml.ScalarNode:
		was := n.Value
		for _, value := range values(n, path) {
			n.Value = value
			f(path + " = " + value)
		}
		n.Value = was
	}
}

func remove(content []*yaml.Node, i, n int) []*yaml.Node {
	return slices.Delete(slices.Clone(content), i, i+n)
}

func replaced(n *yaml.Node, content []*yaml.Node, f func()) {
	was := n.Content
	n.Content = content
	f()
	n.Content = was
}

// others are other values of fields that have few.
var others = map[string]string{
	"scope": "local", "onError": "deny", "policy": "random", "protocol": "grpc", "per": "hour", "on": "5xx", "methods": "GET", "scheme": "https",
}

func values(n *yaml.Node, path string) []string {
	switch n.Tag {
	case "!!bool":
		return []string{map[string]string{"true": "false", "false": "true"}[n.Value]}
	case "!!int", "!!float":
		return []string{n.Value + "1", "1", "0"}
	case "!!str":
		name, _, _ := strings.Cut(path[strings.LastIndex(path, ".")+1:], "[")
		return slices.Compact([]string{n.Value + "x", "1" + n.Value, cmp.Or(others[name], "1"+n.Value)})
	}
	return nil
}

// TestResourcesAreWhatIsSent holds what is said of each proxy to the bytes that it is sent.
func TestResourcesAreWhatIsSent(t *testing.T) {
	for name, world := range worlds(t) {
		before := mustLoad(t, world)
		after := mustLoad(t, append(slices.Clone(world), "\n---\nkind: Service\nmetadata: {name: brand-new}\nspec: {endpoints: {static: [{address: 10.9.9.9, port: 9}]}}\n"...))
		r := compare(t, before, after)
		told := make(map[string][]string)
		for _, g := range r.Proxies {
			for _, p := range g.Proxies {
				for _, x := range g.Resources {
					told[p] = append(told[p], fmt.Sprint(x.Kind, " ", x.Type, " ", strings.ReplaceAll(x.Name, "NAMESPACE/NAME", strings.TrimPrefix(p, "service "))))
				}
			}
		}
		if want := sent(t, before, after); !reflect.DeepEqual(told, want) {
			t.Errorf("%s: %v, want %v", name, told, want)
		}
	}
}

// sent compares the resources of each proxy, by their bytes.
func sent(t *testing.T, before, after *policy.Set) map[string][]string {
	t.Helper()
	views := func(s *policy.Set) map[mesh.Proxy]xds.View {
		snapshot, err := xds.Translate(mesh.Build(s), xds.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return snapshot.Views()
	}
	a, b := views(before), views(after)
	out := make(map[string][]string)
	for p, v := range b {
		for _, kind := range xds.Types {
			for _, y := range v[kind] {
				i := slices.IndexFunc(a[p][kind], func(x *xds.Resource) bool { return x.Name == y.Name })
				short := kind[strings.LastIndex(kind, ".")+1:] // as in Cluster
				switch {
				case i < 0:
					out[p.String()] = append(out[p.String()], fmt.Sprint("added ", short, " ", y.Name))
				case !bytes.Equal(a[p][kind][i].Body, y.Body):
					out[p.String()] = append(out[p.String()], fmt.Sprint("changed ", short, " ", y.Name))
				}
			}
		}
	}
	return out
}
