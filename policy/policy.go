// Package policy is the policy language: the documents users write, how they are parsed, checked, defaulted and
// described. It is the only reader of policy YAML.
//
// [Load] turns the bytes of files into a [Set]: immutable, defaulted, every reference inside it good. What is
// wrong is refused document by document, with every [Problem] reported at once; the last good version of a
// refused document stays in the set. The package reads no files, and goroutines that it starts have ended when Load
// returns.
package policy

import (
	"cmp"
	"slices"
)

// APIVersion is the only apiVersion there is. It may be left out of a document.
const APIVersion = "weir.dev/v1"

// Key names a document in a set; no two documents of a set share one.
type Key struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String gives KIND NAMESPACE/NAME, or KIND NAME without a namespace.
func (k Key) String() string {
	if k.Kind == "" {
		return k.Ref().String()
	}
	return k.Kind + " " + k.Ref().String()
}

// Ref is the key without its kind.
func (k Key) Ref() Ref { return Ref{Namespace: k.Namespace, Name: k.Name} }

// Compare puts keys in order: by kind, then as [Ref.Compare] does.
func (k Key) Compare(other Key) int {
	if k.Kind != other.Kind {
		return cmp.Compare(k.Kind, other.Kind)
	}
	return k.Ref().Compare(other.Ref())
}

// Ref names a document of a kind known from the context.
type Ref struct{ Namespace, Name string }

// Compare puts names in order: by namespace, then by name.
func (r Ref) Compare(other Ref) int {
	if r.Namespace != other.Namespace {
		return cmp.Compare(r.Namespace, other.Namespace)
	}
	return cmp.Compare(r.Name, other.Name)
}

// String gives NAMESPACE/NAME, or NAME without a namespace.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// Metadata names a document.
type Metadata struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace,omitempty"`
	Labels    map[string]string `yaml:"labels,omitempty"`
}

// Origin is where a document came from.
type Origin struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Hash is of the document's own bytes: equal hashes, equal documents.
	Hash uint64 `json:"-"`

	text   text
	layout uint64  // hash of where everything in it is written
	places *places // nil: nobody wrote it
}

// Place is where something is written, from 1.
type Place struct{ Line, Column int }

// Place gives where the path, such as spec.rules[3].timeout, or else what is nearest above it, was written, and whether
// it was the path itself: what a default filled in was not.
func (o Origin) Place(path string) (at Place, written bool) {
	if at, written = o.places.of(path); at == (Place{}) {
		return Place{Line: o.Line, Column: 1}, false
	}
	return at, written
}

// Document is one document of any kind, checked and with its defaults filled in.
type Document[S any] struct {
	Metadata Metadata
	Origin   Origin
	Spec     S
}

// Ref names the document.
func (d *Document[S]) Ref() Ref { return Ref{Namespace: d.Metadata.Namespace, Name: d.Metadata.Name} }

// Set is what Weir has been told, whole. It is immutable, and each kind is sorted by namespace and name.
type Set struct {
	// Mesh is all defaults where no document says otherwise.
	Mesh       *Document[MeshSpec]
	Gateways   []*Document[GatewaySpec]
	Services   []*Document[ServiceSpec]
	Routes     []*Document[RouteSpec]
	RateLimits []*Document[RateLimitSpec]
	// Sampling and Retention hold at least a default document.
	Sampling  *Document[SamplingSpec]
	Retention *Document[RetentionSpec]

	// Of sets that Load made, for the next Load:
	inForce  *table            // the same documents, by key; nil in other sets
	instead  map[Key]*document // what is in force where it is not what was read; nil: nothing
	readings *readings
}

// Service gives the named service, or nil.
func (s *Set) Service(ref Ref) *Document[ServiceSpec] {
	i, ok := slices.BinarySearchFunc(s.Services, ref, func(d *Document[ServiceSpec], r Ref) int { return d.Ref().Compare(r) })
	if !ok {
		return nil
	}
	return s.Services[i]
}

// Same says whether both sets are of the same documents, and those written in the same places.
func (s *Set) Same(o *Set) bool {
	return s.table().Same(o.table(), func(a, b *document) bool {
		x, y := a.origin, b.origin
		return a == b || x.File == y.File && x.Line == y.Line && x.Hash == y.Hash && x.layout == y.layout
	})
}

// File is the content of one file, or of one key of a ConfigMap. Load keeps it: its data must not be changed.
type File struct {
	Name string
	Data []byte
}

// Problem is one mistake in a document. Its document is refused.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"`   // from 1; 0 where the whole file is meant
	Column     int    `json:"column"` // from 1
	Document   Key    `json:"document"`
	Path       string `json:"path,omitempty"` // such as spec.rules[3].timeout
	Message    string `json:"message"`        // what is wrong and what was expected
	DidYouMean string `json:"didYouMean,omitempty"`
}
