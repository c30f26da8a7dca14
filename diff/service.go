package diff

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// summary is a service in a line.
func summary(s *mesh.Service) string {
	all := []string{"hosts " + strings.Join(s.Spec.Hosts, ", ")}
	if dns := s.Spec.Endpoints.DNS; dns != nil {
		all = append(all, fmt.Sprintf("endpoints of %s:%d", dns.Name, dns.Port))
	} else {
		all = append(all, plural(len(s.Endpoints), "endpoint"))
	}
	if n := len(s.Spec.Versions); n > 0 {
		all = append(all, plural(n, "version"))
	}
	return strings.Join(append(all, plural(len(s.Rules), "rule")), "; ")
}

// toldApart are the fields of a service that are not told as such: what they come to is.
var toldApart = append([]string{"hosts", "port", "versions", "endpoints.static"}, fieldsOfHandling()...)

func (c *comparison) service(a, b *mesh.Service) {
	c.hosts(a.Spec.Hosts, b.Spec.Hosts)
	c.rules(a, b)
	c.limits(c.before.set, c.after.set, b.Ref.String())
	c.versions(a, b)
	c.endpoints(a, b)
	for _, f := range fields(a.Spec, b.Spec, toldApart...) {
		c.add(Change{Kind: Changed, Field: f.path, From: f.from, To: f.to})
	}
	c.budget(a, b)
}

func (c *comparison) hosts(a, b []string) {
	changed := false
	for _, host := range a {
		if !slices.Contains(b, host) {
			c.add(Change{What: "host " + host, Kind: Removed})
			changed = true
		}
	}
	for _, host := range b {
		if !slices.Contains(a, host) {
			c.add(Change{What: "host " + host, Kind: Added})
			changed = true
		}
	}
	if !changed && !slices.Equal(a, b) {
		c.add(Change{What: "hosts", Kind: Moved, From: strings.Join(a, ", "), To: strings.Join(b, ", ")})
	}
}

// budget is the one thing that a service says of its retries that no rule can have its own of.
func (c *comparison) budget(a, b *mesh.Service) {
	of := func(s *mesh.Service) string {
		if s.Spec.Retries == nil || s.Spec.Retries.Budget == 0 {
			return none
		}
		return strconv.FormatFloat(s.Spec.Retries.Budget, 'f', -1, 64) + " %"
	}
	told := slices.ContainsFunc(c.changes, func(ch Change) bool {
		return ch.Subject == c.subject && (ch.Field == "retries.budget" || ch.Field == "retries")
	})
	if x, y := of(a), of(b); x != y && !told {
		c.add(Change{Kind: Changed, Field: "retries.budget", From: x, To: y})
	}
}

func (c *comparison) versions(a, b *mesh.Service) {
	byName := func(s *mesh.Service) map[string]policy.Version {
		m := make(map[string]policy.Version)
		for _, v := range s.Spec.Versions {
			m[v.Name] = v
		}
		return m
	}
	before, after := byName(a), byName(b)
	for _, name := range union(before, after) {
		x, was := before[name]
		y, is := after[name]
		switch {
		case !was:
			c.add(Change{What: "version " + name, Kind: Added, To: plural(endpointsOf(b, name), "endpoint")})
		case !is:
			c.add(Change{What: "version " + name, Kind: Removed, From: plural(endpointsOf(a, name), "endpoint")})
		default: // what a selector selects is told of the endpoints
			for _, f := range fields(x, y, "name", "selector") {
				c.add(Change{What: "version " + name, Kind: Changed, Field: f.path, From: f.from, To: f.to})
			}
		}
	}
}

func endpointsOf(s *mesh.Service, version string) int {
	for _, sub := range s.Subsets {
		if sub.Version == version {
			return len(sub.Endpoints)
		}
	}
	return 0
}

// place is where an endpoint belongs.
type place struct{ versions, zone string }

func (p place) String() string {
	var all []string
	if p.versions != "" {
		all = append(all, p.versions)
	}
	if p.zone != "" {
		all = append(all, "zone "+p.zone)
	}
	return strings.Join(all, ", ")
}

// endpoints compares static endpoints; those of a name are told as a field.
func (c *comparison) endpoints(a, b *mesh.Service) {
	before, after := places(a), places(b)
	for _, address := range union(before, after) {
		x, was := before[address]
		y, is := after[address]
		what := "endpoint " + address
		switch {
		case !was:
			c.add(Change{What: what, Kind: Added, To: y.String()})
		case !is:
			c.add(Change{What: what, Kind: Removed, From: x.String()})
		default:
			for _, f := range [][3]string{{"version", x.versions, y.versions}, {"zone", x.zone, y.zone}} {
				if f[1] != f[2] {
					c.add(Change{What: what, Kind: Changed, Field: f[0], From: sayText(f[1]), To: sayText(f[2])})
				}
			}
		}
	}
}

