package policy

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader reads documents that are written in the plainest YAML, as nearly all are: mappings and lists in block or flow style,
// scalars that are plain or quoted, without escapes and each on a line, and comments; in ASCII. Those it reads as the YAML
// library does, in a tenth of the time and with hardly an allocation. Of all others, wrong ones among them, it says nothing: so
// whatever there is to complain of, the library does.
//
// The nodes that it gives are good until it reads the next document, and their values are parts of the text.
type reader struct {
	text  string
	pos   int
	line  int // of pos
	begin int // of that line
	depth int
	alien bool // it is not in the plainest YAML

	nodes []yaml.Node
	lists []*yaml.Node // the contents of collections
	open  []*yaml.Node // the contents of those that are being read
}

const (
	deepest = 64  // collections may be in each other
	longest = 256 // a key may be
)

// read gives what a document has, nil where that is nothing; false: it is not for this reader.
func (r *reader) read(t text) (root *yaml.Node, ok bool) {
	*r = reader{text: t.text, line: t.line, nodes: r.nodes[:0], lists: r.lists[:0], open: r.open[:0]}
	if !isPlain(t.text) {
		return nil, false
	}
	if rest, marked := strings.CutPrefix(t.text, "---"); marked {
		if rest != "" && rest[0] != '\n' {
			return nil, false
		}
		r.pos = len("---")
	}
	if r.spaces(); r.at(0) == '#' {
		r.endLine()
	}
	if r.next(); r.atEnd() {
		return nil, !r.alien
	}
	root = r.block()
	return root, !r.alien && r.atEnd()
}

// isPlain says whether a text has nothing but printable ASCII and newlines.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' || c > '~') && c != '\n' {
			return false
		}
	}
	return true
}

func (r *reader) atEnd() bool { return r.alien || r.pos >= len(r.text) }

// at gives the i-th character from here; 0: there is none.
func (r *reader) at(i int) byte {
	if r.pos+i < len(r.text) {
		return r.text[r.pos+i]
	}
	return 0
}

func endsWord(c byte) bool { return c == ' ' || c == '\n' || c == 0 }

// isItem says whether an item of a list in block style is here.
func (r *reader) isItem() bool { return r.at(0) == '-' && endsWord(r.at(1)) }

func (r *reader) column() int { return r.pos - r.begin }

// node gives a node that begins here.
func (r *reader) node(kind yaml.Kind, style yaml.Style, tag string) *yaml.Node {
	if len(r.nodes) == cap(r.nodes) { // those that there are stay where they are
		r.nodes = make([]yaml.Node, 0, max(64, 2*cap(r.nodes)))
	}
	r.nodes = append(r.nodes, yaml.Node{Kind: kind, Style: style, Tag: tag, Line: r.line, Column: r.column() + 1})
	return &r.nodes[len(r.nodes)-1]
}

// enter begins the contents of a collection, from an index on.
func (r *reader) enter() (from int) {
	r.depth++
	r.alien = r.alien || r.depth > deepest
	return len(r.open)
}

// leave gives a collection its contents.
func (r *reader) leave(n *yaml.Node, from int) *yaml.Node {
	all := r.open[from:]
	if len(r.lists)+len(all) > cap(r.lists) {
		r.lists = make([]*yaml.Node, 0, max(64, 2*cap(r.lists), len(all)))
	}
	begin := len(r.lists)
	r.lists = append(r.lists, all...)
	n.Content = r.lists[begin:len(r.lists):len(r.lists)]
	r.open = r.open[:from]
	r.depth--
	return n
}

func (r *reader) spaces() {
	for r.at(0) == ' ' {
		r.pos++
	}
}

func (r *reader) newLine() {
	r.pos++
	r.line++
	r.begin = r.pos
}

