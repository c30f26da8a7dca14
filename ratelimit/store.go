package ratelimit

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// Store keeps the counters. All its methods may be called from any goroutine.
type Store interface {
	// Take decides all hits of one request as one, at now, which is nanoseconds since 1970, and fills in their
	// decisions. It gives true, and the request may pass, if
	//   - every hit is allowed, but for shadows and those of a quota, and
	//   - of the hits of a quota, if there are any, at least one is allowed or a shadow.
	// Then each allowed hit of kind [Take] is counted; else none is, and hits that others brought down tell what
	// remains without them. What a [Charge] or a [Refund] does is done in either case.
	//
	// No two calls interleave: the decisions are those of some order of the calls, one after the other. A now that
	// is earlier than that of a call before, which counted something, is as good as that one. Two hits of one call
	// may share a counter; they are decided in their order.
	//
	// With an error nothing is decided, and the hits may or may not be counted; so it isn't retried. Memory has none.
	// Take keeps neither hits nor their keys when it returns; it may keep their rates, which don't change.
	Take(ctx context.Context, now int64, hits []Hit) (bool, error)

	// Stats is for people; it may cost milliseconds and is no consistent cut.
	Stats(now int64) Stats
}

// Prompt is a [Store] that has to wait for some answers only.
type Prompt interface {
	Store
	// Ask is Take where nothing has to be waited for. Else it gives false for done, and tells the waiter later; the hits,
	// their keys and rates are the store's until then. What it has to wait for may be left to wait for others until the
	// next Flush.
	Ask(now int64, hits []Hit, w Waiter) (ok, done bool, err error)
	Flusher
}

// Waiter is told what [Prompt.Ask] would have given. It is told once, by a goroutine that is not within Ask, and does not
// wait for anything.
type Waiter interface {
	// Decided gives what is to be flushed when others who were decided with this one are told too; nil: nothing.
	Decided(ok bool, err error) Flusher
}

// Flusher has written what has gathered.
type Flusher interface{ Flush() }

// ErrUnavailable is of a [Store] that can't be asked now, of which it tells by itself.
var ErrUnavailable = errors.New("the store of rate limits can't be asked")

// Hit is one limit's part in a request.
type Hit struct {
	Key    []byte // of [AppendKey]; hits with equal keys and rates of the same [Algorithm] share a counter
	Rate   *Rate
	N      uint64 // how many requests it counts for; 0 only asks, see [Kind]
	Kind   Kind
	Shadow bool // decided and counted, but never a reason to refuse
	Quota  bool // a reason to refuse only if all others of a quota are refused too
	Strict bool // where the store can't be asked, it is an error rather than a part of the limit

	Decision Decision // what [Store.Take] found

	place place // scratch of Memory
}

// Pass is whether a request with these decisions may pass.
func Pass(hits []Hit) bool {
	quota, left := false, false
	for i := range hits {
		h := &hits[i]
		ok := h.Decision.Allowed || h.Shadow
		if !ok && !h.Quota {
			return false
		}
		quota = quota || h.Quota
		left = left || h.Quota && ok
	}
	return left || !quota
}

// Stats is how full a store is.
type Stats struct {
	Keys      uint64 `json:"keys"`      // counters that are not back to where they began
	Capacity  uint64 `json:"capacity"`  // how many there may be; 0 is no bound of its own
	Evictions uint64 `json:"evictions"` // counters that were forgotten although they were in use

	Remote *Remote `json:"remote,omitempty"` // of a store that is shared by replicas
}

// Remote is how a store does that is elsewhere.
type Remote struct {
	Kind     string    `json:"kind"` // redis
	Up       bool      `json:"up"`   // it is asked; else see Fallback
	Since    time.Time `json:"since"`
	Error    string    `json:"error,omitempty"` // the last one, and why it is not asked
	Replicas int       `json:"replicas"`        // that share it
	Fallback string    `json:"fallback"`        // what is done while it can't be asked
	Leases   uint64    `json:"leases"`          // keys of which a part is decided here

	Calls   uint64 `json:"calls"`   // scripts, and new keys
	Asked   uint64 `json:"asked"`   // questions that waited for it
	Local   uint64 `json:"local"`   // that a lease or a known refusal answered
	Ahead   uint64 `json:"ahead"`   // that passed before it was told of them
	Alone   uint64 `json:"alone"`   // that were answered by this replica's share of the limits
	Errors  uint64 `json:"errors"`  // calls that failed
	Refused uint64 `json:"refused"` // questions that got no answer, so that onError decides
}

// AppendKey appends a part of a key, so that different lists of parts never give the same bytes.
func AppendKey(key []byte, part string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(part))), part...)
}
