package ratelimit

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/stretchr/testify/assert"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// TestHitters: of keys that follow a Zipf law, with very many that come once between them, the heaviest are found, and
// their counts are right within their errors.
func TestHitters(t *testing.T) {
	h, l := newHitters(), &limit{Limit: mesh.Limit{ID: "l"}}
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.2, 1, 1e6)
	hits := make(map[string]uint64)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	add := func(key string) {
		hits[key]++
		h.add(now, []byte(key), 1, l, descriptor("l", "k", key))
	}
	for i := range 200_000 {
		add(fmt.Sprint(zipf.Uint64()))
		add(fmt.Sprint("once", i))
	}
	var heaviest []string
	for key := range hits {
		heaviest = append(heaviest, key)
	}
	slices.SortFunc(heaviest, func(a, b string) int { return int(hits[b]) - int(hits[a]) })
	top := h.top(now, 10)
	for i, want := range heaviest[:10] {
		at := slices.IndexFunc(top, func(k TopKey) bool { return k.Key[0] == "k="+want })
		if at < 0 {
			t.Errorf("%s, %d hits, is not among %v", want, hits[want], top)
			continue
		}
		if k := top[at]; k.Count < hits[want] || k.Count-k.Error > hits[want] {
			t.Errorf("place %d: %s has %d to %d hits, want %d", i, want, k.Count-k.Error, k.Count, hits[want])
		}
	}
	assert.Equal(t, top[0].Count/2, h.top(now+int64(halfLife), 1)[0].Count, "half after a half-life")
	assert.Empty(t, h.top(now+100*int64(halfLife), 1))
}

// TestTopAndCheck: who was refused is told, and what is checked is not counted.
func TestTopAndCheck(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler), Options{Keys: 1000})
	s.Apply([]*mesh.Limit{{ID: "l", By: []policy.LimitBy{{Header: "x-t"}, {Header: "x-api-key"}}, Requests: 2, Per: time.Hour, Burst: 2}, {ID: "c", Requests: 2, Per: time.Hour, Burst: 2}})
	for range 5 {
		ask(t, s, request(descriptor("l", "x-t", "a")))
	}
	ask(t, s, request(descriptor("l", "x-api-key", "open sesame")))
	charge := descriptor("c", "x-t", "b")
	charge.Entries[0].Key = mesh.ChargeKey
	for range 3 {
		ask(t, s, request(charge))
	}
	top := s.Top(10)
	assert.Equal(t, []TopKey{{Limit: "l", Key: []string{"x-t=a"}, Count: 3}}, top.Refused)
	assert.Equal(t, []TopKey{
		{Limit: "c", Key: []string{"x-t=b"}, Count: 3},
		{Limit: "l", Key: []string{"x-t=a"}, Count: 2},
		{Limit: "l", Key: []string{"x-api-key=sha256:41ef4bb0b236"}, Count: 1},
	}, top.Used)
	st := s.Status()
	assert.Equal(t, []uint64{0, 0}, []uint64{st.Limits[0].Allowed, st.Limits[0].Refused}, "what is charged is no request")

	check := func(text string) Standing {
		domain, d, err := ParseDescriptor(text)
		assert.NoError(t, err)
		out, err := s.Check(t.Context(), domain, d)
		assert.NoError(t, err)
		return out
	}
	for range 3 {
		a := check("domain=weir limit=l x-t=a")
		assert.False(t, a.Allowed)
		assert.NotEqual(t, "0s", a.RetryAfter)
		b := check(`domain=weir limit=l x-api-key="open sesame"`)
		assert.True(t, b.Allowed)
		assert.EqualValues(t, 1, b.Remaining)
	}
	_, err := s.Check(t.Context(), "weir", &commonratelimitv3.RateLimitDescriptor{Entries: descriptor("none").Entries})
	assert.ErrorIs(t, err, ErrNoLimit)
	for _, text := range []string{"", "domain=a", "limit=l", `domain=a k="b`, "domain=a k", "domain= k=v"} {
		if _, _, err := ParseDescriptor(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	assert.Equal(t, st, s.Status(), "a check counts nothing")
}

// TestCheckWants: what no request can be is no key that would pass.
func TestCheckWants(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler), Options{Keys: 1000})
	s.Apply([]*mesh.Limit{{ID: "l", By: []policy.LimitBy{{RemoteAddress: true}, {Header: "x-t"}, {Header: "x-u", Prefix: "a"}, {Header: "x-v", Exact: "b"}}, Requests: 2, Per: time.Hour, Burst: 2}, {ID: "all", Per: time.Hour}})
	for text, want := range map[string]string{
		"l remote_address=10.0.0.1 x-t=a x-u=a* x-u=ab x-v=b":       "",
		"l remote_address=10.0.0.1 x-u=a* x-u=ab x-v=b not=x not=y": "",
		"l remote_address=10.0.0.1 x-t=a x-u=ab x-v=b":              "l is by remote_address=VALUE x-t=VALUE x-u=a* x-u=VALUE x-v=b",
		"l x-t=a x-u=a* x-u=ab x-v=b":                               "l is by",
		"l remote_address=10.0.0.1 x-u=a* x-u=ab x-v=c":             "l is by",
		"all":       "",
		"all x-t=a": "all is by nothing",
	} {
		_, d, err := ParseDescriptor("domain=weir limit=" + text)
		assert.NoError(t, err)
		_, err = s.Check(t.Context(), "weir", d)
		if want == "" {
			assert.NoError(t, err, text)
		} else {
			assert.ErrorIs(t, err, ErrNoLimit)
			assert.ErrorContains(t, err, want, text)
		}
	}
}

// TestTopIsRightUnderLoad: not every question is noted then, and the counts are right all the same.
func TestTopIsRightUnderLoad(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler), Options{Keys: 1000})
	s.Apply([]*mesh.Limit{{ID: "l", Requests: 80_000, Per: mesh.Ever, Burst: 80_000}})
	q := new(question)
	now := time.Now().UnixNano()
	for range 160_000 {
		if err := q.read(request(descriptor("l", "x-t", "a")), s.limits.Load()); err != nil {
			t.Fatal(err)
		}
		allowed, err := s.store.Take(t.Context(), now, q.hits)
		if err != nil {
			t.Fatal(err)
		}
		s.note(q, now, allowed)
	}
	for what, keys := range map[string][]TopKey{"used": s.used.top(now, 10), "refused": s.refused.top(now, 10)} {
		// The deviation is 1,100: this is never seen.
		if len(keys) != 1 || keys[0].Count < 70_000 || keys[0].Count > 90_000 {
			t.Errorf("%s: %v, want about 80,000", what, keys)
		}
	}
	if s.noting.weight(now+exactlyFor) != 1 {
		t.Error("what comes when there is less is not noted")
	}
}

// BenchmarkHitters: what it costs to know who is hit most, of keys that are there and of those that push others out.
func BenchmarkHitters(b *testing.B) {
	h, l := newHitters(), &limit{Limit: mesh.Limit{ID: "l"}}
	keys := make([][]byte, 4096)
	for i := range keys {
		keys[i] = AppendKey(nil, fmt.Sprint("tenant-", i))
	}
	for _, n := range []int{64, len(keys)} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			d, i := descriptor("l", "k", "v"), 0
			for b.Loop() {
				h.add(1e18, keys[i%n], 1, l, d)
				i++
			}
		})
	}
}
