package mesh

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/machinenativeops/weir/policy"
)

// LimitDomain is the domain of every question that Envoys ask the rate limit service about a [Limit].
const LimitDomain = "weir"

// LimitKey is the key of a descriptor's first entry; its value is a [Limit]'s ID. The entries after it, in order,
// are what the limit is by: together they name the counter.
const LimitKey = "limit"

// ChargeKey is in the place of [LimitKey] where what a request cost is told after its answer: it is counted against
// the same counter, whether it still fits or not.
const ChargeKey = "charge"

// Limit is one global limit, shared by all replicas of all proxies. xds writes its descriptor into routes, ratelimit
// looks the same one up.
type Limit struct {
	ID        string // unique and stable: of the document and the limit's place in it
	Source    policy.Key
	By        []policy.LimitBy
	Algorithm string        // gcra (also ""), sliding_window or fixed_window
	Requests  uint64        // per Per; 0 refuses everything
	Per       time.Duration // of windows whole seconds; 0 with Months
	Months    int           // of a fixed window that goes by the calendar: 1 is a month, 12 a year
	Burst     uint64        // of gcra: how many may pass at once; >= 1 unless Requests is 0
	Shadow    bool          // counted, never refused
}

// LimitValue is a header's value as it counts. Each byte that is not of UTF-8 text, which a message can't have in a
// string, is written as \xHH: values that differ still do.
func LimitValue(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}