// places gives the endpoints of a service by ADDRESS:PORT. One that is there twice has two zones.
func places(s *mesh.Service) map[string]place {
	all := make(map[string]place)
	for _, sub := range s.Subsets {
		for _, e := range sub.Endpoints {
			key := net.JoinHostPort(e.Address, strconv.Itoa(e.Port))
			p := all[key]
			p.versions, p.zone = with(p.versions, sub.Version), with(p.zone, e.Zone)
			all[key] = p
		}
	}
	return all
}

// with adds a name to a list of names.
func with(list, name string) string {
	if name == "" || slices.Contains(strings.Split(list, " and "), name) {
		return list
	}
	if list == "" {
		return name
	}
	return list + " and " + name
}

// limits compares the RateLimit documents of a service.
func (c *comparison) limits(before, after *policy.Set, service string) {
	of := func(s *policy.Set) []*policy.Document[policy.RateLimitSpec] {
		var all []*policy.Document[policy.RateLimitSpec]
		for _, d := range s.RateLimits {
			if d.Spec.Service == service {
				all = append(all, d)
			}
		}
		return all
	}
	ref := func(d *policy.Document[policy.RateLimitSpec]) string { return d.Ref().String() }
	both(of(before), of(after), ref, func(a, b *policy.Document[policy.RateLimitSpec]) {
		switch {
		case a == nil:
			for _, l := range b.Spec.Limits {
				c.add(Change{What: "limit of RateLimit " + ref(b), Kind: Added, To: sayLimit(l)})
			}
		case b == nil:
			for _, l := range a.Spec.Limits {
				c.add(Change{What: "limit of RateLimit " + ref(a), Kind: Removed, From: sayLimit(l)})
			}
		default:
			for _, f := range fields(a.Spec, b.Spec, "service") {
				c.add(Change{What: "RateLimit " + ref(b), Kind: Changed, Field: f.path, From: f.from, To: f.to})
			}
		}
	})
}

func sayLimit(l policy.Limit) string {
	text := fmt.Sprintf("%d per %s", l.Requests, l.Per)
	if len(l.By) > 0 {
		names := make([]string, len(l.By))
		for i, by := range l.By {
			names[i] = by.Text()
		}
		text += " by " + strings.Join(names, " and ")
	}
	if l.Algorithm != policy.GCRA {
		text += ", " + strings.ReplaceAll(l.Algorithm, "_", " ")
	} else if l.Burst != l.Requests {
		text += fmt.Sprintf(", burst %d", l.Burst)
	}
	if l.Cost != nil {
		text += ", each for " + l.Cost.Text()
	}
	if l.Shadow {
		text += ", counted only"
	}
	return text
}

// gateways compares gateways: what they listen on, and which services they serve.
func (c *comparison) gateways() {
	both(c.before.model.Gateways, c.after.model.Gateways, func(g *mesh.Gateway) string { return g.Ref.String() }, func(a, b *mesh.Gateway) {
		switch {
		case a == nil:
			c.subject = "Gateway " + b.Ref.String()
			c.add(Change{Kind: Added, To: plural(len(b.Listeners), "listener") + "; serves " + plural(len(b.Services), "service")})
		case b == nil:
			c.subject = "Gateway " + a.Ref.String()
			c.add(Change{Kind: Removed, From: plural(len(a.Listeners), "listener") + "; serves " + plural(len(a.Services), "service")})
		default:
			c.subject = "Gateway " + b.Ref.String()
			c.gateway(a, b)
		}
	})
}

func (c *comparison) gateway(a, b *mesh.Gateway) {
	if a.Address != b.Address {
		c.add(Change{Kind: Changed, Field: "address", From: a.Address, To: b.Address})
	}
	both(pointers(a.Listeners), pointers(b.Listeners), func(l *policy.Listener) string { return l.Name }, func(x, y *policy.Listener) {
		switch {
		case x == nil:
			c.add(Change{What: "listener " + y.Name, Kind: Added, To: sayAny(*y)})
		case y == nil:
			c.add(Change{What: "listener " + x.Name, Kind: Removed, From: sayAny(*x)})
		default:
			for _, f := range fields(*x, *y) {
				c.add(Change{What: "listener " + y.Name, Kind: Changed, Field: f.path, From: f.from, To: f.to})
			}
		}
	})
	both(a.Services, b.Services, func(s *mesh.Service) string { return s.Ref.String() }, func(x, y *mesh.Service) {
		switch {
		case x == nil:
			c.add(Change{What: "service " + y.Ref.String(), Kind: Added})
		case y == nil:
			c.add(Change{What: "service " + x.Ref.String(), Kind: Removed})
		}
	})
}

func pointers[T any](all []T) []*T {
	out := make([]*T, len(all))
	for i := range all {
		out[i] = &all[i]
	}
	return out
}