// endLine goes to the end of a line on which no more than a comment may be left.
func (r *reader) endLine() {
	r.spaces()
	switch c := r.at(0); {
	case c == '\n' || c == 0:
	case c == '#' && (r.column() == 0 || r.text[r.pos-1] == ' '):
		if n := strings.IndexByte(r.text[r.pos:], '\n'); n >= 0 {
			r.pos += n
		} else {
			r.pos = len(r.text)
		}
	default:
		r.alien = true
	}
}

// next goes from the end of a line to what comes next, behind comments.
func (r *reader) next() {
	for r.at(0) == '\n' {
		r.newLine()
		if r.spaces(); r.at(0) == '#' {
			r.endLine()
		}
	}
	r.marker()
}

// marker refuses what ends documents.
func (r *reader) marker() {
	if r.column() == 0 {
		rest := r.text[r.pos:]
		r.alien = r.alien || strings.HasPrefix(rest, "---") || strings.HasPrefix(rest, "...")
	}
}

// block reads a mapping or list in block style. As all that read such, it goes to what comes next.
func (r *reader) block() *yaml.Node {
	if r.isItem() {
		return r.list()
	}
	return r.mapping(nil)
}

func (r *reader) list() *yaml.Node {
	n, column, from := r.node(yaml.SequenceNode, 0, "!!seq"), r.column(), r.enter()
	for !r.atEnd() && r.column() == column && r.isItem() {
		r.pos++
		r.open = append(r.open, r.item(column))
	}
	r.alien = r.alien || r.pos < len(r.text) && r.column() > column
	return r.leave(n, from)
}

// item reads what is behind the - of a list.
func (r *reader) item(column int) *yaml.Node {
	none := r.column()
	if r.spaces(); r.isItem() {
		return r.list()
	}
	if n, is := r.below(none, column, false); is {
		return n
	}
	n := r.value(false)
	if r.at(0) == ':' && n.Kind == yaml.ScalarNode {
		return r.mapping(n)
	}
	r.endLine()
	r.next()
	return n
}

// mapping reads a mapping in block style, of which the first key may have been read.
func (r *reader) mapping(key *yaml.Node) *yaml.Node {
	n, column := r.node(yaml.MappingNode, 0, "!!map"), r.column()
	if key != nil {
		n.Column, column = key.Column, key.Column-1
	}
	from := r.enter()
	for !r.atEnd() && (key != nil || r.column() == column) {
		if key == nil {
			key = r.scalar(false)
		}
		r.colon(key)
		r.open = append(r.open, key, r.field(column))
		key = nil
	}
	r.alien = r.alien || r.pos < len(r.text) && r.column() > column
	return r.leave(n, from)
}

// colon goes behind the colon of a key.
func (r *reader) colon(key *yaml.Node) {
	r.alien = r.alien || r.at(0) != ':' || !endsWord(r.at(1)) || len(key.Value) > longest
	r.pos++
}

// field reads what is behind the : of a mapping.
func (r *reader) field(column int) *yaml.Node {
	none := r.column()
	r.spaces()
	if n, is := r.below(none, column, true); is {
		return n
	}
	n := r.value(false)
	r.endLine()
	r.next()
	return n
}

// below reads a value that is on the next lines, further in than a column, if this one has none: where it is not there either,
// nothing, at the column none. The items of a list may be where the fields are.
func (r *reader) below(none, column int, field bool) (n *yaml.Node, is bool) {
	if !endsWord(r.at(0)) && r.at(0) != '#' {
		return nil, false
	}
	n = r.node(yaml.ScalarNode, 0, "!!null")
	n.Column = none + 1
	r.endLine()
	r.next()
	switch {
	case r.atEnd() || r.column() < column:
	case r.column() > column:
		n = r.block()
	case field && r.isItem():
		n = r.list()
	}
	return n, true
}

// value reads a value that begins here, in flow style or on one line.
func (r *reader) value(flow bool) *yaml.Node {
	switch r.at(0) {
	case '{':
		return r.flow(r.node(yaml.MappingNode, yaml.FlowStyle, "!!map"), '}')
	case '[':
		return r.flow(r.node(yaml.SequenceNode, yaml.FlowStyle, "!!seq"), ']')
	default:
		return r.scalar(flow)
	}
}

