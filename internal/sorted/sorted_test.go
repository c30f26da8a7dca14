package sorted_test

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/machinenativeops/weir/internal/sorted"
)

// TestMapIsAMap: after any edits, a map has what a plain one has, in order, and those that it was made of have what they had.
func TestMapIsAMap(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, want := sorted.NewMap[int, *int](cmp.Compare[int]), map[int]int{}
		for range 60 {
			before, was := m, maps.Clone(want)
			edits := make(map[int]*int)
			for range r.IntN(3) * r.IntN(400) {
				key, v := r.IntN(1000), r.IntN(5)
				edits[key] = &v
				want[key] = v
				if r.IntN(2) == 0 {
					edits[key] = nil
					delete(want, key)
				}
			}
			m = m.Edited(sorted.Edits(edits, cmp.Compare[int]))
			check(t, m, want)
			check(t, before, was)
			equal := func(a, b *int) bool { return *a == *b }
			if got := m.Same(before, equal); got != maps.Equal(want, was) {
				t.Fatalf("seed %d: same is %v", seed, got)
			}
		}
	}
}

func check(t *testing.T, m *sorted.Map[int, *int], want map[int]int) {
	t.Helper()
	got, last := make(map[int]int), -1
	for key, v := range m.All() {
		if key <= last {
			t.Fatalf("%d comes after %d", key, last)
		}
		got[key], last = *v, key
	}
	if !maps.Equal(got, want) || m.Len() != len(want) {
		t.Fatalf("it has %v (%d), want %v", got, m.Len(), want)
	}
	for key := range 1000 {
		v, ok := m.Get(key)
		if is, has := want[key]; ok != has || ok && *v != is {
			t.Fatalf("of %d it has %v", key, ok)
		}
	}
}

// TestMapShares: an edit of one key copies one chunk, however many there are.
func TestMapShares(t *testing.T) {
	all := make(map[int]*int)
	for i := range 100_000 {
		all[i] = &i
	}
	m, round := sorted.NewMap[int, *int](cmp.Compare[int]).Edited(sorted.Edits(all, cmp.Compare[int])), 0
	if n := testing.AllocsPerRun(100, func() {
		round++
		m = m.Edited([]sorted.Edit[int, *int]{{Key: round * 7, Value: &round}})
	}); n > 5 {
		t.Errorf("an edit allocates %v times", n)
	}
}

func TestSlices(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		before, edits := []int{}, map[int]*int{} // an element is its key and, in the last digit, what it says
		for key := 1; key < 30; key++ {          // 0 stands for nothing
			if r.IntN(2) == 0 {
				before = append(before, key*10)
			}
			if r.IntN(4) == 0 {
				v := key*10 + r.IntN(3)
				if edits[key] = &v; r.IntN(3) == 0 {
					edits[key] = nil
				}
			}
		}
		byKey := func(a, b int) int { return cmp.Compare(a/10, b/10) }
		var list []sorted.Edit[int, int]
		for _, e := range sorted.Edits(edits, cmp.Compare[int]) {
			one := sorted.Edit[int, int]{Key: e.Key, Gone: e.Gone}
			if !e.Gone {
				one.Value = *e.Value
			}
			list = append(list, one)
		}
		after := sorted.Edited(before, list, func(e, key int) int { return cmp.Compare(e/10, key) })
		if !slices.IsSorted(after) {
			t.Fatal(after)
		}
		undone := slices.Clone(after)
		sorted.Changes(before, after, byKey, func(was, is int) {
			key := max(was, is) / 10
			if said, ok := edits[key]; !ok || said == nil && is != 0 || said != nil && *said != is {
				t.Fatalf("seed %d: %d became %d, and %v was said", seed, was, is, said)
			}
			undone = slices.DeleteFunc(undone, func(e int) bool { return is != 0 && e == is })
			if was != 0 {
				undone = append(undone, was)
			}
		})
		slices.Sort(undone)
		if !slices.Equal(undone, before) {
			t.Fatalf("seed %d: %v to %v: undone it is %v", seed, before, after, undone)
		}
	}
}

func TestMerged(t *testing.T) {
	one, two := 1, 2
	got := sorted.Merged([]sorted.Edit[string, *int]{
		{Key: "c", Gone: true}, {Key: "b", Gone: true}, {Key: "b", Value: &two}, {Key: "a", Value: &one}, {Key: "c", Gone: true}, {Key: "a", Gone: true},
	}, cmp.Compare[string])
	want := []sorted.Edit[string, *int]{{Key: "a", Value: &one}, {Key: "b", Value: &two}, {Key: "c", Gone: true}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
