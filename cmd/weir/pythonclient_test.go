package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/quota"
)

// pythonAsks is what testdata/ask.py is given.
type pythonAsks struct {
	Target      string       `json:"target"`
	CA          string       `json:"ca,omitempty"`
	Certificate string       `json:"certificate,omitempty"`
	Key         string       `json:"key,omitempty"`
	Calls       []pythonCall `json:"calls"`
}

type pythonCall struct {
	Method  string `json:"method"`
	Request string `json:"request"`
	Times   int    `json:"times"`
	Stream  bool   `json:"stream"`
}

// pythonAnswers is what became of one call.
type pythonAnswers struct {
	Answers map[string]int `json:"answers"`
	Errors  map[string]int `json:"errors"`
}

func (a *pythonAsks) run(t *testing.T) []pythonAnswers {
	in, err := json.Marshal(a)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), servers.MustTool(t, "python-grpc"), "testdata/ask.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	b, err := cmd.Output()
	require.NoError(t, err)
	var out []pythonAnswers
	require.NoError(t, json.Unmarshal(b, &out))
	return out
}

func encoded(t *testing.T, m proto.Message) string {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return hex.EncodeToString(b)
}

// TestPythonClient asks with gRPC's client for Python, which is another implementation of HTTP/2 than that of Go and of
// Envoy: many questions with a deadline, whether the service is well, and what services there are, on one port.
func TestPythonClient(t *testing.T) {
	ca, key := certificate(t, nil, nil)
	server := keyPair(t, ca, key)
	client := keyPair(t, ca, key)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{server.pair}, ClientCAs: roots}
	mutual := config.Clone()
	mutual.ClientAuth = tls.RequireAndVerifyClientCert
	authority := pemOf("CERTIFICATE", ca.Raw)

	t.Run("plain", func(t *testing.T) {
		askFromPython(t, pythonAsks{Target: serveForPython(t, nil)})
	})
	t.Run("TLS", func(t *testing.T) {
		askFromPython(t, pythonAsks{Target: serveForPython(t, config), CA: authority})
	})
	t.Run("mutual TLS", func(t *testing.T) {
		target := serveForPython(t, mutual)
		askFromPython(t, pythonAsks{Target: target, CA: authority, Certificate: client.certificate, Key: client.key})
		out := (&pythonAsks{Target: target, CA: authority, Calls: []pythonCall{{Method: healthpb.Health_Check_FullMethodName, Times: 1}}}).run(t)
		require.Empty(t, out[0].Answers, "it has no certificate")
	})
}

// serveForPython serves a limit of 100 a day for each user.
func serveForPython(t *testing.T, config *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	log := slog.New(slog.DiscardHandler)
	s := ratelimit.New(log, ratelimit.Options{})
	s.Apply([]*mesh.Limit{{ID: "shop/checkout/0", By: []policy.LimitBy{{Header: "x-user"}}, Requests: 100, Burst: 100, Per: 24 * time.Hour}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveLimits(ctx, s, quota.New(log, s), l) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	return address
}

func askFromPython(t *testing.T, a pythonAsks) {
	const times = 1000
	question := &ratelimitsvcv3.RateLimitRequest{Domain: mesh.LimitDomain, Descriptors: []*commonratelimitv3.RateLimitDescriptor{
		{Entries: []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: mesh.LimitKey, Value: "shop/checkout/0"}, {Key: "x-user", Value: "ann"}}},
	}}
	services := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	a.Calls = []pythonCall{
		{Method: ratelimitsvcv3.RateLimitService_ShouldRateLimit_FullMethodName, Request: encoded(t, question), Times: times},
		{Method: healthpb.Health_Check_FullMethodName, Request: encoded(t, &healthpb.HealthCheckRequest{}), Times: 1},
		{Method: reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName, Request: encoded(t, services), Stream: true},
	}
	out := a.run(t)
	codes := map[ratelimitsvcv3.RateLimitResponse_Code]int{}
	for answer, n := range decoded[ratelimitsvcv3.RateLimitResponse](t, out[0]) {
		codes[answer.GetOverallCode()] += n
	}
	require.Equal(t, map[ratelimitsvcv3.RateLimitResponse_Code]int{
		ratelimitsvcv3.RateLimitResponse_OK: 100, ratelimitsvcv3.RateLimitResponse_OVER_LIMIT: times - 100,
	}, codes)
	for answer := range decoded[healthpb.HealthCheckResponse](t, out[1]) {
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, answer.GetStatus())
	}
	for answer := range decoded[reflectionpb.ServerReflectionResponse](t, out[2]) {
		var names []string
		for _, s := range answer.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		require.Contains(t, names, ratelimitsvcv3.RateLimitService_ServiceDesc.ServiceName)
	}
}

// decoded is how often which message came. There are some, and no errors.
func decoded[M any, P interface {
	*M
	proto.Message
}](t *testing.T, a pythonAnswers) map[P]int {
	require.Empty(t, a.Errors)
	require.NotEmpty(t, a.Answers)
	out := map[P]int{}
	for text, n := range a.Answers {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		m := P(new(M))
		require.NoError(t, proto.Unmarshal(b, m))
		out[m] += n
	}
	return out
}

// credentials is a certificate with its key.
type credentials struct {
	certificate, key string
	pair             tls.Certificate
}

func keyPair(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey) credentials {
	c, key := certificate(t, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	out := credentials{certificate: pemOf("CERTIFICATE", c.Raw), key: pemOf("PRIVATE KEY", der)}
	out.pair, err = tls.X509KeyPair([]byte(out.certificate), []byte(out.key))
	require.NoError(t, err)
	return out
}

// certificate makes one of 127.0.0.1; without a parent it is an authority.
func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "weir test " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c, key
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
