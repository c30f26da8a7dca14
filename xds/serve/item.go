package serve

import (
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
)

// item is one version of a resource as it goes out: encoded once, shared by all who are sent it.
type item struct {
	kind          kind
	name, version string
	hash          uint64        // of name and version
	wire          *wireResource // nil: what stands for a version that a proxy has
	accepted      atomic.Bool   // some proxy has taken it

	// Guarded by Server.mu:
	sources []policy.Key
	before  *item    // the accepted version before it; at most two are kept
	refusal *Refusal // nil unless a proxy refused it
}

// take notes that a proxy has taken it. Many do at once, and writing costs them more than looking.
func (i *item) take() {
	if !i.accepted.Load() {
		i.accepted.Store(true)
	}
}

// absent stands for what a proxy was told does not exist.
var absent = &item{}

// unsure stands for a version that is not known: whatever there is has to be sent.
func unsure(k kind, name string) *item { return &item{kind: k, name: name} }

// claimed stands for a version that a proxy says it has and that is not served.
func claimed(k kind, name, version string) *item {
	return &item{kind: k, name: name, version: strings.Clone(version), hash: hashOf(name, version)}
}

func newItem(k kind, r *xds.Resource) *item {
	return &item{
		kind: k, name: r.Name, version: r.Version, hash: hashOf(r.Name, r.Version), sources: r.Sources,
		wire: encodeResource(r),
	}
}

func hashOf(name, version string) uint64 {
	h := xxhash.New()
	_, _ = h.WriteString(name) // a hash takes everything
	_, _ = h.WriteString("\x00" + version)
	return h.Sum64()
}

// servingLocked gives what is served in place of an item: itself, or what was accepted before it where it was refused,
// or nil.
func (i *item) servingLocked() *item {
	for i != nil && i.refusal != nil {
		i = i.before
	}
	return i
}

// lineage is a resource over all of its versions. What gateways took says nothing of what sidecars take.
type lineage struct {
	role  mesh.Role
	kind  kind
	name  string
	whole bool // a route configuration with its virtual hosts inside: another resource of the same name
}

// audience is whom a view is for: all of a mesh's proxies that are equal and can take the same.
type audience struct {
	mesh.Proxy
	whole bool // virtual hosts inside their route configurations
}

// audienceOf: gRPC libraries get the same whatever they are called.
func audienceOf(p mesh.Proxy, whole bool) audience {
	if p.Role == mesh.RoleGRPC {
		return audience{Proxy: mesh.Proxy{Role: mesh.RoleGRPC}, whole: true}
	}
	return audience{Proxy: p, whole: whole}
}

func (a audience) lineage(k kind, name string) lineage {
	return lineage{a.Role, k, name, a.whole && k == routeKind}
}

// succeedLocked gives the item of a resource of a type, which comes after latest (nil: there is none): latest itself or the one
// before it where the version is the same, so that what is known of that stays known.
func succeedLocked(latest *item, k kind, r *xds.Resource) *item {
	if latest == nil {
		return newItem(k, r)
	}
	if latest.version == r.Version {
		latest.sources = r.Sources
		return latest
	}
	good := latest
	for good != nil && (good.refusal != nil || !good.accepted.Load()) {
		good = good.before
	}
	if good != nil && good.version == r.Version {
		good.sources = r.Sources
		return good
	}
	next := newItem(k, r)
	next.before = good
	if good != nil && good.before != nil {
		good.before.before = nil
	}
	return next
}

// blamed gives those of the items that a proxy's message names, as whole words.
func blamed(items []*item, message string) []*item {
	var named []*item
	for _, i := range items {
		if names(message, i.name) {
			named = append(named, i)
		}
	}
	return named
}

func names(message, name string) bool {
	if name == "" {
		return false
	}
	for from := 0; ; {
		at := strings.Index(message[from:], name)
		if at < 0 {
			return false
		}
		start, end := from+at, from+at+len(name)
		if !endsInName(message[:start]) && !startsAsName(message[end:]) {
			return true
		}
		from = start + 1
	}
}

func partOfName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-/|~@", c) >= 0
}

func endsInName(s string) bool {
	return s != "" && (partOfName(s[len(s)-1]) || s[len(s)-1] == '.')
}

// startsAsName: a full stop belongs to a name unless it ends a sentence.
func startsAsName(s string) bool {
	return s != "" && (partOfName(s[0]) || s[0] == '.' && len(s) > 1 && partOfName(s[1]))
}
