package compat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	configv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/ratelimit"
)

// configType is what envoyproxy/ratelimit asks its management server for.
const configType = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

// Client takes configuration from a management server, as envoyproxy/ratelimit does with CONFIG_TYPE=GRPC_XDS_SOTW:
// state-of-the-world over an aggregated stream.
type Client struct {
	Address string
	Node    string // its id
	CA      string // a file of authorities in PEM; "": without TLS
	Log     *slog.Logger
}

// How long the client waits before it asks again after an error: as long as it was, doubled.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
)

// Run puts in force what comes until ctx is done. What is wrong is refused to the server and changes nothing, and while
// the server is away what was in force stays.
func (c *Client) Run(ctx context.Context, apply func([]*ratelimit.Domain)) error {
	transport := insecure.NewCredentials()
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate in it", c.CA)
		}
		transport = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool})
	}
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	wait := firstWait
	for {
		took, err := c.stream(ctx, conn, apply)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if took {
			wait = firstWait
		}
		c.Log.Warn("rate limit configuration: the management server is away, the last good one stays in force", "address", c.Address, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
	}
}

// stream asks until an error, and says whether something came.
func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn, apply func([]*ratelimit.Domain)) (took bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := discoverysvcv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	ask := &discoverysvcv3.DiscoveryRequest{Node: &corev3.Node{Id: c.Node}, TypeUrl: configType}
	for {
		if err := s.Send(ask); err != nil {
			return took, err
		}
		answer, err := s.Recv()
		if err != nil {
			return took, err
		}
		took = true
		ask = &discoverysvcv3.DiscoveryRequest{TypeUrl: configType, VersionInfo: ask.GetVersionInfo(), ResponseNonce: answer.GetNonce()}
		domains, err := domainsOf(answer)
		if err != nil {
			c.Log.Error("rate limit configuration refused: the last good one stays in force", "version", answer.GetVersionInfo(), "error", err)
			ask.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
			continue
		}
		ask.VersionInfo = answer.GetVersionInfo()
		apply(domains)
		c.Log.Info("rate limit configuration in force", "version", answer.GetVersionInfo(), "domains", len(domains))
	}
}

// domainsOf gives what a response configures; an error tells all that is wrong, a line each.
func domainsOf(answer *discoverysvcv3.DiscoveryResponse) ([]*ratelimit.Domain, error) {
	r := reader{domains: map[string]bool{}}
	var domains []*ratelimit.Domain
	for i, resource := range answer.GetResources() {
		var m configv3.RateLimitConfig
		if err := resource.UnmarshalTo(&m); err != nil {
			r.problem(fmt.Sprintf("resources[%d]", i), err.Error())
			continue
		}
		switch name := m.GetDomain(); {
		case name == "":
			r.problem(m.GetName(), "has no domain")
		case name == mesh.LimitDomain:
			r.problem(m.GetName(), "domain "+name+" is what Weir's own routes ask for")
		case r.domains[name]:
			r.problem(m.GetName(), "domain "+name+" is there already")
		default:
			r.domains[name] = true
			domains = append(domains, &ratelimit.Domain{Name: name, Descriptors: r.descriptors(m.GetDescriptors(), name)})
		}
	}
	if len(r.problems) > 0 {
		return nil, errors.New(strings.Join(r.problems, "\n"))
	}
	return domains, nil
}

type reader struct {
	domains  map[string]bool
	problems []string
}

func (r *reader) problem(path, text string) { r.problems = append(r.problems, path+": "+text) }

func (r *reader) descriptors(all []*configv3.RateLimitDescriptor, path string) []*ratelimit.Descriptor {
	seen := make(map[[2]string]bool, len(all))
	out := make([]*ratelimit.Descriptor, 0, len(all))
	for _, m := range all {
		at := path + "." + m.GetKey()
		if m.GetValue() != "" {
			at += "_" + m.GetValue()
		}
		if m.GetKey() == "" {
			r.problem(at, "a descriptor has no key")
		}
		if seen[[2]string{m.GetKey(), m.GetValue()}] {
			r.problem(at, "is there already")
		}
		seen[[2]string{m.GetKey(), m.GetValue()}] = true
		d := &ratelimit.Descriptor{Key: m.GetKey(), Value: m.GetValue(), Shadow: m.GetShadowMode(), DetailedMetric: m.GetDetailedMetric(), Quota: quotaMode(m)}
		if m.GetRateLimit() != nil {
			d.Limit = r.limit(m.GetRateLimit(), at)
		}
		d.Descriptors = r.descriptors(m.GetDescriptors(), at)
		out = append(out, d)
	}
	return out
}

// quotaModeField is newer than the messages that can be had of the module.
const quotaModeField = 7

func quotaMode(m *configv3.RateLimitDescriptor) (quota bool) {
	for b := m.ProtoReflect().GetUnknown(); len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if number == quotaModeField && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b[n:])
			quota = v != 0
		}
		b = b[n+size:] // which is well-formed, or it would not have been read
	}
	return quota
}

func (r *reader) limit(m *configv3.RateLimitPolicy, path string) *ratelimit.DescriptorLimit {
	unit := ratelimitsvcv3.RateLimitResponse_RateLimit_Unit_value[m.GetUnit().String()]
	l := &ratelimit.DescriptorLimit{
		Name: m.GetName(), Requests: m.GetRequestsPerUnit(), Unlimited: m.GetUnlimited(), Unit: ratelimitsvcv3.RateLimitResponse_RateLimit_Unit(unit),
	}
	switch {
	case l.Unlimited && unit != 0:
		r.problem(path, "what is unlimited has no unit")
	case !l.Unlimited && unit == 0:
		r.problem(path, "has no unit: want "+units)
	}
	for _, other := range m.GetReplaces() {
		if other.GetName() == "" || other.GetName() == l.Name {
			r.problem(path, "replaces must name another limit")
		}
		l.Replaces = append(l.Replaces, other.GetName())
	}
	return l
}
