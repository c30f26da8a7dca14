package archive

import (
	"encoding/hex"
	"strings"
)

// maxPart keeps the longest name, with both halves of a service, well within the 1024 bytes that S3 allows.
const maxPart = 96

const hexUpper = "0123456789ABCDEF"

// escape writes letters, digits, - and _ as they are and every other byte as ! and two hex digits: S3 lists ! among
// the characters that are safe everywhere, and not %. What would be longer than maxPart is cut, and ends in ~ and
// its hash.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteString("!" + hexUpper[c>>4:c>>4+1] + hexUpper[c&15:c&15+1])
		}
	}
	if b.Len() <= maxPart {
		return b.String()
	}
	hash := "!7E" + Hash([]byte(s))
	cut := b.String()[:maxPart-len(hash)]
	if i := strings.LastIndexByte(cut, '!'); i > len(cut)-3 {
		cut = cut[:i] // not through the middle of an escape
	}
	return cut + hash
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func unescape(s string) string {
	var b strings.Builder
	for s != "" {
		before, after, found := strings.Cut(s, "!")
		b.WriteString(before)
		if s = after; !found {
			break
		}
		if len(s) < 2 {
			b.WriteByte('!')
			continue
		}
		if c, err := hex.DecodeString(s[:2]); err == nil {
			b.Write(c)
			s = s[2:]
		} else {
			b.WriteByte('!')
		}
	}
	return b.String()
}
