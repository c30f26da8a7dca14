package serve

import "slices"

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
	sotw  bool            // it is state-of-the-world, else delta
	names [kinds][]string // what the last request named, where it is state-of-the-world
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
	before := w.names[r.kind]
	if err := r.takeNames(message, before); err != nil {
		return err
	}
	now := r.subscribe
	w.names[r.kind] = now
	if r.subscribe = nil; !slices.Equal(now, before) {
		r.subscribe, r.unsubscribe = lacking(now, before), lacking(before, now)
	}
	return nil
}

// lacking gives the names that another list lacks, sorted.
func lacking(names, other []string) (all []string) {
	there := make(map[string]bool, len(other))
	for _, n := range other {
		there[n] = true
	}
	for _, n := range names {
		if !there[n] {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
