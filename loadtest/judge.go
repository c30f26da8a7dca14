package loadtest

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/machinenativeops/weir/loadreport"
	"github.com/machinenativeops/weir/policy"
)

// sure is how many standard deviations a mean latency must be beyond what is allowed. It is known by looks at what is
// under way, which vary by chance as rare events do: by the root of their number.
const sure = 4

// judge says why a load test must stop, seeing how real requests fared within its window; "" lets it go on.
func judge(w *policy.StopWhen, c loadreport.Counts) string {
	least := uint64(*w.MinRequests)
	if n := c.Ended(); w.Errors != nil && n >= least {
		if share := 100 * float64(c.Failed) / float64(n); share > *w.Errors {
			return fmt.Sprintf("%s %% of %d real requests failed within %s, and more than %s %% stops it",
				percent(share), n, w.Window.Text(), strconv.FormatFloat(*w.Errors, 'f', -1, 64))
		}
	}
	if w.MeanLatency != nil && c.Issued >= least {
		most := time.Duration(*w.MeanLatency)
		if mean := c.MeanLatency(); float64(mean)*(1-doubt(c)) > float64(most) {
			return fmt.Sprintf("%d real requests took some %s on average within %s, and more than %s stops it",
				c.Issued, mean.Round(mean/100+1).Round(time.Millisecond), w.Window.Text(), w.MeanLatency.Text())
		}
	}
	return ""
}

// doubt is which part of a mean latency may be chance. Requests that take longer than from one report to the next are
// seen more than once, so that there are no more of them to go by than were sent.
func doubt(c loadreport.Counts) float64 {
	return sure / math.Sqrt(float64(max(1, min(c.Seen, c.Issued))))
}

// percent keeps what is small from looking like nothing.
func percent(p float64) string {
	if p < 1 {
		return strconv.FormatFloat(p, 'g', 2, 64)
	}
	return strconv.FormatFloat(p, 'f', 1, 64)
}
