package redmetrics

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// BenchmarkCount counts requests of 500 spans that nobody has decoded, and beside it the same as pdata, with the decoding and
// without. It tells what undecoded requests save; none of it allocates by span but the decoding, and texts of numbers.
func BenchmarkCount(b *testing.B) {
	const spans = 500
	td := typical(spans)
	request := marshal(b, td)
	for _, dimensions := range [][]string{nil, {"http.request.method", "http.response.status_code"}} {
		cfg := NewFactory().CreateDefaultConfig().(*Config)
		cfg.Dimensions = dimensions
		r, now := newRegister(cfg), time.Now()
		for _, way := range []struct {
			name  string
			count func()
		}{
			{"undecoded", func() { r.countUndecoded(request, now) }},
			{"pdata", func() { r.countDecoded(td, now) }},
			{"pdata and decoding", func() {
				td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(request)
				if err != nil {
					b.Fatal(err)
				}
				r.countDecoded(td, now)
			}},
		} {
			b.Run(fmt.Sprintf("%d dimensions/%s", len(dimensions), way.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					way.count()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*spans), "ns/span")
			})
		}
	}
}

// typical is spans of five services, each with some attributes.
func typical(spans int) ptrace.Traces {
	rng := rand.New(rand.NewPCG(1, 2))
	td := ptrace.NewTraces()
	for i := range 5 {
		to := resource(td, "shop", fmt.Sprint("service", i), "v1")
		for range spans / 5 {
			s := span(to, fmt.Sprint("GET /items/", rng.IntN(10)), rng.Uint64(), time.Duration(rng.IntN(1e9)))
			s.SetParentSpanID(pcommon.SpanID{2})
			a := s.Attributes()
			a.PutStr("http.request.method", "GET")
			a.PutStr("url.path", "/items/of/some/kind")
			a.PutInt("http.response.status_code", 200+int64(rng.IntN(3)))
			a.PutStr("server.address", "checkout.shop")
			a.PutStr("user.id", "123456")
		}
	}
	return td
}
