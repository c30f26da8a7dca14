package xds

import (
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// quicListener takes HTTP/3 on a door's port of UDP, with the same certificate and routes.
func (t *translator) quicListener(d door, whose string) *Resource {
	name := d.name + "@http3"
	return t.resource(ListenerType, name, whose, append(slices.Clone(d.sources), t.model.Source), func() proto.Message {
		m := t.connectionManager(d)
		m.CodecType, m.Http2ProtocolOptions = hcmv3.HttpConnectionManager_HTTP3, nil
		address := socketAddress(d.address, d.port)
		address.GetSocketAddress().Protocol = corev3.SocketAddress_UDP
		return &listenerv3.Listener{
			Name: name, Address: address, TrafficDirection: d.direction(),
			PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
			UdpListenerConfig: &listenerv3.UdpListenerConfig{
				QuicOptions: &listenerv3.QuicProtocolOptions{
					QuicProtocolOptions: quicGuard(), CryptoHandshakeTimeout: durationpb.New(handshakeTimeout),
				},
				DownstreamSocketConfig: &corev3.UdpSocketConfig{PreferGro: wrapperspb.Bool(true)},
			},
			FilterChains: []*listenerv3.FilterChain{{
				Filters: only(t.any(m)),
				TransportSocket: &corev3.TransportSocket{
					Name: "envoy.transport_sockets.quic",
					ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: t.any(&quicv3.QuicDownstreamTransport{
						DownstreamTlsContext: d.downstreamTLS("h3"),
					})},
				},
			}},
		}
	})
}

// quicGuard bounds what one stranger can have here, as [guard] does for HTTP/2.
func quicGuard() *corev3.QuicProtocolOptions {
	return &corev3.QuicProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(100),
		InitialStreamWindowSize:     wrapperspb.UInt32(1 << 16),
		InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
	}
}

// advertise tells clients of HTTP/3, unless a rule or the service itself says something else of it.
func advertise(port int) []*corev3.HeaderValueOption {
	return []*corev3.HeaderValueOption{header("alt-svc", fmt.Sprintf(`h3=":%d"; ma=86400`, port), corev3.HeaderValueOption_ADD_IF_ABSENT)}
}
