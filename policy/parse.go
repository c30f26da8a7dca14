package policy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/internal/parallel"
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
	file       string
	text       text
	document   *document // nil: none
	problems   []Problem
	unreadable bool // it is no YAML

	anew     bool // to be parsed still
	together bool // that goes only together with the rest of the file
}

// parseFiles parses files, of each of which before (nil: nothing) was there. Their documents are parsed each by itself, so
// that those that are as they were stay, unless that does not go: what an error or a directive is about, YAML says of whole
// files.
func parseFiles(files []File, before []*parsed) []*parsed {
	all := make([]*parsed, len(files))
	parallel.Each(len(files), func(i int) { all[i] = split(files[i], before[i]) })
	var anew []*piece
	for _, p := range all {
		for i := range p.pieces {
			if p.pieces[i].anew {
				anew = append(anew, &p.pieces[i])
			}
		}
	}
	parallel.Runs(len(anew), batch, func(from, to int) { parsePieces(anew[from:to]) })
	parallel.Each(len(all), func(i int) { all[i].join() })
	return all
}

// batch is how many documents a reader, or one YAML decoder, reads at most. To make one takes longer than to read a document.
const batch = 64

// split parts a file into its documents, and takes over those of which before has the same.
func split(f File, before *parsed) *parsed {
	texts := documentTexts(f.Data)
	p := &parsed{name: f.Name, data: f.Data, pieces: make([]piece, len(texts)), apart: true}
	var known map[text]*piece
	if before != nil && before.apart {
		known = make(map[text]*piece, len(before.pieces))
		for i := range before.pieces {
			known[before.pieces[i].text] = &before.pieces[i]
		}
	}
	for i, t := range texts {
		if same := known[t]; same != nil {
			p.pieces[i] = *same
			continue
		}
		t.text = strings.Clone(t.text) // not to hold the whole file while one document of it is in force
		p.pieces[i] = piece{file: f.Name, text: t, anew: true}
	}
	return p
}

// join parses a file as a whole if its documents can't be parsed each by itself.
func (p *parsed) join() {
	for i := range p.pieces {
		p.apart = p.apart && !p.pieces[i].together
		p.pieces[i].anew = false
	}
	if p.apart {
		return
	}
	var texts texts
	for i := range p.pieces {
		texts = append(texts, p.pieces[i].text)
	}
	p.pieces = parseText(p.name, string(p.data), texts)
}

// parsePieces parses documents. Of those that the reader doesn't read, the YAML library reads as one text what has the same
// meaning there.
func parsePieces(all []*piece) {
	var r reader
	var alike []*piece
	for _, p := range all {
		if root, ok := r.read(p.text); ok {
			p.has(root)
		} else if p.text.anywhere() {
			alike = append(alike, p)
		} else {
			p.parse()
		}
	}
	if len(alike) == 0 {
		return
	}
	nodes := readAll(alike)
	for i, p := range alike {
		if nodes == nil {
			p.parse()
		} else {
			p.has(content(&nodes[i]))
		}
	}
}

// has makes the piece of what its text has; nil: nothing.
func (p *piece) has(root *yaml.Node) {
	if root != nil {
		p.take(decode(p.file, root, texts{p.text}))
	}
}

// anywhere says whether a text, if it is good, is read the same in any file: it has no anchors, which hold for what follows,
// it has no directives, its end is the end of a line, and it is not UTF-16.
func (t text) anywhere() bool {
	return strings.HasSuffix(t.text, "\n") && t.text[0] < utf8.RuneSelf && !strings.Contains(t.text, "&") && !hasDirective(t.text)
}

// readAll gives a node for each document, with its lines as in its file; nil if there is a mistake somewhere.
func readAll(all []*piece) []yaml.Node {
	var b bytes.Buffer
	begins, size := make([]int, len(all)), 0 // the lines of the markers, as in the files
	for _, p := range all {
		size += len("---\n") + len(p.text.text)
	}
	b.Grow(size)
	for i, p := range all {
		begins[i] = p.text.line
		if !strings.HasPrefix(p.text.text, "---") {
			begins[i]--
			b.WriteString("---\n")
		}
		b.WriteString(p.text.text)
	}
	dec, nodes := yaml.NewDecoder(&b), make([]yaml.Node, len(all))
	for i := range nodes {
		if dec.Decode(&nodes[i]) != nil {
			return nil
		}
		moveDown(&nodes[i], begins[i]-nodes[i].Line)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil
	}
	return nodes
}

