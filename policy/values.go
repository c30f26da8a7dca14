package policy

import (
	"cmp"
	"time"
)

// Duration is written as Go's, or in days: 250ms, 5m, 90d.
type Duration time.Duration

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
