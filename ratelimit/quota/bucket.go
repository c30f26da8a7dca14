package quota

import (
	"math"
	"sync"
	"time"

	"github.com/machinenativeops/weir/ratelimit"
)

// LifeTime is how long a promise holds at least.
const LifeTime = 15 * time.Second

const (
	maxLifeTime = 10 * time.Minute
	round       = 500 * time.Millisecond // how often shares are made anew
	idleAfter   = 5 * time.Minute        // a bucket that is not used is given up
)

// bucket is a limit's key, divided among proxies.
type bucket struct {
	mu       sync.Mutex // guards everything declared below
	quota    ratelimit.Quota
	parts    map[*part]struct{}
	divided  time.Time
	unsettle bool // somebody came or went
}

// part is one proxy's, or was: that of a proxy that has gone is there until its promise is over.
type part struct {
	host     string // of the proxy
	gone     bool
	demand   float64 // requests a second
	target   float64 // what it would get
	promised float64 // Invariant: the sum over all parts is at most the limit, but for limits that shrink
	lifeTime time.Duration
	expires  time.Time
	used     time.Time
	assigned bool
}

// join adds a proxy. One that comes back to where another one was takes over what that one was promised.
func (b *bucket) join(host string, now time.Time) *part {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &part{host: host, lifeTime: LifeTime, used: now}
	for old := range b.parts {
		if old.gone && old.host == host {
			p.promised, p.demand, p.expires = old.promised, old.demand, old.expires
			delete(b.parts, old)
			break
		}
	}
	b.parts[p] = struct{}{}
	b.unsettle = true
	return p
}

// report takes in what a proxy has let pass and refused since its last report.
func (b *bucket) report(p *part, elapsed time.Duration, requests uint64, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if requests > 0 {
		p.used = now
	}
	seconds := max(elapsed, 100*time.Millisecond).Seconds()
	// What was needed a moment ago is likely needed again: it fades within a few reports.
	p.demand = max(float64(requests)/seconds, p.demand/2)
	p.lifeTime = min(max(LifeTime, 3*elapsed), maxLifeTime)
}

// leave ends a proxy's part. What it was promised holds until it expires, unless the proxy has given it up.
func (b *bucket) leave(p *part, givenUp bool, now time.Time) (empty bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.gone = true
	if givenUp {
		delete(b.parts, p)
	}
	b.expire(now)
	return len(b.parts) == 0
}

func (b *bucket) expire(now time.Time) {
	for p := range b.parts {
		if p.gone && !p.expires.After(now) {
			delete(b.parts, p)
			b.unsettle = true
		}
	}
}

// total is the limit, in requests a second.
func (b *bucket) total() float64 { return float64(b.quota.Requests) / b.quota.Per.Seconds() }

// divide makes targets anew, now and then.
func (b *bucket) divide(now time.Time) {
	b.expire(now)
	if !b.unsettle && now.Sub(b.divided) < round {
		return
	}
	b.divided, b.unsettle = now, false
	left := b.total()
	var live []*part
	var demands []float64
	for p := range b.parts {
		if p.gone {
			left -= p.promised
			continue
		}
		live, demands = append(live, p), append(demands, p.demand)
	}
	for i, share := range divide(left, demands) {
		live[i].target = share
	}
}

// assign gives what a proxy is to be told, if anything: its share of requests a second and of the burst. Shares shrink
// first, and grow by what others have given back.
func (b *bucket) assign(p *part, now time.Time) (perSecond, burst float64, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.divide(now)
	before, total := p.promised, b.total()
	free := total - p.target
	for other := range b.parts {
		if other != p {
			free -= other.promised
		}
	}
	p.promised = max(0, min(p.target, p.target+free))
	if moved := p.promised - before; p.assigned && math.Abs(moved) <= before/50 && p.expires.Sub(now) > p.lifeTime*2/3 {
		p.promised = before // not worth telling
		return 0, 0, false
	}
	if p.promised == 0 && total > 0 && !p.assigned {
		return 0, 0, false // until others have given something back
	}
	p.assigned, p.expires = true, now.Add(p.lifeTime)
	if total == 0 {
		return 0, 0, true
	}
	return p.promised, float64(b.quota.Burst) * p.promised / total, true
}

// set takes over the limit as it is now.
func (b *bucket) set(q ratelimit.Quota) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quota.Requests != q.Requests || b.quota.Per != q.Per {
		b.unsettle = true
	}
	b.quota = q
}

// idle says whether a proxy has long not used it.
func (b *bucket) idle(p *part, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Sub(p.used) > idleAfter
}

// life is how long what a proxy is told holds.
func (b *bucket) life(p *part) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return p.lifeTime
}
