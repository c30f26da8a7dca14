package xds

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/policy"
)

// secured answers every request with its URL of https at the port. Each client understands 301, which lets it make a GET
// of other methods; 308 does not.
func secured(name string, port int) []*routev3.VirtualHost {
	v := &routev3.VirtualHost{Name: name, Domains: []string{"*"}}
	for _, c := range []struct {
		status int
		match  *policy.Match
	}{{301, &policy.Match{Methods: []string{"GET", "HEAD"}}}, {308, &policy.Match{}}} {
		route := &routev3.Route{Match: routeMatch(c.match)}
		v.Routes = append(v.Routes, redirects(route, &policy.Redirect{Scheme: "https", Port: port, StatusCode: c.status}, c.match)...)
	}
	return []*routev3.VirtualHost{v}
}