// hasDirective says whether a line begins with a %.
func hasDirective(s string) bool {
	for i := range len(s) {
		if s[i] == '%' && (i == 0 || s[i-1] == '\n' || s[i-1] == '\r' || s[i-1] >= utf8.RuneSelf) {
			return true
		}
	}
	return false
}

// parse parses a document by itself.
func (p *piece) parse() {
	all := parseText(p.file, p.text.text, texts{p.text})
	switch {
	case hasDirective(p.text.text) || len(all) > 1 || len(all) == 1 && all[0].unreadable:
		p.together = true
	case len(all) == 1:
		p.take(all[0])
	}
}

func (p *piece) take(what piece) {
	p.document, p.problems, p.unreadable = what.document, what.problems, what.unreadable
}

// content is what a document has, or nil.
func content(n *yaml.Node) *yaml.Node {
	if len(n.Content) == 0 || n.Content[0].Tag == "!!null" {
		return nil
	}
	return n.Content[0]
}

// parseText gives a piece for each document of a text, which consists of texts.
func parseText(file, written string, texts texts) (all []piece) {
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
		if root := content(&n); root != nil {
			moveDown(root, texts[0].line-1)
			all = append(all, decode(file, root, texts))
		}
	}
}

func moveDown(n *yaml.Node, lines int) {
	if lines == 0 {
		return
	}
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
	d := &document{origin: Origin{File: file, Line: n.Line, text: texts.at(n.Line)}, column: n.Column}
	d.origin.places = &places{text: d.origin.text, root: n}
	dec := &decoder{file: file, places: d.origin.places}
	d.origin.Hash, d.origin.layout = hashNode(n)
	var specNode, metaNode *yaml.Node
	dec.pairs(n, func(key, value *yaml.Node) {
		switch key.Value {
		case "apiVersion":
			if value.Value != APIVersion {
				dec.problem(value, APIVersion, "unknown apiVersion %q", value.Value)
			}
		case "kind":
			d.key.Kind = value.Value
		case "metadata":
			metaNode = value
		case "spec":
			specNode = value
		default:
			dec.problem(key, closest(key.Value, documentFields), "unknown field")
		}
	})
	if metaNode != nil {
		dec.field("metadata", metaNode, reflect.ValueOf(&d.metadata))
	}
	d.key.Namespace, d.key.Name = d.metadata.Namespace, d.metadata.Name
	dec.document = d.key
	for i := range dec.problems {
		dec.problems[i].Document = d.key
	}
	if n.Kind == yaml.MappingNode { // else that is all there is to say
		d.decodeSpec(&checker{decoder: dec, root: placeOf(n)}, specNode)
	}
	if len(texts) == 1 {
		d.origin.places.root = nil // its text can be read again
	}
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
		c.field("spec", n, reflect.ValueOf(d.spec))
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
	said, laidOut := appendNode(make([]byte, 0, 1<<10), make([]byte, 0, 1<<7), n)
	return xxhash.Sum64(said), xxhash.Sum64(laidOut)
}

func appendNode(said, laidOut []byte, n *yaml.Node) (_, _ []byte) {
	said = append(strconv.AppendUint(said, uint64(n.Kind), 10), ' ')
	said = append(append(said, n.Tag...), ' ')
	said = append(strconv.AppendInt(said, int64(len(n.Value)), 10), ' ')
	said = append(strconv.AppendInt(said, int64(len(n.Content)), 10), ' ')
	said = append(said, n.Value...)
	laidOut = binary.AppendUvarint(binary.AppendUvarint(laidOut, uint64(n.Line)), uint64(n.Column))
	for _, c := range n.Content {
		said, laidOut = appendNode(said, laidOut, c)
	}
	if n.Kind == yaml.AliasNode {
		said, laidOut = appendNode(said, laidOut, n.Alias)
	}
	return said, laidOut
}
