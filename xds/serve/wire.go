package serve

import (
	"maps"
	"slices"
)

// response is what goes out.
type response struct {
	kind    kind
	nonce   string
	changed []*item
	runs    []*run // what changed may be, already encoded
	removed []string
	whole   uint64 // the version of all that the proxy then has of the type
}

// wire is a stream's protocol.
type wire struct {
	sotw  bool                   // it is state-of-the-world, else delta
	names [kinds]map[string]bool // what the last request named, where it is state-of-the-world
}

// full says whether every response must have all resources of a type: in state-of-the-world, clusters and listeners that
// a response lacks are gone.
func (w *wire) full(k kind) bool { return w.sotw && (k == clusterKind || k == listenerKind) }

// parse takes a request, which keeps parts of the message.
func (w *wire) parse(message []byte, r *request) error {
	if !w.sotw {
		return r.parse(message, &deltaFields)
	}
	if err := r.parse(message, &sotwFields); err != nil || !r.served {
		return err // nothing is kept of what is not served
	}
	named := make(map[string]bool, len(r.subscribe))
	for _, n := range r.subscribe {
		named[n] = true
	}
	before := w.names[r.kind]
	w.names[r.kind] = named
	r.subscribe = slices.DeleteFunc(slices.Sorted(maps.Keys(named)), func(n string) bool { return before[n] })
	for n := range before {
		if !named[n] {
			r.unsubscribe = append(r.unsubscribe, n)
		}
	}
	return nil
}