// flow reads a collection in flow style.
func (r *reader) flow(n *yaml.Node, end byte) *yaml.Node {
	from := r.enter()
	r.pos++
	for r.flowNext(); !r.alien && r.at(0) != end; r.flowNext() {
		if n.Kind == yaml.MappingNode {
			key := r.scalar(true)
			r.colon(key)
			r.open = append(r.open, key)
			r.flowNext()
		}
		r.open = append(r.open, r.value(true))
		switch r.flowNext(); r.at(0) {
		case ',':
			r.pos++
		case end:
		default:
			r.alien = true
		}
	}
	r.pos++
	return r.leave(n, from)
}

// flowNext goes to what comes next in a collection in flow style, which may be on another line.
func (r *reader) flowNext() {
	for r.spaces(); r.at(0) == '\n'; r.spaces() {
		r.newLine()
	}
	r.marker()
	r.alien = r.alien || r.pos >= len(r.text)
}

func (r *reader) scalar(flow bool) *yaml.Node {
	n := r.node(yaml.ScalarNode, 0, "!!str")
	switch c := r.at(0); {
	case c == '"':
		n.Style = yaml.DoubleQuotedStyle
		r.quoted(n, c)
	case c == '\'':
		n.Style = yaml.SingleQuotedStyle
		r.quoted(n, c)
	case isIndicator[c] && (c != '-' || !isAlphanumeric(r.at(1)) && r.at(1) != '.'):
		r.alien = true
	default:
		r.plain(n, flow)
	}
	return n
}

// quoted reads a scalar in quotes, within which nothing stands for anything else.
func (r *reader) quoted(n *yaml.Node, quote byte) {
	r.pos++
	length := strings.IndexByte(r.text[r.pos:], quote)
	if length < 0 {
		r.alien = true
		return
	}
	n.Value = r.text[r.pos : r.pos+length]
	r.pos += length + 1
	r.alien = r.alien || strings.Contains(n.Value, "\n") || quote == '"' && strings.Contains(n.Value, `\`) || r.at(0) == quote
}

// plain reads a scalar without quotes, which ends where the line does, or something else begins.
func (r *reader) plain(n *yaml.Node, flow bool) {
	end := r.pos
	for i := r.pos; i < len(r.text); i++ {
		c := r.text[i]
		if c == '\n' || c == ':' && (i+1 == len(r.text) || endsWord(r.text[i+1])) || c == '#' && r.text[i-1] == ' ' || flow && isBracket(c) {
			break
		}
		if c != ' ' {
			end = i + 1
		}
	}
	n.Value = r.text[r.pos:end]
	n.Tag = tagOf(n.Value)
	r.pos = end
}

func isBracket(c byte) bool {
	return c == ',' || c == '?' || c == '[' || c == ']' || c == '{' || c == '}'
}

// isIndicator says which characters no plain scalar begins with; the - begins some. The end of the text is one.
var isIndicator = func() (is [256]bool) {
	for _, c := range []byte("\x00\n -?:,[]{}#&*!|>'\"%@`") {
		is[c] = true
	}
	return is
}()

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// tagOf says what a plain scalar is.
func tagOf(s string) string {
	c := s[0]
	switch {
	case s == "<<":
		return "!!merge"
	case '1' <= c && c <= '9' && len(s) < 19 && strings.Trim(s, "0123456789") == "":
		return "!!int"
	case strings.IndexByte("0123456789+-.yYnNtTfFoO~", c) < 0,
		strings.IndexByte("smh", s[len(s)-1]) >= 0, // a duration
		strings.Count(s, ".") > 1:                  // an address
		return "!!str"
	}
	return (&yaml.Node{Kind: yaml.ScalarNode, Value: s}).ShortTag()
}
