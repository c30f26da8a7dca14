// Package sorted has what is kept from one edit to the next: slices and maps, sorted by key, that never change. An edited
// one is another one, and what two have in common is told by identity, so that work grows with the difference.
//
// A slice of pointers is copied where it is edited, which of ten thousand takes some microseconds; a [Map] shares with the
// one that it was made of all but the chunks that differ.
package sorted

import (
	"iter"
	"slices"
)

// Changes calls f for each element that is not the same in two slices, of which each is sorted and has a key once: with
// both where both have the key, and else with the zero value in the place of the one that is not there.
func Changes[E comparable](before, after []E, compare func(a, b E) int, f func(was, is E)) {
	var none E
	for len(before) > 0 || len(after) > 0 {
		n := 0
		for n < len(before) && n < len(after) && before[n] == after[n] {
			n++
		}
		before, after = before[n:], after[n:]
		order := 0
		switch {
		case len(before) == 0 && len(after) == 0:
			return
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = compare(before[0], after[0])
		}
		switch {
		case order < 0:
			f(before[0], none)
			before = before[1:]
		case order > 0:
			f(none, after[0])
			after = after[1:]
		default:
			f(before[0], after[0])
			before, after = before[1:], after[1:]
		}
	}
}

// Edit is what becomes of a key.
type Edit[K, V any] struct {
	Key   K
	Value V
	Gone  bool
}

// Edits gives what is said of each key as edits, sorted by key; nil says that it is gone.
func Edits[K comparable, V any](of map[K]*V, compare func(a, b K) int) []Edit[K, *V] {
	all := make([]Edit[K, *V], 0, len(of))
	for key, v := range of {
		all = append(all, Edit[K, *V]{Key: key, Value: v, Gone: v == nil})
	}
	slices.SortFunc(all, func(a, b Edit[K, *V]) int { return compare(a.Key, b.Key) })
	return all
}

// Merged sorts edits by key, and leaves one of each key: what goes in one place may come in another, and is there then.
func Merged[K, V any](edits []Edit[K, V], compare func(a, b K) int) []Edit[K, V] {
	slices.SortStableFunc(edits, func(a, b Edit[K, V]) int {
		switch order := compare(a.Key, b.Key); {
		case order != 0 || a.Gone == b.Gone:
			return order
		case a.Gone:
			return 1
		default:
			return -1
		}
	})
	return slices.CompactFunc(edits, func(a, b Edit[K, V]) bool { return compare(a.Key, b.Key) == 0 })
}

// Edited gives a slice, sorted by key, with edits, sorted likewise and each of another key. It is the same slice where
// there are none, and nil where nothing is left.
func Edited[K, E any](all []E, edits []Edit[K, E], compare func(e E, key K) int) []E {
	if len(edits) == 0 {
		return all
	}
	out := make([]E, 0, len(all)+len(edits))
	for _, edit := range edits {
		at, found := slices.BinarySearchFunc(all, edit.Key, compare)
		out = append(out, all[:at]...)
		if !edit.Gone {
			out = append(out, edit.Value)
		}
		if found {
			at++
		}
		all = all[at:]
	}
	if out = append(out, all...); len(out) == 0 {
		return nil
	}
	return out
}

// most is how many entries a chunk has at most.
const most = 128

// Map is a sorted map that does not change.
type Map[K, V any] struct {
	compare func(a, b K) int
	chunks  [][]entry[K, V] // none is empty
	n       int
}

type entry[K, V any] struct {
	key   K
	value V
}

// NewMap gives an empty map.
func NewMap[K, V any](compare func(a, b K) int) *Map[K, V] { return &Map[K, V]{compare: compare} }

// Len is how many keys it has.
func (m *Map[K, V]) Len() int { return m.n }

// Get gives what a key has, or the zero value.
func (m *Map[K, V]) Get(key K) (v V, ok bool) {
	at := m.chunkOf(key)
	if at < 0 {
		return v, false
	}
	i, ok := slices.BinarySearchFunc(m.chunks[at], key, func(e entry[K, V], k K) int { return m.compare(e.key, k) })
	if !ok {
		return v, false
	}
	return m.chunks[at][i].value, true
}

// chunkOf gives the chunk that has a key if any has it; -1: it is before the first.
func (m *Map[K, V]) chunkOf(key K) int {
	at, found := slices.BinarySearchFunc(m.chunks, key, func(c []entry[K, V], k K) int { return m.compare(c[0].key, k) })
	if !found {
		at--
	}
	return at
}

// All gives keys and values in order.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, c := range m.chunks {
			for i := range c {
				if !yield(c[i].key, c[i].value) {
					return
				}
			}
		}
	}
}

// Edited gives the map with edits, sorted by key and each of another one. It is the same map where there are none.
func (m *Map[K, V]) Edited(edits []Edit[K, V]) *Map[K, V] {
	if len(edits) == 0 {
		return m
	}
	out := &Map[K, V]{compare: m.compare, chunks: make([][]entry[K, V], 0, len(m.chunks)+len(edits)/most+1)}
	for at := 0; at < max(1, len(m.chunks)); at++ {
		var c []entry[K, V]
		if at < len(m.chunks) {
			c = m.chunks[at]
		}
		n := len(edits)
		if at+1 < len(m.chunks) {
			n, _ = slices.BinarySearchFunc(edits, m.chunks[at+1][0].key, func(e Edit[K, V], k K) int { return m.compare(e.Key, k) })
		}
		if n == 0 {
			out.add(c, false)
			continue
		}
		out.add(m.merge(c, edits[:n]), true)
		edits = edits[n:]
	}
	return out
}

// add adds a chunk; one that was made for this map may be parted, or joined with the one before it.
func (m *Map[K, V]) add(c []entry[K, V], made bool) {
	m.n += len(c)
	if last := len(m.chunks) - 1; made && last >= 0 && len(c)+len(m.chunks[last]) <= most/2 {
		m.chunks[last] = slices.Concat(m.chunks[last], c)
		return
	}
	for len(c) > most {
		m.chunks = append(m.chunks, slices.Clip(c[:most/2]))
		c = c[most/2:]
	}
	if len(c) > 0 {
		m.chunks = append(m.chunks, slices.Clip(c))
	}
}

func (m *Map[K, V]) merge(c []entry[K, V], edits []Edit[K, V]) []entry[K, V] {
	out := make([]entry[K, V], 0, len(c)+len(edits))
	for _, edit := range edits {
		at, found := slices.BinarySearchFunc(c, edit.Key, func(e entry[K, V], k K) int { return m.compare(e.key, k) })
		out = append(out, c[:at]...)
		if !edit.Gone {
			out = append(out, entry[K, V]{edit.Key, edit.Value})
		}
		if found {
			at++
		}
		c = c[at:]
	}
	return append(out, c...)
}

// Same says whether two maps have the same keys, with values that are the same. What they share is not looked at.
func (m *Map[K, V]) Same(o *Map[K, V], same func(a, b V) bool) bool {
	if m.n != o.n {
		return false
	}
	a, b := m.chunks, o.chunks
	i, j := 0, 0 // in the first chunk of either
	for len(a) > 0 {
		if i == 0 && j == 0 && &a[0][0] == &b[0][0] && len(a[0]) == len(b[0]) {
			a, b = a[1:], b[1:]
			continue
		}
		x, y := &a[0][i], &b[0][j]
		if m.compare(x.key, y.key) != 0 || !same(x.value, y.value) {
			return false
		}
		if i++; i == len(a[0]) {
			a, i = a[1:], 0
		}
		if j++; j == len(b[0]) {
			b, j = b[1:], 0
		}
	}
	return true
}
