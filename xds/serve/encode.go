package serve

import (
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that takes everything else
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/xds"
)

// wireResource is a resource as part of a response: encoded once, and its parts go into the responses of all proxies as
// they are. A response may say its repeated fields in any order.
type wireResource struct {
	delta mem.SliceBuffer // what comes before the body in a DeltaDiscoveryResponse
	sotw  mem.SliceBuffer // and in a DiscoveryResponse
	body  mem.SliceBuffer
}

// The fields that a resource is in, each the last of its message that is written.
var (
	deltaResources = field(&discoverysvcv3.DeltaDiscoveryResponse{}, "resources")
	sotwResources  = field(&discoverysvcv3.DiscoveryResponse{}, "resources")
	resourceAny    = field(&discoverysvcv3.Resource{}, "resource")
	anyValue       = field(&anypb.Any{}, "value")
)

func field(m proto.Message, name protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
}

func encodeResource(r *xds.Resource) *wireResource {
	inAny := marshal(&anypb.Any{TypeUrl: r.Type})
	inAny = appendHead(inAny, anyValue, len(r.Body))
	inResource := marshal(&discoverysvcv3.Resource{Name: r.Name, Version: r.Version})
	inResource = appendHead(inResource, resourceAny, len(inAny)+len(r.Body))
	inResource = append(inResource, inAny...)
	return &wireResource{
		delta: append(appendHead(nil, deltaResources, len(inResource)+len(r.Body)), inResource...),
		sotw:  append(appendHead(nil, sotwResources, len(inAny)+len(r.Body)), inAny...),
		body:  r.Body,
	}
}

// appendHead begins a field of n bytes.
func appendHead(b []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(n))
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // text that is not UTF-8, which Kubernetes' names and hashes are
	}
	return b
}

// frame is a response that is encoded already.
type frame mem.BufferSlice

// codec sends frames as they are.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(frame); ok {
		return mem.BufferSlice(f), nil
	}
	return c.CodecV2.Marshal(v)
}
