package ratelimit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
)

// Top is the keys that were used and refused the most of late.
type Top struct {
	HalfLife string   `json:"halfLife"` // after which a hit counts for half
	Refused  []TopKey `json:"refused"`  // most first
	Used     []TopKey `json:"used"`
}

// TopKey is a key and how often it was hit. There may be fewer hits of it than Count, by Error at most.
type TopKey struct {
	Limit string   `json:"limit"`
	Key   []string `json:"key"` // NAME=VALUE; a value that may be a secret is only told apart
	Count uint64   `json:"count"`
	Error uint64   `json:"error"`
}

// hitters finds the keys that are hit most, within bounds: the space-saving algorithm of Metwally, Agrawal and El Abbadi
// (Efficient Computation of Frequent and Top-k Elements in Data Streams, 2005), in parts with a lock each. A key that is
// hit more than a hitterSlots-th of all of its part's hits is always there.
type hitters struct {
	seed  maphash.Seed
	parts [hitterParts]hitterPart
}

const (
	hitterParts = 32
	hitterSlots = 32 // of a part: few enough to be looked through

	// halfLife is after which a hit counts for half: what is shown is of now, and numbers stay small.
	halfLife = time.Minute
	// maxHitterText bounds what a client's values take.
	maxHitterText = 128
)

type hitterPart struct {
	mu     sync.Mutex // guards everything declared below
	hashes [hitterSlots]uint64
	counts [hitterSlots]uint64
	slots  [hitterSlots]hitter
	used   int
	aged   int64 // half-lives since 1970
}

type hitter struct {
	over  uint64
	limit string
	key   []string
}

func newHitters() *hitters { return &hitters{seed: maphash.MakeSeed()} }

// add counts n hits of a key. What it is called is made only when it comes new.
func (t *hitters) add(now int64, key []byte, n uint64, l *limit, d *commonratelimitv3.RateLimitDescriptor) {
	h := maphash.Bytes(t.seed, key)
	p := &t.parts[h%hitterParts]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age(now)
	for i, other := range p.hashes[:p.used] {
		if other == h {
			p.counts[i] += n
			return
		}
	}
	at := p.used
	var least uint64
	if at < hitterSlots {
		p.used++
	} else {
		at = p.least()
		least = p.counts[at]
	}
	p.hashes[at], p.counts[at] = h, least+n
	p.slots[at] = hitter{over: least, limit: l.ID, key: entriesText(d, l)}
}

func (p *hitterPart) least() int {
	least := 0
	for i, n := range &p.counts {
		if n < p.counts[least] {
			least = i
		}
	}
	return least
}

// age halves what is there for each half-life that is over.
func (p *hitterPart) age(now int64) {
	halves := now / int64(halfLife)
	by := uint64(max(0, halves-p.aged))
	p.aged = max(p.aged, halves)
	if by == 0 {
		return
	}
	left := 0
	for i := range p.used {
		if n := p.counts[i] >> by; n > 0 {
			s := p.slots[i]
			s.over >>= by
			p.hashes[left], p.counts[left], p.slots[left] = p.hashes[i], n, s
			left++
		}
	}
	clear(p.slots[left:p.used])
	p.used = left
}

// top gives the n most, most first.
func (t *hitters) top(now int64, n int) []TopKey {
	all := []TopKey{}
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.Lock()
		p.age(now)
		for i, s := range p.slots[:p.used] {
			all = append(all, TopKey{Limit: s.limit, Key: s.key, Count: p.counts[i], Error: s.over})
		}
		p.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b TopKey) int {
		return cmp.Or(cmp.Compare(b.Count-b.Error, a.Count-a.Error), cmp.Compare(a.Limit, b.Limit), slices.Compare(a.Key, b.Key))
	})
	return all[:min(n, len(all))]
}

// secret are words in the names of headers whose values are not for others' eyes.
var secret = []string{"auth", "cookie", "key", "token", "secret", "password", "session"}

// entriesText is what a key is made of, for people.
func entriesText(d *commonratelimitv3.RateLimitDescriptor, l *limit) []string {
	entries := d.GetEntries()
	if !l.compat {
		entries = entries[1:] // the limit
	}
	text := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.GetKey() == notKey && l.markers && !l.compat {
			continue
		}
		name, value := strings.ToLower(e.GetKey()), strings.Clone(e.GetValue())
		switch {
		case slices.ContainsFunc(secret, func(word string) bool { return strings.Contains(name, word) }):
			sum := sha256.Sum256([]byte(value))
			value = "sha256:" + hex.EncodeToString(sum[:6])
		case len(value) > maxHitterText:
			value = strings.ToValidUTF8(value[:maxHitterText], "") + "…"
		}
		text = append(text, strings.Clone(e.GetKey())+"="+value)
	}
	return text
}

// Top gives the n keys that were refused, and used, the most of late.
func (s *Service) Top(n int) Top {
	now := s.now()
	return Top{HalfLife: halfLife.String(), Refused: s.refused.top(now, n), Used: s.used.top(now, n)}
}

const (
	exactly    = 100 // so many questions of each 100 ms are all noted, and of more,
	oneOf      = 16  // one of so many, which then stands for all
	exactlyFor = int64(100 * time.Millisecond)
)

// sampler chooses the questions that are noted. Looking up who is hit costs a sixth of an answer, which where much is asked
// is worth saving, and makes no difference to who is hit most.
type sampler struct {
	window atomic.Int64 // which 100 ms
	noted  atomic.Int64 // in them, no more than exactly as a rule: what many read is then seldom written
}

// weight is how many questions one at now stands for; 0: another one does.
func (s *sampler) weight(now int64) uint64 {
	if at := now / exactlyFor; at > s.window.Load() {
		s.window.Store(at)
		s.noted.Store(0)
	}
	switch {
	case s.noted.Load() < exactly:
		s.noted.Add(1)
		return 1
	case rand.Uint32()%oneOf == 0: //nolint:gosec // no secret
		return oneOf
	default:
		return 0
	}
}

// note notes who was refused, or else who used how much.
func (s *Service) note(q *question, now int64, allowed bool) {
	weight := s.noting.weight(now)
	if weight == 0 {
		return
	}
	for i := range q.asked {
		a := &q.asked[i]
		if a.hit == nil || a.hit.Kind == Refund {
			continue
		}
		switch {
		case !a.hit.Decision.Allowed && a.hit.Kind == Take:
			s.refused.add(now, a.hit.Key, weight*max(1, a.hit.N), a.limit, a.descriptor)
		case (allowed || a.hit.Kind == Charge) && a.hit.N > 0:
			s.used.add(now, a.hit.Key, weight*a.hit.N, a.limit, a.descriptor)
		}
	}
}
