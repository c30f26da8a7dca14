package ratelimit

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/machinenativeops/weir/mesh"
)

// TestTablesOfEdits: whatever there was before, a table is the one that it is from nothing, and what a limit has counted
// goes on.
func TestTablesOfEdits(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 4))
		table := newTable(nil, nil, new(table))
		var limits []*mesh.Limit
		for range 40 {
			limits = slices.DeleteFunc(slices.Clone(limits), func(*mesh.Limit) bool { return r.IntN(8) == 0 })
			for range r.IntN(4) {
				id := fmt.Sprintf("limit/%02d", r.IntN(20))
				limits = slices.DeleteFunc(limits, func(l *mesh.Limit) bool { return l.ID == id })
				limits = append(limits, &mesh.Limit{ID: id, Requests: uint64(1 + r.IntN(3)), Burst: 1, Per: time.Second})
			}
			if slices.SortFunc(limits, compareIDs); r.IntN(6) == 0 {
				slices.Reverse(limits)
			}
			before := table
			table = newTable(limits, nil, table)
			want := tableOf(limits, nil, before)
			if !reflect.DeepEqual(table.byID, want.byID) || !reflect.DeepEqual(table.sorted, want.sorted) {
				t.Fatalf("seed %d: the table is not what it is from nothing", seed)
			}
			for id, l := range table.byID {
				if old := before.byID[id]; old != nil && old.counts != l.counts {
					t.Fatalf("seed %d: %s counts from nothing", seed, id)
				}
				l.counts.allowed.Add(1)
			}
			if slices.IsSortedFunc(table.policy, func(a, b *mesh.Limit) int { return cmp.Compare(a.ID, b.ID) }) && table.plain && newTable(limits, nil, table) != table {
				t.Fatalf("seed %d: the same limits make another table", seed)
			}
		}
	}
}
