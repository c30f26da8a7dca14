package importer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/policy"
)

// object is a Kubernetes object as it was written.
type object struct {
	world     *world
	file      string
	root      *yaml.Node
	group     string // of the apiVersion
	kind      string
	namespace string
	name      string
	created   string          // creationTimestamp: in RFC 3339, so that texts compare as times; "" comes last
	used      map[string]bool // paths that somebody has got
	whole     map[string]bool // paths below which nothing is to be told
}

func (o *object) ref() policy.Ref { return policy.Ref{Namespace: o.namespace, Name: o.name} }

func (o *object) policyKey() policy.Key {
	return policy.Key{Kind: o.kind, Namespace: o.namespace, Name: o.name}
}

func (o *object) all() field { return field{of: o, value: o.root} }

func (o *object) spec() field { return o.all().get("spec") }

// lost tells that the object is not carried over.
func (o *object) lost(format string, args ...any) {
	o.whole[""] = true
	o.all().note(true, format, args...)
}

// ignore passes over the object.
func (o *object) ignore() { o.whole[""] = true }

// older orders objects by age, and then by name, as Gateway API and Istio do.
func older(a, b *object) int {
	return cmpOr(strings.Compare(orLast(a.created), orLast(b.created)), strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
}

func cmpOr(all ...int) int {
	for _, c := range all {
		if c != 0 {
			return c
		}
	}
	return 0
}

func orLast(s string) string {
	if s == "" {
		return "~"
	}
	return s
}

// Groups of kinds.
const (
	groupGateway      = "gateway.networking.k8s.io"
	groupIstio        = "networking.istio.io"
	groupIstioSecure  = "security.istio.io"
	groupIstioTell    = "telemetry.istio.io"
	groupIstioExtend  = "extensions.istio.io"
	groupEnvoyGateway = "gateway.envoyproxy.io"
	groupDiscovery    = "discovery.k8s.io"
)

// maxNodes and maxDepth bound what aliases may make of a document.
const (
	maxNodes = 1 << 20
	maxDepth = 200
)

// read takes the objects of a file.
func (w *world) read(f policy.File) error {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: not YAML: %s", f.Name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(n.Content) == 0 || n.Content[0].Tag == "!!null" {
			continue
		}
		budget := maxNodes
		root, err := expand(n.Content[0], &budget, 0)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", f.Name, n.Content[0].Line, err)
		}
		w.take(f.Name, root)
	}
}

var errAliases = errors.New("not readable: it nests too deep, or its aliases make too much of it")

// expand gives a tree in the place of one with aliases.
func expand(n *yaml.Node, budget *int, depth int) (*yaml.Node, error) {
	if *budget--; *budget < 0 || depth > maxDepth {
		return nil, errAliases
	}
	if n.Kind == yaml.AliasNode {
		return expand(n.Alias, budget, depth+1)
	}
	out := *n
	out.Content = make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		var err error
		if out.Content[i], err = expand(c, budget, depth+1); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// take makes an object of a document, or several of a list.
func (w *world) take(file string, root *yaml.Node) {
	o := &object{world: w, file: file, root: root, used: make(map[string]bool), whole: make(map[string]bool)}
	all := o.all()
	o.kind = all.get("kind").text()
	o.group, _, _ = strings.Cut(all.get("apiVersion").text(), "/")
	if !strings.Contains(all.get("apiVersion").text(), "/") {
		o.group = ""
	}
	if items := all.get("items"); strings.HasSuffix(o.kind, "List") && items.given() {
		for _, item := range items.list() {
			w.take(file, item.value)
		}
		return
	}
	o.metadata(all.get("metadata"))
	if o.kind == "" || o.name == "" {
		o.lost("this is no Kubernetes object: want kind and metadata.name")
	}
	key := o.group + " " + o.policyKey().String()
	if first := w.named[key]; first != nil && !o.whole[""] {
		o.lost("the input has another object of this kind and name: the one at %s is taken", first.all().place())
	} else {
		w.named[key] = o
	}
	w.objects = append(w.objects, o)
}

// Annotations that say nothing of traffic begin so.
var quietAnnotations = []string{
	"kubectl.kubernetes.io/", "meta.helm.sh/", "argocd.argoproj.io/", "helm.sh/", "kustomize.toolkit.fluxcd.io/",
	"deployment.kubernetes.io/", "config.kubernetes.io/", "endpoints.kubernetes.io/",
}

// metadata reads what names the object. What the API server writes there, and labels, say nothing of traffic.
func (o *object) metadata(m field) {
	m.skipFields("uid", "resourceVersion", "generation", "managedFields", "selfLink", "ownerReferences", "finalizers",
		"generateName", "labels", "deletionTimestamp", "deletionGracePeriodSeconds")
	o.name, o.namespace, o.created = m.get("name").text(), m.get("namespace").text(), m.get("creationTimestamp").text()
	if o.namespace == "" && !clusterWide[o.kind] {
		o.namespace = o.world.options.Namespace
	}
	o.all().get("status").skip()
	if !annotated[o.kind] {
		m.get("annotations").skip()
		return
	}
	for _, a := range m.get("annotations").pairs() {
		quiet := false
		for _, prefix := range quietAnnotations {
			quiet = quiet || strings.HasPrefix(a.name(), prefix)
		}
		if quiet {
			a.skip()
			continue
		}
		a.lost("Weir reads no annotations")
	}
}

var (
	clusterWide = map[string]bool{"Namespace": true, "GatewayClass": true, "CustomResourceDefinition": true}
	// annotated are the kinds whose annotations may say something of traffic.
	annotated = map[string]bool{
		"Gateway": true, "HTTPRoute": true, "GRPCRoute": true, "VirtualService": true, "DestinationRule": true, "ServiceEntry": true,
	}
)

// of gives the objects of a kind that are not dealt with yet.
func (w *world) of(group, kind string) []*object {
	var all []*object
	for _, o := range w.objects {
		if o.group == group && o.kind == kind && !o.whole[""] {
			all = append(all, o)
		}
	}
	return all
}
