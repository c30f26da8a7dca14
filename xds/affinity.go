package xds

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/machinenativeops/weir/policy"
)

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
