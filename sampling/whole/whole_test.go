package whole

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
)

const second = int64(time.Second)

var (
	half = sampling.FromPercent(50)
	all  = Rules{Errors: true, SlowerThan: time.Second, SlowestPercent: 1, RarerThan: time.Minute, Wait: 5 * time.Second}
)

const many = 1 << 20 // decisions

// add and sweep give what is judged by that; a part is a number.
func add(table *Table[int], rules *Rules, id ID, seen Seen, part int, now int64) *Judged[int] {
	dst := new(Judged[int])
	table.Add(dst, rules, id, &seen, part, now)
	return dst
}

func sweep(table *Table[int], rules *Rules, now int64) *Judged[int] {
	dst := new(Judged[int])
	table.Sweep(dst, rules, 0, 1, now-int64(rules.Wait), now, false)
	return dst
}

// only is the one trace that was judged, and its parts.
func (j *Judged[P]) only(t *testing.T) (Released, []P) {
	t.Helper()
	if len(j.Traces) != 1 {
		t.Fatalf("%d traces are judged, want 1: %+v", len(j.Traces), j.Traces)
	}
	return j.Traces[0], j.Of(&j.Traces[0])
}

// traceID gives an id with that randomness; n tells it from others with the same.
func traceID(n uint64, r sampling.Randomness) (id ID) {
	binary.BigEndian.PutUint64(id[:], n)
	binary.BigEndian.PutUint64(id[8:], uint64(r))
	return id
}

// one is a span of a trace that nothing is known against, at half the rate.
func one(r sampling.Randomness) Seen {
	return Seen{Facts: Facts{Spans: 1, Threshold: half, Randomness: r}}
}

func TestEarly(t *testing.T) {
	history := NewOperations(10)
	old := history.Of(policy.Ref{Name: "a"}, "old", 1)
	old.keep(second)
	for _, tt := range []struct {
		name string
		seen func(*Seen)
		want Rule
	}{
		{"nothing", func(*Seen) {}, None},
		{"failed", func(s *Seen) { s.Failed = true }, Errors},
		{"marked before failed", func(s *Seen) { s.Failed, s.Marked = true, true }, Marked},
		{"a slow span", func(s *Seen) { s.Longest = time.Second + 1 }, Slow},
		{"at the bound", func(s *Seen) { s.Longest = time.Second }, None},
		{"slow from first to last", func(s *Seen) { s.Start, s.End = 1, second+2 }, Slow},
		{"a rare root", func(s *Seen) { s.Rooted, s.Operation = true, history.Of(policy.Ref{Name: "a"}, "new", 1) }, Rare},
		{"a root that is not", func(s *Seen) { s.Rooted, s.Operation = true, old }, None},
		{"a root without history", func(s *Seen) { s.Rooted = true }, None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := one(0)
			tt.seen(&seen)
			table := NewTable[int](many)
			got := add(table, &all, ID{}, seen, 7, 2*second)
			if tt.want == None {
				if len(got.Traces) != 0 || held(table) != 1 {
					t.Fatalf("it is judged before its time: %+v", got)
				}
				if got = sweep(table, &all, 7*second-1); len(got.Traces) != 0 {
					t.Fatal("it is judged before the wait is over")
				}
				if r, _ := sweep(table, &all, 7*second).only(t); r.Verdict != (Verdict{false, Rate, half, 0}) {
					t.Errorf("after the wait: %+v", r)
				}
				return
			}
			if r, parts := got.only(t); r.Verdict != (Verdict{true, tt.want, sampling.Always, 0}) || !slices.Equal(parts, []int{7}) {
				t.Errorf("got %+v, want it kept by %v", r, tt.want)
			}
		})
	}
}

func TestNoRuleKeepsMore(t *testing.T) {
	seen := one(0)
	seen.Failed, seen.Longest, seen.Operation = true, time.Hour, new(Operation)
	if got := add(NewTable[int](many), &Rules{}, ID{}, seen, 0, 1); len(got.Traces) != 0 {
		t.Errorf("without rules it is kept by %v", got.Traces[0].Verdict.Rule)
	}
}

