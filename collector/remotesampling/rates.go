package remotesampling

import (
	"slices"
	"sync"
	"time"

	"github.com/machinenativeops/weir/collector/inforce"
	"github.com/machinenativeops/weir/sampling"
)

// fresh is how long what rates come to is told again before it is found anew. It costs something, and many may ask.
const fresh = time.Second

// processors are those whose rates are published.
type processors struct {
	mu  sync.Mutex // guards everything below
	all []*processor
}

type processor struct {
	rates  inforce.Rates
	of     *sampling.Rates // of which the source was made
	source *sampling.Source
	made   time.Time
}

// Join implements [inforce.Publisher].
func (p *processors) Join(rates inforce.Rates) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := &processor{rates: rates}
	p.all = append(p.all, one)
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
