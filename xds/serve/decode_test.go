package serve_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
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

func marshal(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// protobufs decodes a request with protobuf's own decoder.
func protobufs(message []byte, sotw bool) (want serve.Request, err error) {
	refusal := func(s *statusv1.Status) string {
		if s != nil && s.GetMessage() == "" {
			return "no reason given"
		}
		return s.GetMessage()
	}
	if sotw {
		r := new(discoverysvcv3.DiscoveryRequest)
		err = proto.Unmarshal(message, r)
		want = serve.Request{Node: r.Node, URL: r.TypeUrl, Nonce: r.ResponseNonce, Version: r.VersionInfo, Subscribe: r.ResourceNames, Refusal: refusal(r.ErrorDetail)}
	} else {
		r := new(discoverysvcv3.DeltaDiscoveryRequest)
		err = proto.Unmarshal(message, r)
		want = serve.Request{
			Node: r.Node, URL: r.TypeUrl, Nonce: r.ResponseNonce, Subscribe: r.ResourceNamesSubscribe,
			Unsubscribe: r.ResourceNamesUnsubscribe, Initial: r.InitialResourceVersions, Refusal: refusal(r.ErrorDetail),
		}
	}
	want.Served = slices.Contains(xds.Types, want.URL)
	return want, err
}

// FuzzRequest: requests are decoded as protobuf's own decoder does it, whatever comes.
func FuzzRequest(f *testing.F) {
	for _, m := range []proto.Message{
		bigRequest(3),
		&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: xds.VirtualHostType, ResponseNonce: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
		&discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: "none", ErrorDetail: &statusv1.Status{}},
		&discoverysvcv3.DiscoveryRequest{
			TypeUrl: xds.RouteType, ResponseNonce: "7", VersionInfo: "1", ResourceNames: []string{"a", "b"},
			Node: &corev3.Node{Id: "gateway~edge~1"}, ErrorDetail: detail("no"),
		},
	} {
		f.Add(marshal(f, m), false)
		f.Add(marshal(f, m), true)
	}
	twice := append(marshal(f, bigRequest(2)), marshal(f, bigRequest(3))...) // of one and of a map the last, of messages both
	f.Add(twice, false)
	f.Add(append(twice, 0x12, 1, 0xff), false)         // no UTF-8
	f.Add(append(twice, 0x2a, 3, 0xa, 1, 0xff), false) // within an entry
	f.Add(append(twice, 0x10, 7), false)               // a number in the place of a text
	f.Add(append(twice, 0x2a, 4, 0x08, 7, 0x12, 0), false)
	f.Add(append(twice, 0x9b, 0x06, 0x9c, 0x06), false) // a group
	f.Add(append(twice, 0x29, 0, 0, 0, 0, 0, 0, 0, 0), false)
	f.Add(twice[:len(twice)-1], false)
	f.Fuzz(func(t *testing.T, message []byte, sotw bool) {
		want, wantErr := protobufs(message, sotw)
		got, err := serve.ParseRequest(message, sotw)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		for _, n := range []*corev3.Node{want.Node, got.Node} {
			if n != nil {
				n.ProtoReflect().SetUnknown(nil)
			}
		}
		if !proto.Equal(got.Node, want.Node) {
			t.Fatalf("node %v, want %v", got.Node, want.Node)
		}
		got.Node, want.Node = nil, nil
		if len(want.Initial) == 0 { // protobuf's decoder makes a map also for what is none
			want.Initial = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want\n%+v", got, want)
		}
	})
}

// TestAnAnswerTakesNothing: that a proxy has accepted something is decoded where it lies.
func TestAnAnswerTakesNothing(t *testing.T) {
	message := marshal(t, &discoverysvcv3.DeltaDiscoveryRequest{TypeUrl: xds.VirtualHostType, ResponseNonce: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"})
	if n := testing.AllocsPerRun(100, func() { serve.ParseAnswer(message) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func naming(t testing.TB, names ...string) []byte {
	return marshal(t, &discoverysvcv3.DiscoveryRequest{TypeUrl: xds.RouteType, ResponseNonce: "7", VersionInfo: "1", ResourceNames: names})
}

// TestNamesOfEachRequest: a state-of-the-world request has all names, of which the new ones and those that are gone are told.
func TestNamesOfEachRequest(t *testing.T) {
	parse := serve.ParseAgain()
	for _, one := range [][3]string{
		{"", "", ""},
		{"b a", "a b", ""},
		{"b a", "", ""},
		{"b", "", "a"},
		{"b c b a", "a c", ""},
		{"a b c", "", ""},
		{"a b d", "d", "c"},
		{"x", "x", "a b d"},
		{"", "", "x"},
	} {
		subscribe, unsubscribe, err := parse(naming(t, strings.Fields(one[0])...))
		if got := [3]string{one[0], strings.Join(subscribe, " "), strings.Join(unsubscribe, " ")}; err != nil || got != one {
			t.Errorf("%q, want %q: %v", got, one, err)
		}
	}
}

func manyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("shop/some-service-%d/v1", i)
	}
	return names
}

// TestNamesThatAreTheSameTakeNothing: nor does the answer in which they are said again.
func TestNamesThatAreTheSameTakeNothing(t *testing.T) {
	parse, message := serve.ParseAgain(), naming(t, manyNames(100)...)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = parse(message) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkStateOfTheWorldAnswer: of a proxy that names 1,000 resources each time. What is to move it: allocations.
func BenchmarkStateOfTheWorldAnswer(b *testing.B) {
	parse, message := serve.ParseAgain(), naming(b, manyNames(1000)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parse(message); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnmarshalRequest: of a proxy that comes back with 1,000 resources. What is to move it: allocations.
func BenchmarkUnmarshalRequest(b *testing.B) {
	text := marshal(b, bigRequest(1000))
	for name, parse := range map[string]func([]byte, bool) (serve.Request, error){"weir": serve.ParseRequest, "protobuf": protobufs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(text, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
