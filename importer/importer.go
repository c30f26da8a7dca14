// Package importer reads other meshes' configuration and writes policy documents that do the same: Gateway API's
// Gateway, HTTPRoute and GRPCRoute; Istio's Gateway, VirtualService, DestinationRule and ServiceEntry; and of Kubernetes
// what says where services run (Service, EndpointSlice, Pod).
//
// Nothing is lost silently. The input is read field by field, and each field that nobody has asked for is told in a
// [Note], so that this holds for fields that nobody here has thought of. A condition that can't be kept is never dropped
// from a rule, which would then take more requests than before: the rule is left out as a whole, or answers by itself.
//
// What comes out always loads: the documents are given to [policy.Load], and what that refuses is left out and told.
//
// The package reads no files and starts no goroutines. The same input gives the same output.
package importer

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/machinenativeops/weir/policy"
)

// Where input comes from. Kinds of the other are then told, and not read.
const (
	FromAuto       = "auto"
	FromGatewayAPI = "gateway-api"
	FromIstio      = "istio"
)

// DefaultNamespace is that of objects that name none.
const DefaultNamespace = "default"

// Options say how input is to be read.
type Options struct {
	From      string // FromAuto if ""
	Namespace string // of objects that name none; DefaultNamespace if ""
}

// Result is what came of an import.
type Result struct {
	Documents []Document
	Notes     []Note // sorted by place
}

// Lost says how many notes are of something that is not carried over.
func (r *Result) Lost() int {
	n := 0
	for _, note := range r.Notes {
		if note.Lost {
			n++
		}
	}
	return n
}

// YAML gives the documents as one file.
func (r *Result) YAML() []byte {
	var out bytes.Buffer
	for i, d := range r.Documents {
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(d.YAML)
	}
	return out.Bytes()
}

// Document is a policy document.
type Document struct {
	Key  policy.Key
	YAML []byte // with a comment that says what it was made of
}

// Note is something that the documents don't say as the input did.
type Note struct {
	File     string     `json:"file"`
	Line     int        `json:"line"` // from 1
	Document policy.Key `json:"document"`
	Path     string     `json:"path,omitempty"` // in the input
	Lost     bool       `json:"lost"`           // it is not carried over; otherwise it is, in another form
	Message  string     `json:"message"`        // why, and what to do instead
}

// String gives FILE:LINE: KIND NAMESPACE/NAME: PATH: not carried over: MESSAGE.
func (n Note) String() string {
	s := fmt.Sprintf("%s:%d: ", n.File, n.Line)
	if n.Document.Kind != "" {
		s += n.Document.String() + ": "
	}
	if n.Path != "" {
		s += n.Path + ": "
	}
	if n.Lost {
		s += "not carried over: "
	}
	return s + n.Message
}

// Import translates files. Its error is of input that is no YAML.
func Import(files []policy.File, o Options) (*Result, error) {
	o.From, o.Namespace = cmp.Or(o.From, FromAuto), cmp.Or(o.Namespace, DefaultNamespace)
	w := newWorld(o)
	for _, f := range files {
		if err := w.read(f); err != nil {
			return nil, err
		}
	}
	w.cluster()
	w.gatewayAPI()
	w.istio()
	documents := w.documents()
	for _, obj := range w.objects {
		obj.leftovers()
	}
	slices.SortStableFunc(w.notes, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return &Result{Documents: documents, Notes: slices.Compact(w.notes)}, nil
}
