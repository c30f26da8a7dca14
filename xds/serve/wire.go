package serve

import (
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/xds"
)

// request is what a proxy says, in the delta protocol's terms; the other protocol is turned into it.
type request struct {
	node        *corev3.Node
	kind        string // type URL
	subscribe   []string
	unsubscribe []string
	initial     map[string]string // what it has from an earlier stream, name to version
	version     string            // state-of-the-world: of all that it has from an earlier stream
	nonce       string            // of the response that this answers; "" answers none
	refusal     string            // why it refused that; "" accepts it
}

// response is what goes out.
type response struct {
	kind    string
	nonce   string
	changed []*item
	runs    []*run // what changed may be, already encoded
	removed []string
	whole   string // the version of all that the proxy then has of the type
}

// wire is a stream's protocol.
type wire interface {
	// parse keeps nothing of the message.
	parse(message []byte) (*request, error)
	// encode gives the pieces of a message, most of which are shared.
	encode(*response) [][]byte
	// full says whether every response must have all resources of the type.
	full(kind string) bool
}

type deltaWire struct{}

func (deltaWire) full(string) bool { return false }

func (deltaWire) parse(message []byte) (*request, error) {
	r := new(discoverysvcv3.DeltaDiscoveryRequest)
	if err := unmarshalRequest(message, r); err != nil {
		return nil, err
	}
	return &request{
		node: r.GetNode(), kind: r.GetTypeUrl(), subscribe: r.GetResourceNamesSubscribe(),
		unsubscribe: r.GetResourceNamesUnsubscribe(), initial: r.GetInitialResourceVersions(),
		nonce: r.GetResponseNonce(), refusal: refusal(r.GetErrorDetail() != nil, r.GetErrorDetail().GetMessage()),
	}, nil
}

func refusal(refused bool, message string) string {
	if refused && message == "" {
		return "no reason given"
	}
	return message
}

func (deltaWire) encode(r *response) [][]byte {
	head := marshal(&discoverysvcv3.DeltaDiscoveryResponse{
		TypeUrl: r.kind, Nonce: r.nonce, RemovedResources: r.removed, SystemVersionInfo: r.whole,
	})
	return r.pieces(head, deltaHead, func(one *run) *onceBuffer { return &one.delta })
}

type sotwWire struct {
	names map[string]map[string]bool // by type, what the last request named
}

// full: in this protocol clusters and listeners that a response lacks are gone.
func (w *sotwWire) full(kind string) bool { return kind == xds.ClusterType || kind == xds.ListenerType }

func (w *sotwWire) parse(message []byte) (*request, error) {
	r := new(discoverysvcv3.DiscoveryRequest)
	if err := proto.Unmarshal(message, r); err != nil {
		return nil, err
	}
	out := &request{
		node: r.GetNode(), kind: r.GetTypeUrl(), version: r.GetVersionInfo(), nonce: r.GetResponseNonce(),
		refusal: refusal(r.GetErrorDetail() != nil, r.GetErrorDetail().GetMessage()),
	}
	if !slices.Contains(xds.Types, out.kind) {
		return out, nil // nothing is kept of what is not served
	}
	named := make(map[string]bool)
	for _, n := range r.GetResourceNames() {
		named[n] = true
	}
	before := w.names[out.kind]
	for _, n := range slices.Sorted(maps.Keys(named)) {
		if !before[n] {
			out.subscribe = append(out.subscribe, n)
		}
	}
	for n := range before {
		if !named[n] {
			out.unsubscribe = append(out.unsubscribe, n)
		}
	}
	w.names[out.kind] = named
	return out, nil
}

func (w *sotwWire) encode(r *response) [][]byte {
	head := marshal(&discoverysvcv3.DiscoveryResponse{TypeUrl: r.kind, Nonce: r.nonce, VersionInfo: r.whole})
	return r.pieces(head, sotwHead, func(one *run) *onceBuffer { return &one.sotw })
}