// TestTheRootDecides holds that a trace is judged when its root has come, where nothing that may still come could change
// what becomes of it, and only then.
func TestTheRootDecides(t *testing.T) {
	for _, tt := range []struct {
		rules Rules
		want  Rule
	}{
		{Rules{}, Rate},
		{Rules{SlowestPercent: 1}, Rate},
		{Rules{Errors: true}, None},
		{Rules{SlowerThan: time.Second}, None},
		{Rules{Marks: true}, None},
	} {
		seen := one(0)
		seen.Rooted = true
		got := None
		if j := add(NewTable[int](many), &tt.rules, ID{}, seen, 0, 1); len(j.Traces) > 0 {
			got = j.Traces[0].Verdict.Rule
		}
		if got != tt.want {
			t.Errorf("%+v: judged by %v at once, want %v", tt.rules, got, tt.want)
		}
	}
}

func TestRootOverRates(t *testing.T) {
	low, high := sampling.FromPercent(10), sampling.FromPercent(90)
	for _, tt := range []struct {
		name  string
		spans []Facts
		want  sampling.Threshold
	}{
		{"the highest rate", []Facts{{Threshold: low}, {Threshold: high}, {Threshold: half}}, high},
		{"the root's", []Facts{{Threshold: high}, {Threshold: low, Rooted: true}, {Threshold: high}}, low},
		{"the first root's", []Facts{{Threshold: half, Rooted: true}, {Threshold: high, Rooted: true}}, half},
	} {
		s := Seen{Facts: tt.spans[0]}
		for _, later := range tt.spans[1:] {
			s.Merge(&Seen{Facts: later})
		}
		if s.Threshold != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, s.Threshold, tt.want)
		}
	}
}

func TestLateSpansFollow(t *testing.T) {
	table := NewTable[int](2 * Shards) // two for each shard
	var dropped, kept, other ID
	for n := uint64(1); other == (ID{}); n++ { // three of one shard
		id := traceID(n, 0)
		if table.shard(maphash.Bytes(table.seed, id[:])) == &table.shards[0] {
			dropped, kept, other = id, dropped, kept
		}
	}
	add(table, &all, dropped, one(0), 1, 1)
	sweep(table, &all, 10*second)
	failed := one(0)
	failed.Failed = true
	if r, _ := add(table, &all, dropped, failed, 2, 11*second).only(t); !r.Late || r.Verdict.Keep {
		t.Errorf("an error after the decision: %+v", r)
	}
	add(table, &all, kept, failed, 3, 11*second)
	if r, parts := add(table, &all, kept, one(0), 4, 12*second).only(t); r.Verdict != (Verdict{true, Errors, sampling.Always, 0}) || !slices.Equal(parts, []int{4}) {
		t.Errorf("after an error: %+v", r)
	}
	table.Remember(other, Verdict{}, 12*second) // the first decision is forgotten
	if got := add(table, &all, dropped, one(0), 5, 12*second); len(got.Traces) != 0 {
		t.Errorf("a forgotten decision is followed: %+v", got)
	}
}

