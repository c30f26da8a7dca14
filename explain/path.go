package explain

import (
	"fmt"
	"strings"
)

// normalise makes the path what rules compare, and finds where Envoy answers instead: it turns away what has a # or a
// NUL, and sends a client that has escaped a slash to the path without that.
func (x *explainer) normalise() *Outcome {
	v := &x.seen
	path, query := v.bare(), v.query()
	if strings.Contains(v.path, "#") {
		return &Outcome{Kind: Rejected, Status: 400, Reason: "a path with a #, which clients keep to themselves"}
	}
	plain := slashes.Replace(path)
	normal, ok := canonical(plain)
	if !ok {
		return &Outcome{Kind: Rejected, Status: 400, Reason: "the path has a NUL (%00)"}
	}
	v.path = normal + query
	switch {
	case plain == path:
		return nil
	case v.grpc():
		return &Outcome{Kind: Rejected, Status: 400, Reason: "the path of a gRPC request has an escaped slash or backslash"}
	default:
		return &Outcome{
			Kind: Normalised, Status: 307, Location: v.path,
			Reason: fmt.Sprintf("%s has an escaped slash or backslash: the client is sent to %s", path, v.path),
		}
	}
}

var slashes = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`)

const hexDigits = "0123456789ABCDEF"

// canonical resolves . and .., and escapes what must be and unescapes what need not be. Slashes in a row stay. It is
// what browsers do; false is a NUL.
func canonical(path string) (string, bool) {
	var out []byte
	percent := -1 // where in out the last % stands that begins no escape
	for i := 0; i < len(path); {
		if n := dot(path, i); n > 0 {
			i += n
			if len(out) == 0 || out[len(out)-1] != '/' {
				out = append(out, '.')
				continue
			}
			second := dot(path, i)
			switch {
			case i == len(path):
			case isSlash(path[i]):
				i++
			case second > 0 && (i+second == len(path) || isSlash(path[i+second])):
				i = min(i+second+1, len(path))
				out = up(out)
			default:
				out = append(out, '.')
			}
			continue
		}
		c := path[i]
		switch {
		case c == '\\':
			out = append(out, '/')
			i++
		case c == '%':
			value, ok := unhex(path[i+1:])
			switch {
			case !ok:
				percent = len(out)
				out = append(out, c)
				i++
			case value == 0:
				return "", false
			case unreserved(value):
				out = append(out, value)
				i += 3
				if percent >= len(out)-3 && percent >= 0 {
					out = guardNested(out, percent, path[i:])
				}
			default:
				out = append(out, path[i:i+3]...)
				i += 3
			}
		case strings.IndexByte("\"<>^`{|}", c) >= 0:
			out = append(out, '%', hexDigits[c>>4], hexDigits[c&15])
			i++
		default:
			out = append(out, c)
			i++
		}
	}
	return string(out), true
}

// guardNested escapes a % that would, after something was unescaped behind it, begin an escape.
func guardNested(out []byte, percent int, rest string) []byte {
	behind := string(out[percent+1:])
	if len(behind) == 1 && rest != "" {
		behind += rest[:1]
	}
	if _, ok := unhex(behind); !ok {
		return out
	}
	tail := string(out[percent+1:])
	return append(append(out[:percent+1], "25"...), tail...)
}

// dot gives the length of a dot, escaped or not, or 0.
func dot(s string, i int) int {
	switch {
	case i < len(s) && s[i] == '.':
		return 1
	case i+3 <= len(s) && strings.EqualFold(s[i:i+3], "%2e"):
		return 3
	default:
		return 0
	}
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

// up takes the last segment away; what is above the root is the root.
func up(out []byte) []byte {
	return out[:max(0, strings.LastIndexByte(string(out[:len(out)-1]), '/'))+1]
}

func unhex(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	high := strings.IndexByte(hexDigits, upper(s[0]))
	low := strings.IndexByte(hexDigits, upper(s[1]))
	return byte(high<<4 | low), high >= 0 && low >= 0
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
