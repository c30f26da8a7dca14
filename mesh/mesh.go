// Package mesh is the resolved model: what a set of policy documents means, with every reference followed and every
// name unique and sorted. It is plain data, made by a pure function; xds and ratelimit both work from it.
package mesh

import (
	"cmp"
	"path"
	"slices"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// Model is the mesh at one moment. It is immutable, and every slice is sorted by name unless it says otherwise.
type Model struct {
	Source    policy.Key        // of the Mesh document
	Tracing   *policy.Tracing   // nil: no spans
	AccessLog *policy.AccessLog // nil: no access log
	Thinned   bool              // proxies make no more spans than collectors find worth it
	Marks     []string          // members of baggage that mark a trace, in the order of the documents
	Gateways  []*Gateway
	Services  []*Service
	Limits    []*Limit // all global limits
}

// Gateway is where traffic enters.
type Gateway struct {
	Ref       policy.Ref
	Source    policy.Key
	Address   string
	Listeners []policy.Listener
	Services  []*Service // that it serves
}

// Service is a service with its route and limits.
type Service struct {
	Ref       policy.Ref
	Name      string // as documents refer to it
	Source    policy.Key
	Spec      policy.ServiceSpec
	Subsets   []*Subset // of all endpoints first, then of each version
	Rules     []*Rule   // in the order in which they are tried
	Endpoints []Endpoint
	Local     []LocalLimit  // that all its rules share
	Quota     []GlobalLimit // that proxies decide by themselves, by the part that they are given
}

// Subset is what is balanced over as one: the endpoints of a version, or all of them.
type Subset struct {
	Name      string // SERVICE, or SERVICE/VERSION; unique in the mesh
	Version   string // "" is all
	Endpoints []Endpoint
}

// Endpoint is one address of a service.
type Endpoint struct {
	Address string // an IP
	Port    int
	Zone    string
}

// Rule is one row of a route, complete.
type Rule struct {
	policy.Rule
	Source  policy.Key      // of the Route, or of the Service where it has none
	Timeout time.Duration   // 0: none
	Retries *policy.Retries // nil: none
	Key     *policy.HashKey // by which a version and an endpoint are picked; nil: each request by itself
	To      []Share
	Mirror  []Mirror
	Global  []GlobalLimit
	Local   []LocalLimit // that are this rule's own

	Changes []Changes // of headers, in this order: the service's, and the rule's
	// TracePercent is how many traces proxies begin of its requests at most, where collectors have found all to be too many;
	// 0: as many as the mesh says.
	TracePercent float64

	VersionChanges map[string]Changes // of headers, after those, by a share's subset
}

// Share is one destination of a rule.
type Share struct {
	Subset string
	Weight int
}

// Mirror is where copies of a share of a rule's requests go.
type Mirror struct {
	Subset  string
	Percent float64
	Timeout time.Duration // of a copy, from its beginning to the end of the answer
}

// GlobalLimit is a limit that requests of a rule ask the rate limit service about.
type GlobalLimit struct {
	*Limit
	Except []Exception
}

// Exception is requests that are another limit's: those that have all of its values, which are one at least.
type Exception []policy.LimitBy

// LocalLimit is a limit that each Envoy holds by itself.
type LocalLimit struct {
	ID     string
	Source policy.Key
	policy.Limit
	Except []Exception
	Hide   Hide
}

// Build resolves a set as it is written, with load tests that are over. A set that policy.Load made always can be.
func Build(set *policy.Set) *Model { return At(set, time.Time{}) }

// At resolves a set as it holds at a time: without the rules of load tests that are over then.
func At(set *policy.Set, now time.Time) *Model { return new(Resolver).At(set, now) }

type builder struct {
	set     *policy.Set
	now     time.Time
	stopped map[LoadTestID]bool
	routes  map[string]*policy.Document[policy.RouteSpec]       // by service
	limits  map[string][]*policy.Document[policy.RateLimitSpec] // by service, in order

	limitsOf []*Limit // the global ones of the service that is made
}

func key(kind string, m policy.Metadata) policy.Key {
	return policy.Key{Kind: kind, Namespace: m.Namespace, Name: m.Name}
}

// Serves matches NAMESPACE/NAME with * as wildcard; a lone * is every service.
func Serves(pattern, ref string) bool {
	if pattern == "*" {
		return true
	}
	ok, err := path.Match(pattern, ref)
	return ok && err == nil
}

func (b *builder) service(d *policy.Document[policy.ServiceSpec]) *Service {
	s := &Service{Ref: d.Ref(), Name: d.Ref().String(), Source: key("Service", d.Metadata), Spec: d.Spec}
	s.Subsets = append(s.Subsets, subset(s, ""))
	for _, v := range d.Spec.Versions {
		s.Subsets = append(s.Subsets, subset(s, v.Name))
	}
	slices.SortFunc(s.Subsets, func(a, c *Subset) int { return cmp.Compare(a.Name, c.Name) })
	s.Endpoints = s.Subsets[0].Endpoints
	s.Rules = b.rules(s)
	b.limit(s)
	return s
}

// specOf gives what documents say of a service that the rules of s refer to, or nil.
func (b *builder) specOf(s *Service, name string) *policy.ServiceSpec {
	if name == s.Name {
		return &s.Spec
	}
	if d := b.set.Service(policy.ParseRef(name, "")); d != nil {
		return &d.Spec
	}
	return nil
}

// SubsetName names what is balanced over as one.
func SubsetName(service, version string) string {
	if version == "" {
		return service
	}
	return service + "/" + version
}

func subset(s *Service, version string) *Subset {
	sub := &Subset{Name: SubsetName(s.Name, version), Version: version}
	selector := selectorOf(s.Spec.Versions, version)
	for _, e := range s.Spec.Endpoints.Static {
		if selects(selector, e.Labels) {
			sub.Endpoints = append(sub.Endpoints, Endpoint{Address: e.Address, Port: e.Port, Zone: e.Zone})
		}
	}
	slices.SortFunc(sub.Endpoints, func(a, c Endpoint) int {
		return cmp.Or(cmp.Compare(a.Zone, c.Zone), cmp.Compare(a.Address, c.Address), cmp.Compare(a.Port, c.Port))
	})
	sub.Endpoints = slices.Compact(sub.Endpoints)
	return sub
}

func selectorOf(versions []policy.Version, name string) map[string]string {
	for _, v := range versions {
		if v.Name == name {
			return v.Selector
		}
	}
	return nil
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// rules gives a service's rules. A service without a Route has one that takes everything.
func (b *builder) rules(s *Service) []*Rule {
	if d := b.routes[s.Name]; d != nil {
		rules := make([]*Rule, 0, len(d.Spec.Rules))
		for i := range d.Spec.Rules {
			r := &d.Spec.Rules[i]
			if ended(r, b.now) {
				continue
			}
			if r.LoadTest != nil && b.stopped[idOf(d, r)] {
				r = stopped(r)
			}
			rules = append(rules, b.rule(s, key("Route", d.Metadata), r))
		}
		return rules
	}
	weight := 1
	return []*Rule{b.rule(s, s.Source, &policy.Rule{Name: "default", To: []policy.Destination{{Service: s.Name, Weight: &weight}}})}
}

func (b *builder) rule(s *Service, source policy.Key, r *policy.Rule) *Rule {
	out := &Rule{Rule: *r, Source: source, Timeout: time.Duration(*s.Spec.Timeout), Retries: s.Spec.Retries}
	if r.Timeout != nil {
		out.Timeout = time.Duration(*r.Timeout)
	}
	if r.Retries != nil {
		out.Retries = r.Retries
	}
	if out.Retries != nil && *out.Retries.Attempts == 0 {
		out.Retries = nil
	}
	out.inherit(&s.Spec.Handling)
	out.Key = b.hashKey(s, r)
	out.To = make([]Share, 0, len(r.To))
	for _, to := range r.To {
		out.To = append(out.To, Share{Subset: SubsetName(to.Service, to.Version), Weight: *to.Weight})
	}
	for _, m := range r.Mirror {
		out.Mirror = append(out.Mirror, Mirror{
			Subset: SubsetName(m.Service, m.Version), Percent: *m.Percent, Timeout: time.Duration(*m.Timeout),
		})
	}
	if l := r.RateLimit; l != nil {
		b.ruleLimit(out, l)
	}
	b.loadTest(out)
	b.headers(s, out)
	return out
}
