package policy

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// A cookie's name is a token, as a header's is (RFC 6265).
var cookieName = headerPattern

func (c *checker) cookieName(path, name string) {
	if !cookieName.MatchString(name) {
		c.problem(path, "", "%q is no cookie's name", name)
	}
}

// check: a key that is not there (nil) is none.
func (k *HashKey) check(c *checker, path string) {
	if k == nil {
		return
	}
	if count(k.Cookie != nil, k.Header != "", k.SourceAddress) != 1 {
		c.problem(path, "", "want exactly one of cookie, header and sourceAddress: true")
	}
	if k.Header != "" {
		c.headerName(path+".header", k.Header)
	}
	if k.Cookie != nil {
		k.Cookie.check(c, path+".cookie")
	}
}

// MaxCookieTTL is as long as browsers keep a cookie.
const MaxCookieTTL = 400 * day

var cookiePath = regexp.MustCompile(`^/[!-:<-~]*$`)

func (k *CookieKey) check(c *checker, path string) {
	c.cookieName(path+".name", k.Name)
	if k.Path != "" && !cookiePath.MatchString(k.Path) {
		c.problem(path+".path", "", "want a path that begins with / and has no space or ;, got %q", k.Path)
	}
	switch {
	case k.TTL == nil && k.Path != "":
		c.problem(path+".path", "", "this is of the cookie that Weir has made: give ttl, or remove it")
	case k.TTL != nil && (*k.TTL < 0 || *k.TTL > MaxCookieTTL || *k.TTL%Duration(time.Second) != 0):
		c.problem(path+".ttl", "", "want whole seconds up to 400d, or 0s for until the browser is closed, got %s", k.TTL)
	}
}

func (k *HashKey) defaults() {
	if k != nil && k.Cookie != nil && k.Cookie.TTL != nil {
		or(&k.Cookie.Path, "/")
	}
}

// The ways to pick an endpoint, of services without affinity and with it; the first is the default.
var (
	plainPolicies = []string{"least_request", "round_robin", "random"}
	hashPolicies  = []string{"ring_hash", "maglev"}

	balancingPolicies = slices.Concat(plainPolicies, hashPolicies)
)

func (s *ServiceSpec) checkAffinity(c *checker) {
	const path = "spec.loadBalancing."
	s.Affinity.check(c, "spec.affinity")
	lb := s.LoadBalancing
	switch {
	case s.Affinity != nil && slices.Contains(plainPolicies, lb.Policy):
		c.problem(path+"policy", "", "with affinity an endpoint is picked by a hash: want one of %s, got %q", strings.Join(hashPolicies, ", "), lb.Policy)
	case s.Affinity == nil && slices.Contains(hashPolicies, lb.Policy):
		c.problem(path+"policy", "", "%s needs something to hash: give spec.affinity, or use one of %s", lb.Policy, strings.Join(plainPolicies, ", "))
	case lb.Policy != "":
		c.oneOf(path+"policy", lb.Policy, balancingPolicies)
	}
	if lb.HashBalanceFactor == 0 {
		return
	}
	c.between(path+"hashBalanceFactor", lb.HashBalanceFactor, 100, 10_000)
	if s.Affinity == nil {
		c.problem(path+"hashBalanceFactor", "", "this is of services with affinity: give spec.affinity, or remove it")
	}
}

func (s *ServiceSpec) defaultAffinity() {
	s.Affinity.defaults()
	if s.Affinity != nil {
		or(&s.LoadBalancing.Policy, hashPolicies[0])
	}
	or(&s.LoadBalancing.Policy, plainPolicies[0])
}
