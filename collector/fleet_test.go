package collector_test

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// The spans that the tests send are a pure function of their numbers, and carry their numbers as span ids. So what
// arrives in the archive can be held against what was sent without remembering a million spans.
//
// A block is 10,000 spans: 500 traces that cross all five classes, two spans in each, and 1,000 traces of five spans
// within one class. It goes out in two requests, and every trace has spans in both.
const (
	blockSpans  = 10_000
	mixedTraces = 500
	blockTraces = mixedTraces + 1000
)

var (
	classes    = []string{"main", "api", "background", "health", "executions"}
	percents   = map[string]float64{"main": 20, "api": 30, "background": 5, "health": 1, "executions": 50}
	retentions = map[string]string{"main": "90d", "api": "60d", "background": "30d", "health": "7d", "executions": "90d"}
)

// place says which trace and class (an index of classes) the span with that number is of.
func place(span int) (trace, class int) {
	block, k := span/blockSpans, span%blockSpans
	if k < 10*mixedTraces {
		return block*blockTraces + k/10, k % 10 / 2
	}
	trace = mixedTraces + (k-10*mixedTraces)/5
	return block*blockTraces + trace, trace % len(classes)
}

// traceID is a UUID version 4 from a fixed seed.
func traceID(trace int) (id pcommon.TraceID) {
	random := rand.New(rand.NewPCG(20261123, uint64(trace)))
	binary.BigEndian.PutUint64(id[:8], random.Uint64())
	binary.BigEndian.PutUint64(id[8:], random.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// request gives the spans of one half of a block: request 2n and 2n+1 are block n.
func request(n int) ptrace.Traces {
	td := ptrace.NewTraces()
	spans := make([]ptrace.SpanSlice, len(classes))
	for i, class := range classes {
		rs := td.ResourceSpans().AppendEmpty()
		attributes := rs.Resource().Attributes()
		attributes.PutStr("service.namespace", "shop")
		attributes.PutStr("service.name", "svc-"+class)
		if class == "health" || class == "executions" { // the others have documents
			attributes.PutStr("weir.class", class)
		}
		spans[i] = rs.ScopeSpans().AppendEmpty().Spans()
	}
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for span := n / 2 * blockSpans; span < (n/2+1)*blockSpans; span++ {
		if span%2 != n%2 {
			continue
		}
		trace, class := place(span)
		s := spans[class].AppendEmpty()
		s.SetTraceID(traceID(trace))
		s.SetSpanID(spanID(span))
		s.SetName("GET /cart")
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(start.Add(time.Duration(span) * time.Microsecond)))
		s.SetEndTimestamp(s.StartTimestamp() + 1_000_000)
	}
	return td
}

// spanID is the number from 1, because no span id is all zeros.
func spanID(span int) (id pcommon.SpanID) {
	binary.BigEndian.PutUint64(id[:], uint64(span+1))
	return id
}

func spanNumber(id pcommon.SpanID) int { return int(binary.BigEndian.Uint64(id[:])) - 1 }
