package serve

import (
	"slices"
	"strconv"
	"sync"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/internal/h2"
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
func (o *onceBuffer) join(items []*item, w *wire) []byte {
	o.once.Do(func() {
		n := 0
		for _, i := range items {
			n += len(w.before(i)) + len(i.wire.body)
		}
		o.all = make([]byte, 0, n)
		for _, i := range items {
			o.all = append(append(o.all, w.before(i)...), i.wire.body...)
		}
	})
	return o.all
}

// fewest is how many items make a run worth its memory, which is theirs once more.
const fewest = 8

// sameItems says whether two lists are of the same items, at once where they are one.
func sameItems(a, b []*item) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// send sends a response. What it makes is on the stack, as long as the response is of a few resources or a run.
func (w *wire) send(call *h2.Call, r *response) {
	var shortHead [256]byte
	var few [2 * fewest][]byte
	head := w.appendHead(shortHead[:0], r)
	for _, one := range r.runs {
		if len(one.items) >= fewest && sameItems(one.items, r.changed) {
			call.Send(head, w.of(one).join(one.items, w))
			return
		}
	}
	pieces := few[:0]
	for _, i := range r.changed {
		pieces = append(pieces, w.before(i), i.wire.body)
	}
	call.Send(head, pieces...)
}

// before is what comes before a resource's body.
func (w *wire) before(i *item) []byte {
	if w.sotw {
		return i.wire.sotw
	}
	return i.wire.delta
}

func (w *wire) of(r *run) *onceBuffer {
	if w.sotw {
		return &r.sotw
	}
	return &r.delta
}

// appendHead appends all of a response but its resources.
func (w *wire) appendHead(b []byte, r *response) []byte {
	var version [16]byte
	b = appendBytes(b, responseVersion, strconv.AppendUint(version[:0], r.whole, 16))
	b = appendBytes(b, responseType, r.kind.String())
	b = appendBytes(b, responseNonce, r.nonce)
	if w.sotw { // it can't say that something is gone
		return b
	}
	for _, name := range r.removed {
		b = appendBytes(b, removedResources, name)
	}
	return b
}

func appendBytes[T string | []byte](b []byte, number protowire.Number, value T) []byte {
	return append(appendHead(b, number, len(value)), value...)
}

// The fields of responses. Those of which there is one are the same in both protocols, which a test holds.
var (
	responseVersion  = field(&discoverysvcv3.DeltaDiscoveryResponse{}, "system_version_info")
	responseType     = field(&discoverysvcv3.DeltaDiscoveryResponse{}, "type_url")
	responseNonce    = field(&discoverysvcv3.DeltaDiscoveryResponse{}, "nonce")
	removedResources = field(&discoverysvcv3.DeltaDiscoveryResponse{}, "removed_resources")
)

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
