package policy

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxAliased is how many nodes the aliases of a document may stand for. Without a bound, ten lines of aliases to lists
// of aliases would stand for more than a machine has memory.
const maxAliased = 100_000

type aliasError struct {
	at   *yaml.Node
	what string
}

func (e *aliasError) Error() string { return e.what }

// checkAliases refuses a document whose aliases stand for too much.
func checkAliases(root *yaml.Node) error {
	sizes := make(map[*yaml.Node]int) // of what anchors name, everything in it expanded; -1: being counted
	aliased, failure := 0, (*aliasError)(nil)
	var size func(n *yaml.Node) int
	size = func(n *yaml.Node) int {
		if failure != nil {
			return 0
		}
		if n.Kind != yaml.AliasNode {
			if n.Anchor != "" {
				sizes[n] = -1
			}
			all := 1
			for _, c := range n.Content {
				all = min(all+size(c), maxAliased+1)
			}
			if n.Anchor != "" {
				sizes[n] = all
			}
			return all
		}
		stands := sizes[n.Alias] // an anchor comes before its aliases
		aliased += max(stands, 0)
		switch {
		case stands < 0:
			failure = &aliasError{n, fmt.Sprintf("the alias *%s is within what it stands for, which has no end", n.Value)}
		case aliased > maxAliased:
			failure = &aliasError{n, fmt.Sprintf("the aliases up to here stand for more than %d values: write less by alias", maxAliased)}
		}
		return stands
	}
	size(root)
	if failure != nil {
		return failure
	}
	return nil
}
