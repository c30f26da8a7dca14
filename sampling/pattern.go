package sampling

import "strings"

// pattern is a text in which each * stands for any number of any characters.
type pattern struct {
	parts []string // between the wildcards: one part without any
}

func compilePattern(s string) pattern { return pattern{parts: strings.Split(s, "*")} }

// match takes time in proportion to the length of s times that of the pattern at worst, and never backtracks: the
// earliest place for each part leaves the most room for those that follow.
func (p pattern) match(s string) bool {
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	if len(p.parts) == 1 {
		return s == first
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range p.parts[1 : len(p.parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// exact gives the only text that the pattern matches, where it has no wildcard.
func (p pattern) exact() (string, bool) { return p.parts[0], len(p.parts) == 1 }
