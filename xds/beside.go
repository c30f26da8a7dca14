package xds

import (
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// besideDoor is the listener of a proxy beside a workload. There is one for each service, and they differ in their names and in
// what says whose their spans and logs are.
func besideDoor(ref policy.Ref) door {
	return door{name: besideListener(ref), routes: outbound, address: OutboundAddress, port: OutboundPort, owner: ref}
}

func besideListener(ref policy.Ref) string { return outbound + "/" + ref.String() }

// shared is what all listeners of proxies beside workloads have.
type shared struct {
	manager  *anypb.Any // without spans and logs
	listener []byte     // with it, but for the name
	err      error
}

// share makes what listeners of proxies beside workloads share.
func (t *translator) share() shared {
	own := t.fork()
	d := besideDoor(policy.Ref{})
	m := own.connectionManager(d)
	m.Tracing, m.AccessLog = nil, nil
	s := shared{manager: own.any(m)}
	s.listener = own.marshal(own.unnamedListener(d, s.manager))
	s.err = own.err
	return s
}

func (t *translator) beside(s *mesh.Service) *Resource {
	d := besideDoor(s.Ref)
	return t.named(ListenerType, d.name, s.Name, []policy.Key{t.model.Source}, func() []byte {
		common := t.shared()
		if t.err == nil {
			t.err = common.err
		}
		if t.model.Tracing == nil && t.model.AccessLog == nil {
			return common.listener
		}
		own := t.marshal(&hcmv3.HttpConnectionManager{Tracing: t.tracing(d), AccessLog: t.accessLog(d)})
		return t.marshal(t.unnamedListener(d, &anypb.Any{TypeUrl: common.manager.TypeUrl, Value: merged(common.manager.Value, own)}))
	})
}

// merged gives a message with the fields of two others that have none in common, in their order in all.
func merged(a, b []byte) []byte {
	out := make([]byte, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		x, _, sizeA := protowire.ConsumeField(a)
		y, _, sizeB := protowire.ConsumeField(b)
		if x <= y {
			out, a = append(out, a[:sizeA]...), a[sizeA:]
		} else {
			out, b = append(out, b[:sizeB]...), b[sizeB:]
		}
	}
	return append(append(out, a...), b...)
}