func TestRememberedDecisionsAreFollowed(t *testing.T) {
	table, id := NewTable[int](many), traceID(1, 0)
	table.Remember(id, Verdict{true, Slow, sampling.Always, 0}, 1)
	if r, _ := add(table, &all, id, one(0), 1, 2).only(t); !r.Late || r.Verdict.Rule != Slow || held(table) != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestRulesChangeWhileTracesAreHeld(t *testing.T) {
	table := NewTable[int](many)
	add(table, &all, ID{}, one(0), 1, 1)
	sooner := all
	sooner.Wait = time.Second
	if got := sweep(table, &sooner, second+1); len(got.Traces) != 1 {
		t.Error("a shorter wait does not hold for what is held")
	}
}

// TestNothingIsLost holds, of any order of events: every part is released exactly once, a trace's parts in their order
// and by one decision while it is remembered, and every failed and every slow trace is kept.
func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		table, operations := NewTable[int](many), NewOperations(3)
		var added, now int64
		got := map[ID][]int{}
		verdicts := map[ID]Verdict{}
		sent := map[ID][]int{}
		seen := map[ID]*Seen{}
		take := func(j *Judged[int]) {
			for _, x := range j.Traces {
				got[x.ID] = append(got[x.ID], j.Of(&x)...)
				if v, ok := verdicts[x.ID]; ok && v != x.Verdict {
					t.Fatalf("seed %d: %+v after %+v", seed, x.Verdict, v)
				} else if ok != x.Late {
					t.Fatalf("seed %d: late %v, decided before %v", seed, x.Late, ok)
				}
				verdicts[x.ID] = x.Verdict
				if want := seen[x.ID]; x.Seen != *want {
					t.Fatalf("seed %d: seen is %+v, want %+v", seed, x.Seen, *want)
				}
				seen[x.ID] = nil
				if s := x.Seen; !x.Late && (s.Failed || s.Longest > all.SlowerThan) && !x.Verdict.Keep {
					t.Fatalf("seed %d: what failed or was slow is dropped: %+v", seed, x)
				}
			}
		}
		for range 500 {
			now += r.Int64N(second / 2)
			randomness := sampling.Randomness(r.Uint64N(8)<<53 | 5*Shards + r.Uint64N(2)) // of two shards
			came := Seen{Facts{
				Spans: 1 + r.IntN(4), Threshold: half, Randomness: randomness, Failed: r.IntN(30) == 0,
				Longest: time.Duration(r.Int64N(second * 21 / 20)), Rooted: r.IntN(3) == 0,
			}, Subject{Operation: operations.Of(policy.Ref{}, string(rune('a'+r.IntN(5))), now)}}
			id := traceID(r.Uint64N(40), randomness)
			added++
			sent[id] = append(sent[id], int(added))
			if seen[id] == nil {
				seen[id] = &came
			} else {
				seen[id].Merge(&came)
			}
			take(add(table, &all, id, came, int(added), now))
			if r.IntN(5) == 0 {
				take(sweep(table, &all, now))
			}
			if r.IntN(20) == 0 { // shed
				j := new(Judged[int])
				table.Sweep(j, &all, r.IntN(2), 2, now-r.Int64N(5*second), now, true)
				take(j)
			}
		}
		j := new(Judged[int])
		table.Sweep(j, &all, 0, 1, now, now, false)
		take(j)
		for id, parts := range sent {
			if !slices.Equal(parts, got[id]) {
				t.Fatalf("seed %d: sent %v, got %v", seed, parts, got[id])
			}
		}
		for i := range table.shards {
			s := &table.shards[i]
			if s.waiting.n != 0 || len(s.traces.free) != int(s.traces.n) || len(s.parts.free) != int(s.parts.n) || len(s.subject) > 0 {
				t.Fatalf("seed %d: after all is judged a shard holds %d traces", seed, s.waiting.n)
			}
		}
	}
}

