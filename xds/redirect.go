package xds

import (
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

var standardPorts = map[string]int{"http": 80, "https": 443}

// redirects gives the routes of a redirect. There are two where the scheme changes: its own port is then meant, which is
// not written; but Envoy keeps a port that the client has named, and drops it only for another.
func redirects(route *routev3.Route, r *policy.Redirect, m *policy.Match) []*routev3.Route {
	port, standard := r.Port, standardPorts[r.Scheme]
	if port == standard {
		port = 0
	}
	action := &routev3.RedirectAction{
		HostRedirect: r.Hostname, PortRedirect: uint32(port), StripQuery: r.StripQuery, ResponseCode: redirectCodes[r.StatusCode],
	}
	if r.Scheme != "" {
		action.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	if p := r.Path; p != nil {
		if p.ReplaceFullPath != nil {
			action.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: *p.ReplaceFullPath}
		} else if prefix, re := rewrite(p, m); re != nil {
			action.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: re}
		} else {
			action.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
		}
	}
	route.Action = &routev3.Route_Redirect{Redirect: action}
	if r.Scheme == "" || r.Hostname != "" || port != 0 {
		return []*routev3.Route{route}
	}
	named := proto.CloneOf(route)
	named.Match.Headers = append(named.Match.Headers, headerIs(":authority", regexString(".*:[0-9]+")))
	named.GetRedirect().PortRedirect = uint32(standard)
	return []*routev3.Route{named, route}
}

var redirectCodes = map[int]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func rewriteURL(a *routev3.RouteAction, r *mesh.Rule) {
	u := r.URLRewrite
	if u == nil {
		return
	}
	if u.Hostname != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: u.Hostname}
	}
	if u.Path != nil {
		a.PrefixRewrite, a.RegexRewrite = rewrite(u.Path, &r.Match)
	}
}

// rewrite gives what takes the place of the route's prefix, or else a regular expression's substitution. A slash at the
// end of either prefix means nothing, as in Gateway API: Envoy, which joins the two as they stand, must not be left
// with two slashes, or with none.
func rewrite(p *policy.PathRewrite, m *policy.Match) (prefix string, re *matcherv3.RegexMatchAndSubstitute) {
	switch {
	case p.Regex != nil:
		return "", substitute(p.Regex.Pattern, p.Regex.Substitution)
	case p.ReplaceFullPath != nil:
		return "", substitute("^.*$", strings.ReplaceAll(*p.ReplaceFullPath, `\`, `\\`))
	}
	from, to := strings.TrimRight(*m.Path.Prefix, "/"), strings.TrimRight(*p.ReplacePrefixMatch, "/")
	switch {
	case from == "":
		return to + "/", nil
	case to == "":
		return "", substitute("^"+regexp.QuoteMeta(from)+"/*", "/")
	default:
		return to, nil
	}
}

func substitute(pattern, substitution string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: regex(pattern), Substitution: substitution}
}

// respond makes the route answer by itself.
func respond(route *routev3.Route, status int, contentType, body string) {
	a := &routev3.DirectResponseAction{Status: uint32(status)}
	if body != "" {
		a.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
		route.ResponseHeadersToAdd = append(route.ResponseHeadersToAdd, literal("content-type", contentType))
	}
	route.Action = &routev3.Route_DirectResponse{DirectResponse: a}
}

// literal sets a header to a value without command operators.
func literal(name, value string) *corev3.HeaderValueOption {
	return header(name, strings.ReplaceAll(value, "%", "%%"), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
}
