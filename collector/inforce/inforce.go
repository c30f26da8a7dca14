// Package inforce is how processors that know which sampling rates are in force, and extensions that publish them and hear
// which share of the budget is theirs, find each other: neither is configured with the other's name, and either may be missing.
package inforce

import (
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/fleet"
)

// Rates gives the rates in force; nil before there are any. It may be called from many goroutines.
type Rates func() *sampling.Rates

// Share takes which shares of the budgets are the collector's. It may be called from many goroutines.
type Share func(held fleet.Held, now time.Time)

// Publisher is an extension that publishes rates.
type Publisher interface {
	// Join has the rates published, and share told where shares are known, until leave is called, which may be called again.
	Join(rates Rates, share Share) (leave func())
}

// Join joins each extension of the host that publishes rates. Leave leaves them.
func Join(host component.Host, rates Rates, share Share) (leave func()) {
	var all []func()
	for _, extension := range host.GetExtensions() {
		if p, ok := extension.(Publisher); ok {
			all = append(all, p.Join(rates, share))
		}
	}
	return func() {
		for _, leave := range all {
			leave()
		}
	}
}
