package xds

import (
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	requestidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/policy"
)

// requestIDHeader has what Envoy tells each request by, which it makes before it looks for a route.
const requestIDHeader = "x-request-id"

// requestID keeps Envoy from writing into a request's id, after it has been routed by it, why it is traced: a new
// user's cookie is that id.
func (t *translator) requestID() *hcmv3.RequestIDExtension {
	return &hcmv3.RequestIDExtension{TypedConfig: t.any(&requestidv3.UuidRequestIdConfig{PackTraceReason: wrapperspb.Bool(false)})}
}

// keyed has a rule's routes hash what tells users apart, for the version and the endpoint both. Where that is a cookie
// that new users are given, each is two: one for those who have it, and one for the others, which hashes the request's
// id and makes that the cookie, so that the first request goes where all later ones will. (A cookie that Envoy makes
// comes too late: the first request's version is picked without it.)
func keyed(routes []*routev3.Route, key *policy.HashKey, secure bool) []*routev3.Route {
	if key == nil {
		return routes
	}
	var all []*routev3.Route
	for _, route := range routes {
		if route.GetRoute() != nil && key.Cookie != nil && key.Cookie.TTL != nil {
			known := proto.CloneOf(route)
			known.Match.Cookies = append(known.Match.Cookies, &routev3.CookieMatcher{Name: key.Cookie.Name, StringMatch: regexString(".+")})
			known.GetRoute().HashPolicy = hashPolicy(key)
			all = append(all, known)
			route.GetRoute().HashPolicy = hashPolicy(&policy.HashKey{Header: requestIDHeader})
			route.ResponseHeadersToAdd = append(route.ResponseHeadersToAdd,
				header("set-cookie", setCookie(key.Cookie, secure), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD))
		} else if a := route.GetRoute(); a != nil {
			a.HashPolicy = hashPolicy(key)
		}
		all = append(all, route)
	}
	return all
}

func hashPolicy(key *policy.HashKey) []*routev3.RouteAction_HashPolicy {
	p := &routev3.RouteAction_HashPolicy{}
	switch {
	case key.Cookie != nil:
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: key.Cookie.Name}}
	case key.Header != "":
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: key.Header}}
	default:
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}
	}
	return []*routev3.RouteAction_HashPolicy{p}
}

func setCookie(k *policy.CookieKey, secure bool) string {
	literally := strings.NewReplacer("%", "%%")
	cookie := literally.Replace(k.Name) + "=%REQ(" + requestIDHeader + ")%; Path=" + literally.Replace(k.Path)
	if ttl := time.Duration(*k.TTL); ttl > 0 {
		cookie += "; Max-Age=" + strconv.Itoa(int(ttl.Seconds()))
	}
	cookie += "; HttpOnly; SameSite=Lax"
	if secure {
		cookie += "; Secure"
	}
	return cookie
}

// ringPoints is how many points of a ring an endpoint has.
const ringPoints = 256

// hashed configures how endpoints are picked by a hash. Envoy has rings of a size and divides it by the number of
// endpoints: with one more, each of the others would lose points, and users with them. So the size grows with them.
func hashed(c *clusterv3.Cluster, lb policy.LoadBalancing, endpoints int) {
	if size := ringSize(c.LbPolicy, endpoints); size > 0 {
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: wrapperspb.UInt64(size),
		}}
	}
	if lb.HashBalanceFactor > 0 {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{ConsistentHashingLbConfig: &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{
			HashBalanceFactor: number(lb.HashBalanceFactor),
		}}
	}
}

// ringSize is the size of a cluster's ring; 0: it has none, or, of a name, only each proxy knows its endpoints.
func ringSize(lb clusterv3.Cluster_LbPolicy, endpoints int) uint64 {
	if lb != clusterv3.Cluster_RING_HASH {
		return 0
	}
	return min(maxRing, uint64(endpoints)*ringPoints)
}

// maxRing is the largest ring that Envoy has.
const maxRing = 8 << 20

// cookieMatch compares a cookie's value. Of several cookies with one name Envoy takes the first.
func cookieMatch(m policy.NamedMatch) *routev3.CookieMatcher {
	if m.Present != nil {
		return hasCookie(m.Name, *m.Present)
	}
	return &routev3.CookieMatcher{Name: m.Name, StringMatch: stringMatch(m)}
}

// hasCookie matches requests with the cookie, whatever its value, or those without it.
func hasCookie(name string, has bool) *routev3.CookieMatcher {
	return &routev3.CookieMatcher{Name: name, StringMatch: regexString(".*"), InvertMatch: !has}
}
