package diff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/xds"
)

// Proxies are proxies for which the same resources differ.
type Proxies struct {
	Kind      string           `json:"kind"`    // added or removed, where the documents have such proxies now, or no more; or changed
	Proxies   []string         `json:"proxies"` // such as gateway edge, service shop/checkout; sorted
	Resources []ResourceChange `json:"resources"`
	// Drains are listeners that change or go: Envoy drains the connections that they have.
	Drains []string `json:"drains"`

	of map[mesh.Role]int // how many proxies there are, before or after
}

// ResourceChange is an Envoy resource that differs.
type ResourceChange struct {
	Kind string `json:"kind"` // added, removed or changed
	Type string `json:"type"` // without its package, such as Cluster
	Name string `json:"name"` // a listener of a proxy's own, where several proxies are told of: outbound/NAMESPACE/NAME
}

// itself stands for a proxy's own name in the names of its listeners.
const itself = "NAMESPACE/NAME"

func compareViews(before, after map[mesh.Proxy]xds.View) []Proxies {
	groups := make(map[string]*Proxies)
	all, of := make(map[mesh.Proxy]bool), make(map[mesh.Role]int)
	for _, views := range []map[mesh.Proxy]xds.View{before, after} {
		for p := range views {
			all[p] = true
		}
	}
	for p := range all {
		of[p.Role]++
	}
	var order []*Proxies
	for _, p := range slices.SortedFunc(maps.Keys(all), compareProxies) {
		a, was := before[p]
		b, is := after[p]
		one := Proxies{Kind: Changed, of: of, Drains: []string{}, Resources: compareView(a, b)}
		switch {
		case !was:
			one.Kind = Added
		case !is:
			one.Kind = Removed
		case len(one.Resources) == 0:
			continue
		}
		key := one.key(p)
		if g, ok := groups[key]; ok {
			g.Proxies = append(g.Proxies, p.String())
			g.generalize(p)
			continue
		}
		one.Proxies = []string{p.String()}
		groups[key] = &one
		order = append(order, &one)
	}
	out := make([]Proxies, len(order))
	for i, g := range order {
		out[i] = *g
		if g.Kind == Changed {
			for _, r := range g.Resources {
				if r.Type == "Listener" && r.Kind != Added {
					out[i].Drains = append(out[i].Drains, r.Name)
				}
			}
		}
	}
	return out
}

// compareProxies puts gateways first.
func compareProxies(a, b mesh.Proxy) int {
	return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Ref.String(), b.Ref.String()))
}

// general is a resource's name for any proxy: that of a listener has the proxy's own in it.
func general(r ResourceChange, p mesh.Proxy) string {
	if name, ok := strings.CutSuffix(r.Name, "/"+p.Ref.String()); ok && r.Type == "Listener" && p.Role == mesh.RoleService {
		return name + "/" + itself
	}
	return r.Name
}

// key is equal where the same can be said of proxies. What is in a proxy that is new, or gone, goes without saying.
func (g *Proxies) key(p mesh.Proxy) string {
	var b strings.Builder
	fmt.Fprintln(&b, g.Kind)
	if g.Kind == Changed {
		for _, r := range g.Resources {
			fmt.Fprintln(&b, r.Kind, r.Type, general(r, p))
		}
		return b.String()
	}
	fmt.Fprintln(&b, p)
	return b.String()
}

// generalize makes what is said of one proxy true of several, p among them.
func (g *Proxies) generalize(p mesh.Proxy) {
	first, _ := strings.CutPrefix(g.Proxies[0], string(p.Role)+" ")
	for i, r := range g.Resources {
		if name, ok := strings.CutSuffix(r.Name, "/"+first); ok && r.Type == "Listener" && p.Role == mesh.RoleService {
			g.Resources[i].Name = name + "/" + itself
		}
	}
}

// compareView gives the resources that differ, by type in the order in which additions are made, and by name.
func compareView(a, b xds.View) []ResourceChange {
	found := []ResourceChange{}
	for _, kind := range types(a, b) {
		resource := func(r *xds.Resource) string { return r.Name }
		both(a[kind], b[kind], resource, func(x, y *xds.Resource) {
			short := kind[strings.LastIndexAny(kind, "./")+1:]
			switch {
			case x == nil:
				found = append(found, ResourceChange{Added, short, y.Name})
			case y == nil:
				found = append(found, ResourceChange{Removed, short, x.Name})
			case x.Version != y.Version:
				found = append(found, ResourceChange{Changed, short, y.Name})
			}
		})
	}
	return found
}

func types(views ...xds.View) []string {
	all := slices.Clone(xds.Types)
	var more []string
	for _, v := range views {
		for kind := range v {
			if !slices.Contains(all, kind) && !slices.Contains(more, kind) {
				more = append(more, kind)
			}
		}
	}
	slices.Sort(more)
	return append(all, more...)
}
