package loadreport

import "time"

// Counts are what became of requests.
type Counts struct {
	Issued    uint64 // sent on
	Succeeded uint64
	Failed    uint64

	// Busy is for how many seconds requests were under way, all added up, as far as looks at it show: each report says how
	// many are under way at its moment, and stands for the time since the report before. By Little's law Busy/Issued is
	// near the mean time of a request. Seen is how many were seen under way, a request once for each report: with
	// fewer, chance has more to say.
	Busy float64
	Seen uint64
}

// Add gives both together.
func (c Counts) Add(o Counts) Counts {
	return Counts{
		Issued: c.Issued + o.Issued, Succeeded: c.Succeeded + o.Succeeded, Failed: c.Failed + o.Failed,
		Busy: c.Busy + o.Busy, Seen: c.Seen + o.Seen,
	}
}

// Sub gives what came since an earlier state of the same counts.
func (c Counts) Sub(o Counts) Counts {
	return Counts{
		Issued: c.Issued - o.Issued, Succeeded: c.Succeeded - o.Succeeded, Failed: c.Failed - o.Failed,
		Busy: c.Busy - o.Busy, Seen: c.Seen - o.Seen,
	}
}

// Ended is how many have an outcome.
func (c Counts) Ended() uint64 { return c.Succeeded + c.Failed }

// MeanLatency is the mean time of a request; 0 of none.
func (c Counts) MeanLatency() time.Duration {
	if c.Issued == 0 {
		return 0
	}
	return time.Duration(c.Busy / float64(c.Issued) * float64(time.Second))
}
