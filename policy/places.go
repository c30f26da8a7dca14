package policy

import (
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// places are where the fields of a document are written. Of most documents nobody asks, so they are found when somebody
// does.
type places struct {
	text text       // to read again
	root *yaml.Node // what that gave, where it is at hand or the text can't be read by itself; or nil
	once sync.Once
	at   map[string]Place // by path
}

// of gives where a path, or else what is nearest above it, is written, and whether it is the path itself.
func (p *places) of(path string) (at Place, written bool) {
	if p == nil {
		return Place{}, false
	}
	p.once.Do(p.find)
	if at, written = p.at[path]; written {
		return at, true
	}
	for path != "" {
		path = parent(path)
		if at, ok := p.at[path]; ok {
			return at, false
		}
	}
	return Place{}, false
}

func (p *places) find() {
	if p.root == nil {
		p.root = p.text.node()
	}
	p.at = make(map[string]Place)
	if p.root != nil {
		p.note(p.root, "")
	}
	p.root, p.text = nil, text{}
}

func (p *places) note(n *yaml.Node, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if _, twice := p.at[path]; twice {
		return
	}
	if path != "" {
		p.at[path] = placeOf(n)
	}
	for i, c := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			p.note(c, item(path, i))
		case i%2 == 1:
			p.note(c, join(path, n.Content[i-1].Value))
		}
	}
}

// node reads the text; nil: it can't be read by itself.
func (t text) node() *yaml.Node {
	if root, ok := new(reader).read(t); ok {
		return root
	}
	return t.byYAML()
}

// byYAML is what the YAML library makes of the text.
func (t text) byYAML() *yaml.Node {
	var n yaml.Node
	if yaml.NewDecoder(strings.NewReader(t.text)).Decode(&n) != nil {
		return nil
	}
	moveDown(&n, t.line-1)
	return content(&n)
}
