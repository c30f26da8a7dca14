package compat_test

import (
	"context"
	"log/slog"
	"net"
	"testing"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	configv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/compat"
)

// manager is a management server that sends what it is given, and hands over what it is asked.
type manager struct {
	discoverysvcv3.UnimplementedAggregatedDiscoveryServiceServer
	asked chan *discoverysvcv3.DiscoveryRequest
	send  chan *discoverysvcv3.DiscoveryResponse // nil ends the stream
}

func (m *manager) StreamAggregatedResources(s discoverysvcv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		m.asked <- r
		select {
		case answer := <-m.send:
			if answer == nil {
				return nil
			}
			if err := s.Send(answer); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func response(t *testing.T, version string, configs ...*configv3.RateLimitConfig) *discoverysvcv3.DiscoveryResponse {
	r := &discoverysvcv3.DiscoveryResponse{VersionInfo: version, Nonce: "n" + version}
	for _, c := range configs {
		a, err := anypb.New(c)
		require.NoError(t, err)
		r.Resources = append(r.Resources, a)
	}
	return r
}

// TestManagementServer takes configuration, refuses what is wrong, and comes back after the stream ends.
func TestManagementServer(t *testing.T) {
	m := &manager{asked: make(chan *discoverysvcv3.DiscoveryRequest, 10), send: make(chan *discoverysvcv3.DiscoveryResponse, 10)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	discoverysvcv3.RegisterAggregatedDiscoveryServiceServer(server, m)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()

	s := ratelimit.New(slog.New(slog.DiscardHandler), ratelimit.Options{Keys: 100})
	client := compat.Client{Address: l.Addr().String(), Node: "limits-1", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx, s.ApplyDomains) }()

	first := <-m.asked
	require.Equal(t, "limits-1", first.GetNode().GetId())
	require.Equal(t, "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig", first.GetTypeUrl())
	good := &configv3.RateLimitConfig{Name: "shop", Domain: "shop", Descriptors: []*configv3.RateLimitDescriptor{
		{Key: "user", RateLimit: &configv3.RateLimitPolicy{Unit: configv3.RateLimitUnit_DAY, RequestsPerUnit: 2}, Descriptors: []*configv3.RateLimitDescriptor{
			{Key: "path", Value: "/img/*", RateLimit: &configv3.RateLimitPolicy{Unlimited: true}},
		}},
		{Key: "quota", RateLimit: &configv3.RateLimitPolicy{Unit: configv3.RateLimitUnit_DAY}},
		{Key: "free", RateLimit: &configv3.RateLimitPolicy{Unit: configv3.RateLimitUnit_DAY, RequestsPerUnit: 20}},
	}}
	// Fields of newer servers: metadata, which is passed over, and quota_mode.
	for _, d := range good.GetDescriptors()[1:] {
		d.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(
			protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), nil), 7, protowire.VarintType), 1))
	}
	m.send <- response(t, "1", good)
	ack := <-m.asked
	require.Equal(t, "1", ack.GetVersionInfo())
	require.Equal(t, "n1", ack.GetResponseNonce())
	require.Nil(t, ack.GetErrorDetail())
	require.Equal(t, 2, passes(t, s, of("user=bob")))
	require.Equal(t, 20, passes(t, s, of("user=bob", "path=/img/x")))
	require.Equal(t, 20, passes(t, s, of("quota=x"), of("free=x")), "a quota refuses only if all do")
	require.Equal(t, 0, passes(t, s, of("quota=x")))

	m.send <- response(t, "2", &configv3.RateLimitConfig{Name: "a"}, good, good, &configv3.RateLimitConfig{Name: "w", Domain: "weir"},
		&configv3.RateLimitConfig{Name: "b", Domain: "b", Descriptors: []*configv3.RateLimitDescriptor{
			{},
			{Key: "x", RateLimit: &configv3.RateLimitPolicy{}},
			{Key: "x"},
			{Key: "y", RateLimit: &configv3.RateLimitPolicy{Unlimited: true, Unit: configv3.RateLimitUnit_DAY, Replaces: []*configv3.RateLimitReplace{{}}}},
		}})
	nack := <-m.asked
	require.Equal(t, "1", nack.GetVersionInfo())
	require.Equal(t, "n2", nack.GetResponseNonce())
	require.Equal(t, `a: has no domain
shop: domain shop is there already
w: domain weir is what Weir's own routes ask for
b.: a descriptor has no key
b.x: has no unit: want second, minute, hour, day, week, month or year
b.x: is there already
b.y: what is unlimited has no unit
b.y: replaces must name another limit`, nack.GetErrorDetail().GetMessage())
	require.Equal(t, 2, passes(t, s, of("user=eve")), "the last good one stays")

	m.send <- nil
	again := <-m.asked
	require.Equal(t, "limits-1", again.GetNode().GetId())
	require.Equal(t, 2, passes(t, s, of("user=joe")))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}
