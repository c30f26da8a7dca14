package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parsed is a file as it was read. Immutable: a file that is read again as it was is not parsed again.
type parsed struct {
	name   string
	data   []byte
	pieces []piece
	apart  bool // each piece was parsed by itself, so that it can be taken over by itself
}

// piece is what a part of a file gave: a document, or mistakes, or nothing.
type piece struct {
	text       text
	document   *document // nil: none
	problems   []Problem
	unreadable bool // it is no YAML
}

// inParallel calls f with each of 0 to n-1, and returns when all calls have.
func inParallel(n int, f func(int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				f(i - 1)
			}
		})
	}
	all.Wait()
}

// parse parses a file, of which before (nil: nothing) was there. Its documents are parsed each by itself, so that those
// that are as they were stay, unless that does not go: what an error or a directive is about, YAML says of whole files.
func parse(f File, before *parsed) *parsed {
	texts := documentTexts(f.Data)
	p := &parsed{name: f.Name, data: f.Data, pieces: make([]piece, len(texts)), apart: true}
	known := make(map[text]*piece)
	if before != nil && before.apart {
		for i := range before.pieces {
			known[before.pieces[i].text] = &before.pieces[i]
		}
	}
	var together atomic.Bool
	inParallel(len(texts), func(i int) {
		if same := known[texts[i]]; same != nil {
			p.pieces[i] = *same
			return
		}
		t := texts[i]
		t.text = strings.Clone(t.text) // not to hold the whole file while one document of it is in force
		all := parseText(f.Name, t.text, t.line-1, []text{t})
		switch {
		case strings.HasPrefix(t.text, "%") || strings.Contains(t.text, "\n%") || len(all) > 1 || len(all) == 1 && all[0].unreadable:
			together.Store(true)
		case len(all) == 1:
			p.pieces[i] = all[0]
		}
		p.pieces[i].text = t
	})
	if together.Load() {
		p.apart, p.pieces = false, parseText(f.Name, string(p.data), 0, texts)
	}
	return p
}

// parseText gives a piece for each document, of a text that is written after so many other lines.
func parseText(file, written string, after int, texts texts) (all []piece) {
	dec := yaml.NewDecoder(strings.NewReader(written))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			return append(all, notYAML(file, err))
		}
		if len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			if after > 0 {
				moveDown(&n, after)
			}
			all = append(all, decode(file, n.Content[0], texts))
		}
	}
}

func moveDown(n *yaml.Node, lines int) {
	n.Line += lines
	for _, c := range n.Content {
		moveDown(c, lines)
	}
}

// notYAML reports a file that is no YAML. What stood behind the mistake can't be known.
func notYAML(file string, err error) piece {
	p := Problem{File: file, Line: 1, Column: 1, Message: "not YAML: " + err.Error()}
	if bomb, ok := errors.AsType[*aliasError](err); ok {
		p.Line, p.Column, p.Message = bomb.at.Line, bomb.at.Column, bomb.Error()
	} else if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, e := strconv.Atoi(m[1]); e == nil {
			p.Line = line
		}
		p.Message = "not YAML: " + m[2]
	}
	return piece{problems: []Problem{p}, unreadable: true}
}

func decode(file string, n *yaml.Node, texts texts) piece {
	if err := checkAliases(n); err != nil {
		return notYAML(file, err)
	}
	dec := &decoder{file: file, places: make(map[string]Place), zeros: make(map[string]bool)}
	d := &document{origin: Origin{File: file, Line: n.Line, text: texts.at(n.Line)}, column: n.Column}
	d.origin.Hash, d.origin.layout = hashNode(n)
	var specNode, metaNode *yaml.Node
	dec.pairs(n, "", func(key, value *yaml.Node) {
		dec.places[key.Value] = placeOf(value)
		switch key.Value {
		case "apiVersion":
			if value.Value != APIVersion {
				dec.problem(value, "apiVersion", APIVersion, "unknown apiVersion %q", value.Value)
			}
		case "kind":
			d.key.Kind = value.Value
		case "metadata":
			metaNode = value
		case "spec":
			specNode = value
		default:
			dec.problem(key, key.Value, closest(key.Value, documentFields), "unknown field")
		}
	})
	if metaNode != nil {
		dec.value(metaNode, reflect.ValueOf(&d.metadata).Elem(), "metadata")
	}
	d.key.Namespace, d.key.Name = d.metadata.Namespace, d.metadata.Name
	dec.document = d.key
	for i := range dec.problems {
		dec.problems[i].Document = d.key
	}
	if n.Kind == yaml.MappingNode { // else that is all there is to say
		d.decodeSpec(&checker{decoder: dec, root: placeOf(n)}, specNode)
	}
	d.origin.places = &dec.places
	d.wrong = len(dec.problems) > 0
	if publish := publishers[d.key.Kind]; publish != nil && d.spec != nil {
		d.public = publish(d)
	}
	return piece{document: d.index(), problems: dec.problems}
}

// publishers give documents as they are in sets.
var publishers = map[string]func(*document) any{
	"Mesh": publish[MeshSpec], "Gateway": publish[GatewaySpec], "Service": publish[ServiceSpec], "Route": publish[RouteSpec],
	"RateLimit": publish[RateLimitSpec], "Sampling": publish[SamplingSpec], "Retention": publish[RetentionSpec],
}

func publish[S any](d *document) any {
	return &Document[S]{Metadata: d.metadata, Origin: d.origin, Spec: *any(d.spec).(*S)}
}

var documentFields = map[string]bool{"apiVersion": true, "kind": true, "metadata": true, "spec": true}

func (d *document) decodeSpec(c *checker, n *yaml.Node) {
	build, ok := newSpec[d.key.Kind]
	switch {
	case laterKinds[d.key.Kind]:
		c.problem("kind", "", "this version of Weir does not support the kind %s yet: remove the document", d.key.Kind)
		return
	case d.key.Kind == "":
		c.problem("kind", "", "the kind is missing: want one of %s", strings.Join(Kinds(), ", "))
		return
	case !ok:
		c.problem("kind", closest(d.key.Kind, newSpec), "unknown kind %q: want one of %s", d.key.Kind, strings.Join(Kinds(), ", "))
		return
	}
	c.name("metadata.name", d.metadata.Name)
	if d.metadata.Namespace != "" {
		c.name("metadata.namespace", d.metadata.Namespace)
	}
	d.spec = build()
	if n != nil {
		c.value(n, reflect.ValueOf(d.spec).Elem(), "spec")
	}
	if len(c.problems) > 0 {
		c.known = c.problems
		d.known = c.problems
		d.spec.check(c)
		d.spec.defaults(d.metadata) // its references are looked up all the same
		return
	}
	d.spec.defaults(d.metadata)
	d.spec.check(c)
}

// hashNode hashes what a node says, not how it is laid out, and that apart. Hashes of load tests are kept over restarts:
// they must not change.
func hashNode(n *yaml.Node) (says, layout uint64) {
	h, at := xxhash.New(), xxhash.New()
	var buffer []byte
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		buffer = fmt.Appendf(buffer[:0], "%d %s %d %d ", n.Kind, n.Tag, len(n.Value), len(n.Content))
		_, _ = h.Write(append(buffer, n.Value...)) // a hash takes everything
		buffer = binary.AppendUvarint(binary.AppendUvarint(buffer[:0], uint64(n.Line)), uint64(n.Column))
		_, _ = at.Write(buffer)
		for _, c := range n.Content {
			walk(c)
		}
		if n.Kind == yaml.AliasNode {
			walk(n.Alias)
		}
	}
	walk(n)
	return h.Sum64(), at.Sum64()
}
