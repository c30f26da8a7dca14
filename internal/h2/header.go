package h2

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// table is what the client's table of headers (RFC 7541) holds of ours: at most the two that every answer has.
type table struct {
	plain       bool // the client wants none
	resize      bool // and is to be told that there is none
	contentType bool
	status      bool
}

// prefix begins a block.
func (c *conn) prefix(block []byte) []byte {
	if c.table.resize {
		c.table.resize = false
		block = append(block, 0x20) // a table of no bytes: section 6.3
	}
	return block
}

// Blocks that every answer has: RFC 7541, section 6 and appendix A.
const (
	status200     = "\x88"
	statusIndexed = "\xbe" // 62, the youngest in the table
	addStatus     = "\x40\x0bgrpc-status\x010"
	addType       = "\x5f\x10application/grpc"
	plainStatus   = "\x00\x0bgrpc-status\x010"
	plainType     = "\x0f\x10\x10application/grpc"
)

// appendHeaders appends the headers of a unary answer.
func (c *conn) appendHeaders(out []byte, id uint32) []byte {
	start := len(out)
	out = c.prefix(appendHead(out, 0, frameHeaders, flagEndHeaders, id))
	out = append(out, status200...)
	switch {
	case c.table.plain:
		out = append(out, plainType...)
	case !c.table.contentType:
		out = append(out, addType...)
		c.table.contentType = true
	case c.table.status:
		out = append(out, 0xbf)
	default:
		out = append(out, 0xbe)
	}
	out[start+2] = byte(len(out) - start - headSize)
	return out
}

// appendTrailers appends the end of a unary answer.
func (c *conn) appendTrailers(out []byte, id uint32) []byte {
	start := len(out)
	out = c.prefix(appendHead(out, 0, frameHeaders, flagEndHeaders|flagEndStream, id))
	switch {
	case c.table.plain:
		out = append(out, plainStatus...)
	case c.table.status:
		out = append(out, statusIndexed...)
	default:
		out = append(out, addStatus...)
		c.table.status = true
	}
	out[start+2] = byte(len(out) - start - headSize)
	return out
}

// appendLiteral appends a header that is put into no table.
func appendLiteral(block []byte, name, value string) []byte {
	return appendString(appendString(append(block, 0), name), value)
}

func appendString(block []byte, s string) []byte {
	n := uint64(len(s))
	if n < 127 {
		return append(append(block, byte(n)), s...)
	}
	block = append(block, 127)
	for n -= 127; n >= 128; n >>= 7 {
		block = append(block, byte(n)|0x80)
	}
	return append(append(block, byte(n)), s...)
}

// appendBlock appends a block in as many frames as it needs.
func appendBlock(out []byte, id uint32, flags byte, block []byte, most int) []byte {
	kind := byte(frameHeaders)
	for {
		n := min(len(block), most)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		out = append(appendHead(out, n, kind, flags, id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		kind, flags = frameContinuation, 0
	}
}

// request is the headers of one.
type request struct {
	method, scheme, path, authority string
	contentType, encoding           string
	length                          int64 // below 0: it does not say
	header                          []hpack.HeaderField
}

// parseRequest reads headers: RFC 9113, section 8.3.1.
func parseRequest(fields []hpack.HeaderField) (r request, ok bool) {
	r.length = -1
	i := 0
	for ; i < len(fields) && strings.HasPrefix(fields[i].Name, ":"); i++ {
		var to *string
		switch fields[i].Name {
		case ":method":
			to = &r.method
		case ":scheme":
			to = &r.scheme
		case ":path":
			to = &r.path
		case ":authority":
			to = &r.authority
		}
		if to == nil || *to != "" {
			return r, false
		}
		*to = fields[i].Value
	}
	if r.method == "" || r.path == "" || r.scheme == "" {
		return r, false
	}
	r.header = fields[i:]
	for i := range r.header {
		if !r.read(&r.header[i]) {
			return r, false
		}
	}
	return r, true
}

// read takes what matters of one header.
func (r *request) read(f *hpack.HeaderField) bool {
	switch f.Name {
	case "content-type":
		r.contentType = f.Value
	case "grpc-encoding":
		r.encoding = f.Value
	case "content-length":
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil {
			return false
		}
		r.length = int64(n)
	case "te":
		return f.Value == "trailers"
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	default:
		return validName(f.Name)
	}
	return true
}

func validName(name string) bool {
	for i := range len(name) {
		if b := name[i]; b == ':' || 'A' <= b && b <= 'Z' || b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return name != ""
}

func validTrailers(fields []hpack.HeaderField) bool {
	for i := range fields {
		if !validName(fields[i].Name) {
			return false
		}
	}
	return true
}

func (r *request) isUnary(path string) bool { return r.path == path && r.isGRPC() }

// isGRPC says whether it is a call, of messages that are not compressed.
func (r *request) isGRPC() bool {
	return r.method == http.MethodPost && (r.encoding == "" || r.encoding == "identity") &&
		(r.contentType == "application/grpc" || r.contentType == "application/grpc+proto")
}

// indexed is whether a block that can be decoded is of entries of the tables alone, of one byte each: RFC 7541, section
// 6.1. Such a one changes none.
func indexed(block []byte) bool {
	for _, b := range block {
		if b < 0x80 || b == 0xff {
			return false
		}
	}
	return true
}

func statusCode(c codes.Code) string { return strconv.FormatUint(uint64(c), 10) }

// encodeMessage writes a message of gRPC with everything but printable ASCII as %HH.
func encodeMessage(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
