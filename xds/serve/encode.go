package serve

import (
	"slices"
	"sync"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/xds"
)

// wireResource is a resource as part of a response: encoded once, and its parts go into the responses of all proxies as
// they are. A response may say its repeated fields in any order.
type wireResource struct {
	delta []byte // what comes before the body in a DeltaDiscoveryResponse
	sotw  []byte // and in a DiscoveryResponse
	body  []byte
}

// run is items that many proxies are sent together, as one piece. Making a response of a thousand pieces costs each
// proxy more than anything else that is done for it.
type run struct {
	items       []*item
	delta, sotw onceBuffer
}

type onceBuffer struct {
	once sync.Once
	all  []byte
}

// join gives the resources of items as one piece, made by the first that asks.
func (o *onceBuffer) join(items []*item, head func(*wireResource) []byte) []byte {
	o.once.Do(func() {
		n := 0
		for _, i := range items {
			n += len(head(i.wire)) + len(i.wire.body)
		}
		o.all = make([]byte, 0, n)
		for _, i := range items {
			o.all = append(append(o.all, head(i.wire)...), i.wire.body...)
		}
	})
	return o.all
}

func deltaHead(w *wireResource) []byte { return w.delta }
func sotwHead(w *wireResource) []byte  { return w.sotw }

// fewest is how many items make a run worth its memory, which is theirs once more.
const fewest = 8

// pieces gives a response that begins so with its resources.
func (r *response) pieces(begin []byte, head func(*wireResource) []byte, of func(*run) *onceBuffer) [][]byte {
	for _, one := range r.runs {
		if len(one.items) >= fewest && slices.Equal(one.items, r.changed) {
			return [][]byte{begin, of(one).join(one.items, head)}
		}
	}
	pieces := append(make([][]byte, 0, 1+2*len(r.changed)), begin)
	for _, i := range r.changed {
		pieces = append(pieces, head(i.wire), i.wire.body)
	}
	return pieces
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
