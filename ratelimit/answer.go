package ratelimit

import (
	"math"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of an answer: envoy/service/ratelimit/v3/rls.proto and envoy/config/core/v3/base.proto. Answers are written as
// they go over the wire: with protobuf's messages they would cost more than the decision.
const (
	overallCode   = 1 // of RateLimitResponse
	statuses      = 2
	headersToAdd  = 3
	statusCode    = 1 // of DescriptorStatus
	currentLimit  = 2
	remaining     = 3
	untilReset    = 4
	headerKey     = 1 // of HeaderValue
	headerValue   = 2
	durationSec   = 1 // of Duration
	durationNanos = 2
)

// appendAnswer appends what Envoy is told.
func (q *question) appendAnswer(out []byte, allowed bool, names HeaderNames) []byte {
	out = appendVarint(out, overallCode, uint64(code(allowed)))
	for i := range q.asked {
		var start int
		out, start = begin(out, statuses)
		out = end(q.asked[i].appendStatus(out), start)
	}
	if names != (HeaderNames{}) {
		out = q.appendCompatHeaders(out, names)
	}
	return q.appendHeaders(out, allowed)
}

// appendStatus tells of one descriptor. An unknown limit and a shadow are nothing that a client could see: from a
// current limit Envoy would make x-ratelimit headers.
func (a *asked) appendStatus(out []byte) []byte {
	if a.hit == nil || a.limit.Shadow && !a.limit.compat {
		out = appendVarint(out, statusCode, uint64(ratelimitsvcv3.RateLimitResponse_OK))
		if a.limit != nil && a.limit.unlimited {
			out = appendVarint(out, remaining, math.MaxUint32)
		}
		return out
	}
	d := &a.hit.Decision
	out = appendVarint(out, statusCode, uint64(code(d.Allowed || a.limit.Shadow)))
	out = append(out, a.limit.current...)
	if d.Remaining > 0 {
		out = appendVarint(out, remaining, uint64(narrow(d.Remaining)))
	}
	reset := d.Reset
	if a.limit.compat {
		reset = wholeSeconds(reset)
	}
	out, start := begin(out, untilReset)
	out = appendVarint(out, durationSec, uint64(reset/1e9))
	out = appendVarint(out, durationNanos, uint64(reset%1e9))
	return end(out, start)
}

func code(allowed bool) ratelimitsvcv3.RateLimitResponse_Code {
	if allowed {
		return ratelimitsvcv3.RateLimitResponse_OK
	}
	return ratelimitsvcv3.RateLimitResponse_OVER_LIMIT
}

func appendVarint(out []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(append(out, byte(field<<3)|byte(protowire.VarintType)), n)
}

// begin begins a message, or a text, as a field; end ends it, given where it began.
func begin(out []byte, field protowire.Number) (_ []byte, start int) {
	return append(out, byte(field<<3)|byte(protowire.BytesType), 0), len(out) + 2
}

// end writes the length. It has a byte; what is longer moves.
func end(out []byte, start int) []byte {
	n := len(out) - start
	if n < 0x80 {
		out[start-1] = byte(n)
		return out
	}
	size := protowire.SizeVarint(uint64(n))
	out = append(out, make([]byte, size-1)...)
	copy(out[start+size-1:], out[start:start+n])
	protowire.AppendVarint(out[:start-1], uint64(n))
	return out
}
