// Package inforce is how processors that know which sampling rates are in force, and extensions that publish them, find
// each other: neither is configured with the other's name, and either may be missing.
package inforce

import (
	"go.opentelemetry.io/collector/component"

	"github.com/machinenativeops/weir/sampling"
)

// Rates gives the rates in force; nil before there are any. It may be called from many goroutines.
type Rates func() *sampling.Rates

// Publisher is an extension that publishes rates.
type Publisher interface {
	// Join has the rates published until leave is called, which may be called again.
	Join(rates Rates) (leave func())
}

// Join gives the rates to each extension of the host that publishes some. Leave takes them back.
func Join(host component.Host, rates Rates) (leave func()) {
	var all []func()
	for _, extension := range host.GetExtensions() {
		if p, ok := extension.(Publisher); ok {
			all = append(all, p.Join(rates))
		}
	}
	return func() {
		for _, leave := range all {
			leave()
		}
	}
}
