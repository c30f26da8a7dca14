package serve_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

func bigRequest(n int) *discoverysvcv3.DeltaDiscoveryRequest {
	r := &discoverysvcv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "service~shop/cart~1"}, TypeUrl: xds.ClusterType, ResponseNonce: "7", ErrorDetail: detail("no"),
		ResourceNamesUnsubscribe: []string{"x"}, InitialResourceVersions: make(map[string]string),
	}
	for i := range n {
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, fmt.Sprint("shop/s", i))
		r.InitialResourceVersions[fmt.Sprint("shop/s", i)] = fmt.Sprintf("%016x", i)
	}
	return r
}

// TestUnmarshalRequest: requests are decoded as protobuf's own decoder does it, whatever comes.
func TestUnmarshalRequest(t *testing.T) {
	text, err := proto.Marshal(bigRequest(40))
	if err != nil {
		t.Fatal(err)
	}
	random, refused := rand.New(rand.NewPCG(1, 2)), 0
	for i := range 20_000 {
		b := append([]byte(nil), text...)
		for range i % 4 { // none: as it is
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		if i%7 == 6 {
			b = b[:random.IntN(len(b))]
		}
		want, got := new(discoverysvcv3.DeltaDiscoveryRequest), new(discoverysvcv3.DeltaDiscoveryRequest)
		wantErr, gotErr := proto.Unmarshal(b, want), serve.UnmarshalLong(b, got)
		if (wantErr == nil) != (gotErr == nil) {
			t.Fatalf("%x: %v, want %v", b, gotErr, wantErr)
		}
		if wantErr != nil {
			refused++
			continue
		}
		want.ProtoReflect().SetUnknown(nil)
		got.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(want, got) {
			t.Fatalf("%x:\n%v, want\n%v", b, got, want)
		}
	}
	t.Logf("%d were refused by both", refused)
}

// BenchmarkUnmarshalRequest: of a proxy that comes back with 1,000 resources. What is to move it: allocations.
func BenchmarkUnmarshalRequest(b *testing.B) {
	text, err := proto.Marshal(bigRequest(1000))
	if err != nil {
		b.Fatal(err)
	}
	for name, unmarshal := range map[string]func([]byte, *discoverysvcv3.DeltaDiscoveryRequest) error{
		"weir": serve.UnmarshalLong, "protobuf": func(b []byte, r *discoverysvcv3.DeltaDiscoveryRequest) error { return proto.Unmarshal(b, r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := unmarshal(text, new(discoverysvcv3.DeltaDiscoveryRequest)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
