package policy

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is written as Go's, or in days: 250ms, 5m, 90d.
type Duration time.Duration

// String gives the form that is read: days where they are whole, and Go's otherwise.
func (d Duration) String() string {
	const day = 24 * time.Hour
	if t := time.Duration(d); t != 0 && t%day == 0 {
		return strconv.FormatInt(int64(t/day), 10) + "d"
	}
	return time.Duration(d).String()
}

// MarshalYAML gives the form that is read, as Text has it.
func (d Duration) MarshalYAML() (any, error) { return d.Text(), nil }

// Text gives the form that is read, without the zeros that Go adds: 1h rather than 1h0m0s.
func (d Duration) Text() string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Size is a number of bytes, written with or without a unit: 512, 4KB, 64MiB.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

func (s *Size) parse(text string) error {
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/unit.bytes {
			return errSize
		}
		*s = Size(n * unit.bytes)
		return nil
	}
	return errSize
}

// String gives the form that is read, in the largest unit that divides it.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	for _, unit := range sizeUnits {
		if n := int64(s) / unit.bytes; s != 0 && int64(s)%unit.bytes == 0 {
			if text := strconv.FormatInt(n, 10) + unit.name; len(text) < len(best) {
				best = text
			}
		}
	}
	return best
}

// MarshalYAML gives the form that is read.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

var (
	errSize     = errors.New("want a size such as 512, 4KB or 64MiB")
	errDuration = errors.New("want a duration such as 250ms, 5m, 1h30m or 90d")
	errTime     = errors.New("want a time with its zone, such as 2026-11-30T18:00:00Z or 2026-11-30T19:00:00+01:00")
	errStatus   = errors.New("want a comparison with a status, such as >=500, =404 or <400")
)

func (d *Duration) parse(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errDuration
		}
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return errDuration
	}
	*d = Duration(t)
	return nil
}

// Time is an instant, written as in RFC 3339: 2026-11-30T18:00:00Z.
type Time time.Time

func (t *Time) parse(s string) error {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return errTime
	}
	*t = Time(at)
	return nil
}

// String gives the form that is read.
func (t Time) String() string { return time.Time(t).Format(time.RFC3339Nano) }

func (c *StatusCondition) parse(s string) error {
	op := strings.TrimRight(s, "0123456789 ")
	value, err := strconv.Atoi(strings.TrimSpace(s[len(op):]))
	switch op {
	case ">=", "<=", ">", "<", "=":
	default:
		return errStatus
	}
	if err != nil || value < 100 || value > 599 {
		return errStatus
	}
	*c = StatusCondition{Op: op, Value: value}
	return nil
}

// String gives the form that is read.
func (c StatusCondition) String() string { return c.Op + strconv.Itoa(c.Value) }

// ParseRef reads NAME or NAMESPACE/NAME; a bare NAME is in the namespace given.
func ParseRef(s, namespace string) Ref {
	if before, after, ok := strings.Cut(s, "/"); ok {
		return Ref{Namespace: before, Name: after}
	}
	return Ref{Namespace: namespace, Name: s}
}