// TestUnbiased holds the adjusted counts of what all rules together keep, late spans and shedding included, against
// the truth by a chi-square test over 50 operations at p = 0.001.
func TestUnbiased(t *testing.T) {
	const n, critical = 50, 86.66
	r := rand.New(rand.NewPCG(3, 4))
	table, operations := NewTable[int](many), NewOperations(n)
	zipf := rand.NewZipf(r, 1.05, 2, n-1)
	var truth, sum, variance [n]float64
	var thresholds [n]sampling.Threshold
	for i := range thresholds {
		thresholds[i] = sampling.FromPercent(5 + 90*r.Float64())
	}
	of := map[ID]uint64{}
	shed, byRule := 0, map[Rule]int{}
	j := new(Judged[int])
	take := func() {
		defer j.Reset()
		for _, x := range j.Traces {
			i := of[x.ID]
			if x.Shed {
				shed++
			}
			byRule[x.Verdict.Rule]++
			if x.Verdict.Keep {
				sum[i] += float64(x.Seen.Spans) * x.Verdict.Threshold.AdjustedCount()
			}
			if x.Verdict.Rule == Rate && !x.Late { // with its late span, which follows
				variance[i] += 4 * (x.Verdict.Threshold.AdjustedCount() - 1)
			}
		}
	}
	var now int64
	for k := range uint64(300_000) {
		now += second / 5000
		i := zipf.Uint64()
		randomness := sampling.Randomness(r.Uint64() >> 8)
		id := traceID(k, randomness)
		of[id] = i
		took := time.Duration(r.ExpFloat64() * 2e8)
		seen := Seen{Facts{
			Spans: 1, Threshold: thresholds[i], Randomness: randomness, Failed: r.IntN(100) == 0, Rooted: true, Took: took, Longest: took,
		}, Subject{Operation: operations.Of(policy.Ref{}, string(rune('a'+i)), now)}}
		truth[i] += 2
		table.Add(j, &all, id, &seen, 0, now)
		take()
		if k%1000 == 0 {
			table.Sweep(j, &all, 0, 1, now-int64(all.Wait), now, false)
			take()
		}
		if k%50_000 == 0 {
			table.Sweep(j, &all, 0, 1, now-2*second, now, true)
			take()
		}
	}
	table.Sweep(j, &all, 0, 1, now, now, false)
	take()
	for id, i := range of { // a second span of each, late
		table.Add(j, &all, id, &Seen{Facts: Facts{Spans: 1, Threshold: thresholds[i]}}, 0, now)
		take()
	}
	square := 0.0
	for i := range truth {
		if variance[i] > 0 {
			square += (sum[i] - truth[i]) * (sum[i] - truth[i]) / variance[i]
		} else if sum[i] != truth[i] {
			t.Errorf("operation %d: %v, want %v exactly", i, sum[i], truth[i])
		}
	}
	t.Logf("chi-square %.1f (critical %.1f), %d shed, %v", square, critical, shed, byRule)
	if square > critical {
		t.Errorf("chi-square is %.1f, want at most %.1f", square, critical)
	}
	for _, rule := range []Rule{Errors, Slow, Slowest, Rare, Rate} {
		if byRule[rule] == 0 {
			t.Errorf("nothing was judged by %v: the test says nothing of it", rule)
		}
	}
	if shed == 0 {
		t.Error("nothing was shed: the test says nothing of it")
	}
}

func TestSlowest(t *testing.T) {
	o, r := new(Operation), rand.New(rand.NewPCG(1, 2))
	slow := 0
	const n = 200_000
	for range n {
		if o.slowest(time.Duration(r.ExpFloat64()*float64(50*time.Millisecond)), 2, 1) {
			slow++
		}
	}
	if share := 100 * float64(slow) / n; share < 1 || share > 2.2 {
		t.Errorf("of the slowest 2 %%, %.2f %% are kept", share)
	}
	for range 3 * memory { // it has become ten times as slow
		o.slowest(time.Duration(r.ExpFloat64()*float64(500*time.Millisecond)), 2, 1)
	}
	slow = 0
	for range n {
		if o.slowest(time.Duration(r.ExpFloat64()*float64(500*time.Millisecond)), 2, 1) {
			slow++
		}
	}
	if share := 100 * float64(slow) / n; share < 1 || share > 2.2 {
		t.Errorf("after a change, %.2f %% are kept", share)
	}
}

// held is how many traces wait to be judged.
func held(table *Table[int]) (traces int) {
	for i := range table.shards {
		traces += table.shards[i].waiting.n
	}
	return traces
}

