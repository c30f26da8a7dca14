// Package lint finds what documents say and can hardly mean: rules that never match, versions that nothing runs,
// retries that may do a payment twice. A [Warning] refuses nothing.
//
// What it warns of is so: a rule that is called unreachable never takes a request. It does not find everything.
package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// The names of warnings. They are stable: people silence, count and look them up by name.
const (
	UnreachableRule             = "unreachable-rule"
	DestinationWithoutEndpoints = "destination-without-endpoints"
	VersionWithoutEndpoints     = "version-without-endpoints"
	EndpointWithoutVersion      = "endpoint-without-version"
	UnusedVersion               = "unused-version"
	DuplicateDestination        = "duplicate-destination"
	SimpleRegex                 = "simple-regex"
	UnsafeRetry                 = "unsafe-retry"
	ShortTimeout                = "short-timeout"
	UnmatchedPattern            = "unmatched-pattern"
	NoEffect                    = "no-effect"
)

// Names are the names of all warnings, in the order in which they are explained.
func Names() []string {
	return []string{
		UnreachableRule, DestinationWithoutEndpoints, VersionWithoutEndpoints, EndpointWithoutVersion, UnusedVersion,
		DuplicateDestination, SimpleRegex, UnsafeRetry, ShortTimeout, UnmatchedPattern, NoEffect,
	}
}

// Warning is something in a document that is hardly meant so.
type Warning struct {
	Name     string     `json:"name"`
	File     string     `json:"file"`
	Line     int        `json:"line"`   // from 1
	Column   int        `json:"column"` // from 1
	Document policy.Key `json:"document"`
	Path     string     `json:"path"`    // such as spec.rules[3]
	Message  string     `json:"message"` // what is so, and what to write instead
}

// String gives FILE:LINE:COLUMN: warning: KIND NAMESPACE/NAME: PATH: MESSAGE [NAME].
func (w Warning) String() string {
	return fmt.Sprintf("%s:%d:%d: warning: %s: %s: %s [%s]", w.File, w.Line, w.Column, w.Document, w.Path, w.Message, w.Name)
}

// Check gives the warnings about a set, sorted by place; model is what the set means. In a set that is not whole,
// documents are missing that were refused: what depends on others than a document itself and those that it refers to
// is not judged then.
func Check(set *policy.Set, model *mesh.Model, whole bool) []Warning {
	return new(Checker).Check(set, model, whole)
}

type linter struct {
	services []*mesh.Service                               // sorted
	routes   map[string]*policy.Document[policy.RouteSpec] // by service
	used     map[string]int                                // how many destinations name a subset
	regex    expressions
	warnings []Warning
}

// service gives a service by NAMESPACE/NAME, or nil.
func (l *linter) service(name string) *mesh.Service {
	at, ok := slices.BinarySearchFunc(l.services, policy.ParseRef(name, ""), func(s *mesh.Service, ref policy.Ref) int { return s.Ref.Compare(ref) })
	if !ok {
		return nil
	}
	return l.services[at]
}

// page is the document that warnings are about.
type page struct {
	*linter
	key    policy.Key
	origin policy.Origin
}

func pageOf[S any](l *linter, kind string, d *policy.Document[S]) page {
	return page{l, policy.Key{Kind: kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}, d.Origin}
}

func (p page) warn(name, path, format string, args ...any) {
	at, _ := p.origin.Place(path)
	p.warnings = append(p.warnings, Warning{
		Name: name, File: p.origin.File, Line: at.Line, Column: at.Column, Document: p.key, Path: path,
		Message: fmt.Sprintf(format, args...),
	})
}

// written says whether the document itself has the field.
func (p page) written(path string) bool {
	_, ok := p.origin.Place(path)
	return ok
}

func (l *linter) checkService(d *policy.Document[policy.ServiceSpec]) {
	p := pageOf(l, "Service", d)
	p.versions(d)
	p.strayEndpoints(d)
	p.headerChanges(d.Spec.RequestHeaders, "spec.requestHeaders")
	p.headerChanges(d.Spec.ResponseHeaders, "spec.responseHeaders")
	for i, v := range d.Spec.Versions {
		p.headerChanges(v.RequestHeaders, fmt.Sprintf("spec.versions[%d].requestHeaders", i))
		p.headerChanges(v.ResponseHeaders, fmt.Sprintf("spec.versions[%d].responseHeaders", i))
	}
}

func (l *linter) checkRoute(d *policy.Document[policy.RouteSpec]) {
	p, rules := pageOf(l, "Route", d), l.service(d.Spec.Service).Rules
	p.unreachable(rules)
	for i := range d.Spec.Rules {
		r, path := &d.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		p.regexes(r, path)
		p.headerChanges(r.RequestHeaders, path+".requestHeaders")
		p.headerChanges(r.ResponseHeaders, path+".responseHeaders")
		// Requests that are all answered go to nobody, whatever destinations there are for later.
		if m := rules[i]; m.Maintenance == nil || m.Maintenance.Unless != nil {
			p.destinations(m, d.Spec.Service, path)
		}
	}
}

// headerChanges are made in the order add, set, remove.
func (p page) headerChanges(h policy.HeaderChanges, path string) {
	after := make(map[string]string) // what becomes of a header later, by name in lower case
	for name := range h.Set {
		after[strings.ToLower(name)] = "set after that"
	}
	for _, name := range namesOf(h.Add) {
		if what, ok := after[strings.ToLower(name)]; ok {
			p.warn(NoEffect, path+".add."+name, "the header is %s: leave one of the two out", what)
		}
	}
	for i, removed := range h.Remove {
		for _, changes := range []map[string]string{h.Add, h.Set} {
			for _, name := range namesOf(changes) {
				if strings.EqualFold(name, removed) {
					p.warn(NoEffect, fmt.Sprintf("%s.remove[%d]", path, i),
						"takes away what is added or set here as %s, since removing comes last: leave one of the two out", name)
				}
			}
		}
	}
}

func (l *linter) checkRateLimit(d *policy.Document[policy.RateLimitSpec]) {
	p := pageOf(l, "RateLimit", d)
	if d.Spec.Scope == "local" && p.written("spec.onError") {
		p.warn(NoEffect, "spec.onError", "a local limit asks nobody, so that there is nothing to fail: leave onError out, or write scope: global")
	}
}

// checkGateway judges which services it names, of all that there are.
func (l *linter) checkGateway(g *policy.Document[policy.GatewaySpec]) {
	p := pageOf(l, "Gateway", g)
	for i, pattern := range g.Spec.Services {
		if pattern != "*" && !slices.ContainsFunc(l.services, func(s *mesh.Service) bool { return mesh.Serves(pattern, s.Ref.String()) }) {
			p.warn(UnmatchedPattern, fmt.Sprintf("spec.services[%d]", i), "%q matches no service: %s", pattern, namesHint(pattern))
		}
	}
}

// namesHint says what a pattern is matched against, where that may be the mistake.
func namesHint(pattern string) string {
	if strings.Contains(pattern, "/") {
		return "want NAMESPACE/NAME of one, with * as wildcard"
	}
	return "want NAMESPACE/NAME of one: a pattern without a / is of services without a namespace"
}
