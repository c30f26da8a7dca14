package mesh

import (
	"cmp"
	"math/bits"
	"slices"
)

// hashSpace is what a user's hash is taken modulo of where versions are picked by it: every rule's weights sum to it, so
// that a user's place is the same whatever the weights are.
const hashSpace = 1_000_000_000

// Placed gives the shares of a rule whose users keep their version, by the places of their hashes: from 0 on, all of the
// hash space. A destination may be there in several parts.
func (r *Rule) Placed() []Share {
	weights := make([]int, len(r.To))
	for i, share := range r.To {
		weights[i] = share.Weight
	}
	var all []Share
	for _, p := range portions(weights) {
		share := r.To[p.to]
		share.Weight = p.size
		all = append(all, share)
	}
	return all
}

// portion is a run of places in the hash space.
type portion struct {
	to   int // the index of the destination whose users are there
	size int
}

// portions divides the hash space by weights, which don't sum to nothing: from place 0 on, all of it.
//
// The first destination, the base, has what the others leave. Each of the others has an anchor, which is the same however
// many there are: 0, 1/2, 1/4, 3/4, 1/8 and so on of the space. Its users are those from its anchor on, up to the next
// anchor that is in use; what it has beyond that follows in places that would be the base's. So while nobody's share goes
// beyond the next anchor,
//   - of two divisions, a user is elsewhere only where the share of the one or the other changes, and
//   - a destination that is added, as the last one, takes its users from the base.
//
// And even beyond, who has a destination that isn't the base keeps it when its share alone grows at the base's cost.
func portions(weights []int) []portion {
	sizes := places(weights)
	anchors := make([]int, len(sizes)) // of the base, none
	for i := range anchors[1:] {
		anchors[i+1] = int(uint64(bits.Reverse32(uint32(i))) * hashSpace >> 32)
	}
	order := make([]int, 0, len(sizes)) // of the others, by anchor
	for i, size := range sizes {
		if i > 0 && size > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(anchors[a], anchors[b]) })

	// Room before the first anchor and after each that is in use; what is at its beginning, and what is left of it.
	rooms := []room{{}}
	for _, i := range order {
		rooms[len(rooms)-1].left += anchors[i] - rooms[len(rooms)-1].from
		rooms = append(rooms, room{from: anchors[i]})
	}
	rooms[len(rooms)-1].left += hashSpace - rooms[len(rooms)-1].from
	for at, i := range order {
		sizes[i] -= rooms[at+1].take(i, sizes[i])
	}
	for i := 1; i < len(sizes); i++ {
		start := slices.Index(order, i) + 1
		for step := 1; sizes[i] > 0; step++ {
			sizes[i] -= rooms[(start+step)%len(rooms)].take(i, sizes[i])
		}
	}
	var all []portion
	for _, r := range rooms {
		all = append(all, r.users...)
		all = append(all, portion{to: 0, size: r.left})
	}
	return tidy(all, len(weights))
}

// places gives each destination its part of the hash space, rounded down, and what is left to the base; or, where that
// has no share, to the first that has.
func places(weights []int) []int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	sizes, left := make([]int, len(weights)), hashSpace
	for i, w := range weights {
		sizes[i] = w * hashSpace / sum
		left -= sizes[i]
	}
	sizes[slices.IndexFunc(weights, func(w int) bool { return w > 0 })] += left
	return sizes
}

type room struct {
	from  int
	left  int
	users []portion
}

// take gives up to size places to a destination, and says how many.
func (r *room) take(to, size int) int {
	size = min(size, r.left)
	if size > 0 {
		r.users = append(r.users, portion{to, size})
		r.left -= size
	}
	return size
}

// tidy joins what is side by side, and adds those that have nothing.
func tidy(all []portion, n int) []portion {
	var out []portion
	has := make([]bool, n)
	for _, p := range all {
		if p.size == 0 {
			continue
		}
		has[p.to] = true
		if last := len(out) - 1; last >= 0 && out[last].to == p.to {
			out[last].size += p.size
			continue
		}
		out = append(out, p)
	}
	for i := range has {
		if !has[i] {
			out = append(out, portion{to: i})
		}
	}
	return out
}
