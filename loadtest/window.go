package loadtest

import (
	"time"

	"github.com/machinenativeops/weir/loadreport"
)

// look is how counts stood at a moment.
type look struct {
	at     time.Time
	counts loadreport.Counts
}

// window gives what became of requests within the latest time. The zero value is ready; times must not go back.
type window struct{ looks []look }

// add notes how counts stand at now, and gives what came of them within the latest length of time, or since the first
// look where that is less.
func (w *window) add(now time.Time, length time.Duration, total loadreport.Counts) loadreport.Counts {
	w.looks = append(w.looks, look{now, total})
	past := 0 // the last look that is as old as the window, or the first
	for past+1 < len(w.looks) && now.Sub(w.looks[past+1].at) >= length {
		past++
	}
	w.looks = append(w.looks[:0], w.looks[past:]...)
	return total.Sub(w.looks[0].counts)
}
