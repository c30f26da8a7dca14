package mesh

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// flows gives, of two divisions, how many places are of which destination before and after.
func flows(a, b []portion) map[[2]int]int {
	all := make(map[[2]int]int)
	a, b = slices.Clone(a), slices.Clone(b)
	for len(a) > 0 && len(b) > 0 {
		n := min(a[0].size, b[0].size)
		if n > 0 {
			all[[2]int{a[0].to, b[0].to}] += n
		}
		a[0].size -= n
		b[0].size -= n
		if a[0].size == 0 {
			a = a[1:]
		}
		if len(b) > 0 && b[0].size == 0 {
			b = b[1:]
		}
	}
	return all
}

// division checks that each destination has its share, to a billionth, and nothing where its weight is 0.
func division(t *testing.T, weights []int) []portion {
	t.Helper()
	all, sum, got := portions(weights), 0, make([]int, len(weights))
	for _, w := range weights {
		sum += w
	}
	total := 0
	for _, p := range all {
		got[p.to] += p.size
		total += p.size
	}
	if total != hashSpace {
		t.Fatalf("weights %v: %v sum to %d", weights, all, total)
	}
	for i, w := range weights {
		if off := got[i] - w*hashSpace/sum; off < 0 || off > len(weights) || w == 0 && got[i] > 0 {
			t.Fatalf("weights %v: destination %d has %d places", weights, i, got[i])
		}
	}
	return all
}

func TestPortions(t *testing.T) {
	const percent = hashSpace / 100
	for _, c := range []struct {
		weights []int
		want    []portion
	}{
		{[]int{1}, []portion{{0, 100 * percent}}},
		{[]int{90, 10}, []portion{{1, 10 * percent}, {0, 90 * percent}}},
		{[]int{0, 7}, []portion{{1, 100 * percent}, {0, 0}}},
		{[]int{7, 0}, []portion{{0, 100 * percent}, {1, 0}}},
		{[]int{2, 1, 1}, []portion{{1, 25 * percent}, {0, 25 * percent}, {2, 25 * percent}, {0, 25 * percent}}},
		{[]int{10, 60, 30}, []portion{{1, 50 * percent}, {2, 30 * percent}, {1, 10 * percent}, {0, 10 * percent}}},
		{[]int{10, 30, 60}, []portion{{1, 30 * percent}, {2, 10 * percent}, {0, 10 * percent}, {2, 50 * percent}}},
		{[]int{25, 25, 25, 25}, []portion{{1, 25 * percent}, {3, 25 * percent}, {2, 25 * percent}, {0, 25 * percent}}},
	} {
		if got := division(t, c.weights); !slices.Equal(got, c.want) {
			t.Errorf("weights %v: %v, want %v", c.weights, got, c.want)
		}
	}
}

// TestWhoHasAVersionKeepsIt: its share grows at the base's cost, whatever the other shares are.
func TestWhoHasAVersionKeepsIt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		weights := make([]int, 2+r.IntN(6))
		for i := range weights {
			weights[i] = r.IntN(2) * r.IntN(1000)
		}
		weights[0] += 1 + r.IntN(3000)
		i, more := 1+r.IntN(len(weights)-1), slices.Clone(weights)
		grow := 1 + r.IntN(weights[0])
		more[i] += grow
		more[0] -= grow
		for move, n := range flows(division(t, weights), division(t, more)) {
			if move[0] == i && move[1] != i && n > len(weights) { // but for those that rounding leaves
				t.Fatalf("from %v to %v: %d places go from %d to %d", weights, more, n, move[0], move[1])
			}
		}
	}
}

// TestNobodyElseMoves: while no share is beyond the next anchor, users only come from the base to those that grow, and go
// to it from those that shrink; also where a version is added.
func TestNobodyElseMoves(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	room := []int{0, 1000, 500, 250, 250, 125, 125, 125, 125} // thousandths that are free of others, with so many of them
	for range 20_000 {
		n := 1 + r.IntN(7)
		of := func(k int) []int {
			weights, left := make([]int, n+1), 1000
			for i := 1; i <= k; i++ {
				weights[i] = min(r.IntN(room[n]+1), left)
				left -= weights[i]
			}
			weights[0] = left
			return weights
		}
		a, b := of(n-r.IntN(2)), of(n)
		if len(a) > 1 && a[n] == 0 {
			a = a[:n] // it is added
		}
		for move, places := range flows(division(t, a), division(t, b)) {
			from, to := move[0], move[1]
			grows := to > 0 && from == 0 && (to >= len(a) || b[to] > a[to])
			shrinks := from > 0 && to == 0 && b[from] < a[from]
			exchanged := from > 0 && to > 0 // never: each has places of its own
			if from != to && (exchanged || !grows && !shrinks) {
				t.Fatalf("from %v to %v: %d places go from %d to %d", a, b, places, from, to)
			}
		}
	}
}
