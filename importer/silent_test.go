package importer_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/tools/txtar"

	"github.com/machinenativeops/weir/importer"
	"github.com/machinenativeops/weir/policy"
)

// quiet is what says nothing of traffic, or not where it stands, by kind: the API server's own, what names a controller,
// Kubernetes' own balancing, and what another value of the same kind does not change.
var quiet = regexp.MustCompile(`^\w+ (status\b.*|.*\bapiVersion|` +
	`metadata\.(name|creationTimestamp|uid|managedFields|annotations|labels)\b.*|` +
	`spec\.(from|to)\[\d+\]\.group|spec\.parentRefs\[\d+\]\.group)$` +
	`|^Service spec\.(clusterIP|selector\..*|ports\[\d+\]\.(name|port|targetPort))$` +
	`|^EndpointSlice (addressType|ports\[\d+\]\.protocol|endpoints\[\d+\]\.(nodeName|conditions\..*))$` +
	`|^ServiceEntry spec\.(location|ports\[\d+\]\.(number|name)|endpoints\[\d+\]\.(ports|labels)\..*)$` +
	`|^VirtualService .*\.abort\.percentage\.value$`) // 101 per cent is 100

// site is a place in a tree of YAML, and what is done there to make it say something else.
type site struct {
	path   string
	object string // KIND NAMESPACE/NAME
	change func()
	undo   func()
}

// sites gives every value of an object and every mapping, each with a change to it.
func sites(object, path string, n *yaml.Node) (values, mappings []site) {
	switch n.Kind {
	case yaml.MappingNode:
		more := []*yaml.Node{{Kind: yaml.ScalarNode, Value: "unheardOf"}, {Kind: yaml.ScalarNode, Value: "1", Tag: "!!int"}}
		content := n.Content
		mappings = append(mappings, site{path, object, func() { n.Content = slices.Concat(content, more) }, func() { n.Content = content }})
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, m := sites(object, strings.TrimPrefix(path+"."+n.Content[i].Value, "."), n.Content[i+1])
			values, mappings = append(values, v...), append(mappings, m...)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			v, m := sites(object, path+"["+strconv.Itoa(i)+"]", item)
			values, mappings = append(values, v...), append(mappings, m...)
		}
	case yaml.ScalarNode:
		was := *n
		values = append(values, site{path, object, func() { n.Value, n.Tag = other(was), "" }, func() { *n = was }})
	}
	return values, mappings
}

// other gives another value of the same type.
func other(n yaml.Node) string {
	switch n.Tag {
	case "!!bool":
		return strconv.FormatBool(n.Value != "true")
	case "!!int":
		i, _ := strconv.Atoi(n.Value)
		return strconv.Itoa(i + 1)
	case "!!float":
		return n.Value + "1"
	}
	return n.Value + "z"
}

func said(t *testing.T, files []policy.File, trees map[string][]*yaml.Node) *importer.Result {
	t.Helper()
	var changed []policy.File
	for _, f := range files {
		var text bytes.Buffer
		enc := yaml.NewEncoder(&text)
		for _, n := range trees[f.Name] {
			if err := enc.Encode(n); err != nil {
				t.Fatal(err)
			}
		}
		changed = append(changed, policy.File{Name: f.Name, Data: text.Bytes()})
	}
	result := mustImport(t, changed)
	mustLoad(t, result.YAML())
	return result
}

// TestNothingIsSilent changes each value of every input, and adds a field that nobody knows to each mapping: the documents
// or the notes must then say something else.
func TestNothingIsSilent(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			noneSilent(t, name)
		})
	}
}

func noneSilent(t *testing.T, name string) {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	trees := make(map[string][]*yaml.Node)
	var values, mappings []site
	for _, f := range archive.Files {
		if strings.HasPrefix(f.Name, "want/") {
			continue
		}
		files[f.Name] = f.Data
		dec := yaml.NewDecoder(bytes.NewReader(f.Data))
		for {
			n := new(yaml.Node)
			if dec.Decode(n) != nil {
				break
			}
			trees[f.Name] = append(trees[f.Name], n)
			for _, o := range objects(n.Content[0]) {
				v, m := sites(keyOf(o), "", o)
				values, mappings = append(values, v...), append(mappings, m...)
			}
		}
	}
	in := input(files)
	first := said(t, in, trees)
	before := fmt.Sprint(messages(first))
	for _, s := range values {
		if quiet.MatchString(s.kind()+" "+s.path) || s.told(first) {
			continue
		}
		s.change()
		if fmt.Sprint(messages(said(t, in, trees))) == before {
			t.Errorf("%s: %s: another value changes neither the documents nor the notes", s.object, s.path)
		}
		s.undo()
	}
	for _, s := range mappings {
		if quiet.MatchString(s.kind()+" "+s.path+".x") || s.told(first) {
			continue
		}
		s.change()
		if fmt.Sprint(messages(said(t, in, trees))) == before {
			t.Errorf("%s: %s: a field that nobody knows is passed over", s.object, s.path)
		}
		s.undo()
	}
}

// told says whether it is told already that the site, or what it is in, is not carried over. Of some kinds only labels
// and addresses are read.
func (s site) told(r *importer.Result) bool {
	if kind := s.kind(); kind == "Pod" || kind == "Deployment" || kind == "Namespace" {
		return true
	}
	return slices.ContainsFunc(r.Notes, func(n importer.Note) bool {
		if n.Document.String() != s.object || !n.Lost && !whole.MatchString(n.Message) {
			return false
		}
		path := n.Path
		if m := wholeRule.FindString(n.Message); m != "" { // with it goes what is beside it
			path = regexp.MustCompile(`\.(match|matches|filters)\[.*`).ReplaceAllString(path, "")
		}
		rest, ok := strings.CutPrefix(s.path, path)
		return ok && (rest == "" || path == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// What notes say of all that is in a place, and of a whole rule or destination.
var (
	whole     = regexp.MustCompile(`^(a proxy is told|left out|its requests are answered)`)
	wholeRule = regexp.MustCompile(`the rule is left out|the match is left out|the rule answers|its share is answered|the rule [^ ]+ is left out of`)
)

func (s site) kind() string {
	kind, _, _ := strings.Cut(s.object, " ")
	return kind
}

// keyOf names an object as notes do.
func keyOf(o *yaml.Node) string {
	key := policy.Key{Kind: valueOf(o, "kind"), Namespace: importer.DefaultNamespace}
	for i := 0; i+1 < len(o.Content); i += 2 {
		if o.Content[i].Value == "metadata" {
			key.Name = valueOf(o.Content[i+1], "name")
			if namespace := valueOf(o.Content[i+1], "namespace"); namespace != "" {
				key.Namespace = namespace
			}
		}
	}
	return key.String()
}

// objects gives the objects of a document: those of a list, or the one.
func objects(n *yaml.Node) []*yaml.Node {
	if valueOf(n, "kind") != "List" {
		return []*yaml.Node{n}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "items" {
			return n.Content[i+1].Content
		}
	}
	return nil
}

func valueOf(n *yaml.Node, key string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1].Value
		}
	}
	return ""
}

// messages is what an import says, without where.
func messages(r *importer.Result) []string {
	all := []string{regexp.MustCompile(`:\d+\)`).ReplaceAllString(string(r.YAML()), ")")}
	for _, n := range r.Notes {
		all = append(all, n.Document.String()+" "+n.Path+" "+n.Message)
	}
	return all
}
