package ratelimit

import (
	"context"
	"encoding/binary"
)

// Store keeps the counters. All its methods may be called from any goroutine.
type Store interface {
	// Take decides all hits of one request as one, at now, which is nanoseconds since 1970, and fills in their
	// decisions. If every hit is allowed or a shadow, each allowed hit is counted, and Take gives true. Else nothing
	// is counted at all; hits that others brought down then tell what remains without them.
	//
	// No two calls interleave: the decisions are those of some order of the calls, one after the other. A now that
	// is earlier than that of a call before is as good as that one. Two hits of one call may share a key.
	//
	// With an error nothing is decided, and the hits may or may not be counted; so it isn't retried. Memory has none.
	// Take keeps neither hits nor their keys when it returns.
	Take(ctx context.Context, now int64, hits []Hit) (bool, error)

	// Stats is for people; it may cost milliseconds and is no consistent cut.
	Stats(now int64) Stats
}

// Hit is one limit's part in a request.
type Hit struct {
	Key    []byte // of [AppendKey]; equal keys share a counter
	Rate   *Rate
	N      uint64 // how many requests it counts for
	Shadow bool   // decided and counted, but never a reason to refuse

	Decision Decision // what [Store.Take] found

	place place // scratch of Memory
}

// Stats is how full a store is.
type Stats struct {
	Keys      uint64 `json:"keys"`      // counters that are not back to where they began
	Capacity  uint64 `json:"capacity"`  // how many there may be; 0 is no bound of its own
	Evictions uint64 `json:"evictions"` // counters that were forgotten although they were in use
}

// AppendKey appends a part of a key, so that different lists of parts never give the same bytes.
func AppendKey(key []byte, part string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(part))), part...)
}
