package otlp_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/otlp"
)

// Each is of 500 spans with five attributes: all alike, or no two in a row.

func BenchmarkCheck(b *testing.B) {
	perSpan(b, func(data []byte) {
		if _, err := otlp.Check(data); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var s otlp.Span
	perSpan(b, func(data []byte) { spans(data, func(message []byte) { s.Read(message) }) })
}

// BenchmarkAttributes is of reading, and of looking for two attributes, of which none has one.
func BenchmarkAttributes(b *testing.B) {
	var s otlp.Span
	n := 0
	perSpan(b, func(data []byte) {
		spans(data, func(message []byte) {
			s.Read(message)
			if v, ok := s.Attributes().Get("server.address"); ok {
				n += len(v.Str())
			}
			if _, ok := s.Attributes().Get("sampling.priority"); ok {
				n++
			}
		})
	})
	_ = n
}

// BenchmarkPdata is what the rest is instead of.
func BenchmarkPdata(b *testing.B) {
	perSpan(b, func(data []byte) {
		if _, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data); err != nil {
			b.Fatal(err)
		}
	})
}

func perSpan(b *testing.B, do func([]byte)) {
	for _, from := range []string{"sdk", "collector"} {
		for _, kind := range []string{"alike", "mixed"} {
			td := typical(kind == "mixed")
			data := marshal(b, td)
			if from == "sdk" {
				data = ascending(b, data)
			}
			b.Run(from+"/"+kind, func(b *testing.B) {
				for b.Loop() {
					do(data)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*td.SpanCount()), "ns/span")
			})
		}
	}
}

// ascending is a request as SDKs write it: pdata writes the fields of each message in descending order.
func ascending(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var td tracepb.TracesData
	if err := proto.Unmarshal(data, &td); err != nil {
		tb.Fatal(err)
	}
	out, err := proto.Marshal(&td)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func spans(request []byte, do func([]byte)) {
	each(request, otlp.RequestResourceSpans, func(rs []byte) {
		each(rs, otlp.ResourceSpansScopeSpans, func(ss []byte) { each(ss, otlp.ScopeSpansSpans, do) })
	})
}

func each(message []byte, number int, do func([]byte)) {
	for f := otlp.FieldsOf(message); f.Next(); {
		if f.Number == number {
			do(f.Body)
		}
	}
}

func typical(mixed bool) ptrace.Traces {
	r := rand.New(rand.NewPCG(1, 2))
	odds := func(n int) bool { return mixed && r.IntN(n) == 0 }
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i := range 500 {
		s := spans.AppendEmpty()
		s.SetTraceID(pcommon.TraceID{byte(i >> 8), byte(i), 1})
		s.SetSpanID(pcommon.SpanID{byte(i >> 8), byte(i), 1})
		if !odds(5) {
			s.SetParentSpanID(pcommon.SpanID{byte(i >> 8), byte(i), 2})
		}
		if odds(3) {
			s.TraceState().FromRaw("ot=th:8")
		}
		if odds(2) {
			s.SetFlags(0x101)
		}
		s.SetName("GET /items")
		s.SetKind(ptrace.SpanKindServer)
		s.SetStartTimestamp(1_790_000_000_000_000_000)
		s.SetEndTimestamp(1_790_000_000_100_000_000)
		if odds(20) {
			s.Status().SetCode(ptrace.StatusCodeError)
			s.Events().AppendEmpty().Attributes().PutStr("exception.stacktrace", strings.Repeat("x", 1000))
		}
		a := s.Attributes()
		a.PutStr("http.request.method", "GET")
		a.PutStr("url.path", "/items/of/some/kind")
		a.PutInt("http.response.status_code", 200)
		if mixed {
			for j := range r.IntN(5) {
				attribute(r, a, fmt.Sprint("attribute", j))
			}
			continue
		}
		a.PutStr("server.address", "checkout.shop")
		a.PutStr("user.id", "123456")
	}
	return td
}

func attribute(r *rand.Rand, a pcommon.Map, key string) {
	switch r.IntN(8) {
	case 0:
		a.PutBool(key, true)
	case 1:
		a.PutDouble(key, 0.5)
	case 2:
		a.PutInt(key, r.Int64())
	case 3:
		a.PutStr(key, strings.Repeat("x", 100+r.IntN(200)))
	case 4:
		a.PutEmptySlice(key).AppendEmpty().SetStr("x")
	default:
		a.PutStr(key, "x")
	}
}
