package xds

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// handshakeTimeout bounds how long a stranger may take over a handshake.
const handshakeTimeout = 10 * time.Second

var tlsVersions = map[string]tlsv3.TlsParameters_TlsProtocol{
	"1.2": tlsv3.TlsParameters_TLSv1_2, "1.3": tlsv3.TlsParameters_TLSv1_3,
}

// certificate names the files of a listener's certificate and key. The proxy reads them by itself, and again when
// anything is moved into their folders: the key is nowhere but on its machine.
func (t *translator) certificate(d door, whose string) *Resource {
	return t.resource(SecretType, d.name, whose, d.sources, func() proto.Message {
		return &tlsv3.Secret{Name: d.name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inFile(d.tls.Certificate), PrivateKey: inFile(d.tls.Key),
		}}}
	})
}

func inFile(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

// encrypted gives a door's filter chain its TLS, if it has one. The ciphers are Envoy's own, which are those with forward
// secrecy and authenticated encryption.
func (t *translator) encrypted(d door, chain *listenerv3.FilterChain) *listenerv3.FilterChain {
	if d.tls == nil {
		return chain
	}
	chain.TransportSocket = &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: t.any(d.downstreamTLS("h2", "http/1.1"))},
	}
	chain.TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
	return chain
}

func (d door) downstreamTLS(alpn ...string) *tlsv3.DownstreamTlsContext {
	return &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsVersions[d.tls.MinVersion], TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: d.name, SdsConfig: adsSource()}},
		AlpnProtocols:                  alpn,
	}}
}
