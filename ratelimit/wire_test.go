package ratelimit

import (
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// TestQuestionsAreReadAsProtobufReadsThem reads random ones into the same memory, one after the other.
func TestQuestionsAreReadAsProtobufReadsThem(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var m message
	for range 20_000 {
		want := randomQuestion(r)
		b, err := proto.Marshal(want)
		require.NoError(t, err)
		require.NoError(t, m.read(b))
		require.Truef(t, proto.Equal(want, &m.request), "%v\n%v", want, &m.request)
	}
}

func randomQuestion(r *rand.Rand) *ratelimitsvcv3.RateLimitRequest {
	word := func() string { return strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(200)) }
	q := &ratelimitsvcv3.RateLimitRequest{Domain: word(), HitsAddend: r.Uint32() >> r.IntN(33)}
	for range r.IntN(5) {
		d := &commonratelimitv3.RateLimitDescriptor{IsNegativeHits: r.IntN(2) == 0}
		for range r.IntN(5) {
			d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: word(), Value: word()})
		}
		if r.IntN(3) == 0 {
			d.Limit = &commonratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: r.Uint32(), Unit: typev3.RateLimitUnit_DAY}
		}
		if r.IntN(3) == 0 {
			d.HitsAddend = wrapperspb.UInt64(r.Uint64() >> r.IntN(65))
		}
		q.Descriptors = append(q.Descriptors, d)
	}
	return q
}

// FuzzQuestion holds what is read against protobuf on any bytes: what it takes is the same, and what it refuses but
// for strings that are no text is refused.
func FuzzQuestion(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		b, _ := proto.Marshal(randomQuestion(r))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		err := m.read(b)
		var want ratelimitsvcv3.RateLimitRequest
		if proto.Unmarshal(b, &want) == nil && err == nil {
			want.ProtoReflect().SetUnknown(nil)
			require.Equal(t, want.GetDomain(), m.request.GetDomain())
			require.Len(t, m.request.GetDescriptors(), len(want.GetDescriptors()))
			for i, d := range want.GetDescriptors() {
				require.Len(t, m.request.GetDescriptors()[i].GetEntries(), len(d.GetEntries()))
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := New(slog.New(slog.DiscardHandler), Options{})
			s.Apply([]*mesh.Limit{{ID: "shop/checkout/0", By: []policy.LimitBy{{Header: "x-user"}}, Requests: 100, Burst: 100, Per: time.Second}})
			zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 100_000)
			questions := make([][]byte, 100_000)
			for i := range questions {
				q := &ratelimitsvcv3.RateLimitRequest{Domain: mesh.LimitDomain}
				for range n {
					q.Descriptors = append(q.Descriptors, &commonratelimitv3.RateLimitDescriptor{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{
						{Key: mesh.LimitKey, Value: "shop/checkout/0"}, {Key: "x-user", Value: "user-" + strconv.FormatUint(zipf.Uint64(), 10)},
					}})
				}
				questions[i], _ = proto.Marshal(q)
			}
			var out []byte
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				out, _, _ = unary{s}.Answer(questions[i%len(questions)], out[:0], nil)
			}
		})
	}
}
