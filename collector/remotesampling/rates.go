package remotesampling

import (
	"slices"
	"sync"
	"time"

	"github.com/machinenativeops/weir/collector/inforce"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/fleet"
)

// fresh is how long what rates come to is told again before it is found anew. It costs something, and many may ask.
const fresh = time.Second

// processors are those whose rates are published.
type processors struct {
	joined chan struct{} // one has, or several

	mu  sync.Mutex // guards everything below
	all []*processor
}

type processor struct {
	rates  inforce.Rates
	share  inforce.Share
	of     *sampling.Rates // of which the source was made
	source *sampling.Source
	made   time.Time
}

// Join implements [inforce.Publisher].
func (p *processors) Join(rates inforce.Rates, share inforce.Share) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := &processor{rates: rates, share: share}
	p.all = append(p.all, one)
	select {
	case p.joined <- struct{}{}:
	default: // somebody is about to look
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = slices.DeleteFunc(p.all, func(o *processor) bool { return o == one })
	}
}

// sources gives what the rates come to: those of the documents in force, and what was learnt until a second ago.
func (p *processors) sources(now time.Time) []*sampling.Source {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*sampling.Source
	for _, one := range p.all {
		rates := one.rates()
		if rates == nil {
			continue
		}
		if rates != one.of || now.Sub(one.made) >= fresh {
			one.of, one.source, one.made = rates, rates.Source(), now
		}
		all = append(all, one.source)
	}
	return all
}

// needs is what the processors that have a budget need together; nil where none has.
func (p *processors) needs(now time.Time) *fleet.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all *fleet.Report
	for _, one := range p.all {
		rates := one.rates()
		if rates == nil {
			continue
		}
		needs, settled, adaptive := rates.Needs(now.UnixNano())
		if !adaptive {
			continue
		}
		if all == nil {
			all = &fleet.Report{}
		}
		all.Needs.Add(needs)
		all.New = all.New || !settled
	}
	return all
}

// share has the processors take which shares of the budgets are theirs.
func (p *processors) share(held fleet.Held, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		one.share(held, now)
	}
}
