package ratelimit

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// encoded is a question whose last value is as it is, which no marshaller would write.
func encoded(t *testing.T, value string) []byte {
	t.Helper()
	placeholder := string(make([]byte, len(value)))
	b, err := proto.Marshal(request(descriptor("l", "x-user-id", placeholder)))
	require.NoError(t, err)
	copy(b[len(b)-len(value):], value)
	return b
}

func TestAValueThatIsNoTextIsAKeyLikeAnother(t *testing.T) {
	c := codec{encoding.GetCodecV2("proto")}
	for value, want := range map[string]string{
		"\xe9": `\xe9`, "caf\xe9": `caf\xe9`, "caf\xe8": `caf\xe8`, "é": "é", "\xff\xfe\x80": `\xff\xfe\x80`, "é\xc3": `é\xc3`, "�": "�",
	} {
		var got ratelimitsvcv3.RateLimitRequest
		require.NoError(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded(t, value))}, &got), "%q", value)
		assert.Equal(t, want, got.GetDescriptors()[0].GetEntries()[1].GetValue())
		assert.Equal(t, "l", got.GetDescriptors()[0].GetEntries()[0].GetValue())
	}
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	c := codec{encoding.GetCodecV2("proto")}
	for _, b := range [][]byte{{0xff}, {0x12, 0x05, 0x01}, []byte("GET / HTTP/1.1")} {
		assert.Error(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, new(ratelimitsvcv3.RateLimitRequest)))
	}
}