func TestBucketsAreInOrder(t *testing.T) {
	last := 0
	for d := time.Duration(1); d < 100*time.Hour; d += d/16 + 1 {
		b := bucket(d)
		if b < last || b > last+1 && last != 0 || b >= buckets {
			t.Fatalf("%v is in bucket %d, after %d", d, b, last)
		}
		last = b
	}
}

func TestRareOnceInSoLong(t *testing.T) {
	o, kept := new(Operation), 0
	for now := int64(1); now <= 3600*second; now += 7 * second {
		if o.rare(time.Minute, now) {
			kept++
		}
	}
	if kept != 58 { // each 63 s: the first of 7 s that is a minute later
		t.Errorf("%d of an hour, want 58", kept)
	}
}

func TestOperationsAreBounded(t *testing.T) {
	o := NewOperations(2)
	a, b := o.Of(policy.Ref{}, "a", 1), o.Of(policy.Ref{}, "b", 100)
	if a == nil || b == nil || o.Of(policy.Ref{}, "c", 100) != nil || o.Of(policy.Ref{}, "a", 100) != a {
		t.Fatal("not the first two operations are remembered")
	}
	o.Forget(50)
	if o.Of(policy.Ref{}, "b", 100) != b || o.Of(policy.Ref{}, "c", 100) == nil {
		t.Error("one that is not used takes the room of another")
	}
}

// TestManyAtOnce is for the race detector; it counts that nothing is lost.
func TestManyAtOnce(t *testing.T) {
	const workers, each = 4, 5000
	table, operations := NewTable[int](4096), NewOperations(10)
	released := make([]int, workers)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 9))
			var dst Judged[int]
			for k := range int64(each) {
				randomness := sampling.Randomness(r.Uint64() >> 8)
				seen := one(randomness)
				seen.Failed, seen.Rooted = r.IntN(50) == 0, r.IntN(2) == 0
				seen.Operation = operations.Of(policy.Ref{}, string(rune('a'+r.IntN(20))), k)
				dst.Reset()
				table.Add(&dst, &all, traceID(r.Uint64N(2000), randomness), &seen, 1, k*second/100)
				if k%100 == 0 {
					table.Sweep(&dst, &all, w, workers, k*second/100-int64(all.Wait), k*second/100, false)
					operations.Forget(k - 1000)
				}
				released[w] += len(dst.Parts)
			}
		})
	}
	group.Wait()
	total := 0
	for _, n := range released {
		total += n
	}
	var rest Judged[int]
	table.Sweep(&rest, &all, 0, 1, each*second, each*second, false)
	total += len(rest.Parts)
	if total != workers*each {
		t.Errorf("%d parts came out of %d", total, workers*each)
	}
}

// BenchmarkTable is what a span costs that comes alone, eight to a trace, without pdata: looking up the trace, merging,
// judging, sweeping. The whole path may cost 400 ns.
func BenchmarkTable(b *testing.B) {
	table, operations := NewTable[uint64](1<<17), NewOperations(1000)
	operation := operations.Of(policy.Ref{}, "a", 1)
	r := rand.New(rand.NewPCG(1, 1))
	var ids [1 << 10]ID
	var dst Judged[uint64]
	b.ReportAllocs()
	var k uint64
	for b.Loop() {
		slot := k % uint64(len(ids))
		round := k / uint64(len(ids)) % 8
		if round == 0 {
			ids[slot] = traceID(k, sampling.Randomness(r.Uint64()>>8))
		}
		now := int64(k) * 1000
		seen := Seen{
			Facts{Spans: 1, Threshold: half, Randomness: sampling.FromTraceID(ids[slot]), Rooted: round == 7, Took: time.Duration(slot) * time.Millisecond / 2},
			Subject{Operation: operation},
		}
		dst.Reset()
		table.Add(&dst, &all, ids[slot], &seen, k, now)
		if k++; k%10_000 == 0 {
			table.Sweep(&dst, &all, 0, 1, now-int64(all.Wait), now, false)
		}
	}
}
