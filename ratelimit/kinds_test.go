package ratelimit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func hit(key string, rate *Rate, kind Kind, n uint64) Hit {
	return Hit{Key: []byte(key), Rate: rate, Kind: kind, N: n}
}

func TestADebtIsWaitedForAndARefundNeverGoesBeyondFull(t *testing.T) {
	for _, rate := range []Rate{NewRate(10, 10, time.Second), NewFixedWindow(10, day), NewSlidingWindow(10, day)} {
		m, now := NewMemory(100), someday
		h := []Hit{hit("k", &rate, Charge, 25)}
		assert.False(t, take(t, m, now, h), "it did not fit")
		assert.Positive(t, h[0].Decision.RetryAfter)
		ask := []Hit{hit("k", &rate, Take, 0)}
		assert.False(t, take(t, m, now, ask))
		if rate.Algorithm() == GCRA {
			assert.Equal(t, 1600*time.Millisecond, ask[0].Decision.RetryAfter, "15 over and one more")
			assert.False(t, take(t, m, now+int64(1600*time.Millisecond)-1, ask))
			assert.True(t, take(t, m, now+int64(1600*time.Millisecond), ask))
		}
		assert.True(t, take(t, m, now, []Hit{hit("k", &rate, Refund, 1000)}))
		assert.False(t, take(t, m, now, []Hit{hit("k", &rate, Take, 11)}))
		assert.True(t, take(t, m, now, []Hit{hit("k", &rate, Take, 10)}))
		assert.False(t, take(t, m, now, ask))
	}
}

func TestARefusalTakesBackWhatWasTakenOnly(t *testing.T) {
	rate, none := NewRate(10, 10, day), NewRate(0, 0, day)
	m := NewMemory(100)
	assert.False(t, take(t, m, someday, []Hit{
		hit("k", &rate, Take, 3), hit("k", &rate, Charge, 4), hit("none", &none, Take, 1), hit("other", &rate, Charge, 2),
	}))
	for key, left := range map[string]uint64{"k": 6, "other": 8} {
		ask := []Hit{hit(key, &rate, Take, 0)}
		assert.True(t, take(t, m, someday, ask))
		assert.Equal(t, left, ask[0].Decision.Remaining, key)
	}
}

func TestQuotasRefuseOnlyTogether(t *testing.T) {
	one, two := NewRate(1, 1, day), NewRate(2, 2, day)
	m := NewMemory(100)
	both := func() []Hit {
		a, b := hit("a", &one, Take, 1), hit("b", &two, Take, 1)
		a.Quota, b.Quota = true, true
		return []Hit{a, b}
	}
	assert.True(t, take(t, m, someday, both()))
	assert.True(t, take(t, m, someday, both()), "b has one left")
	assert.False(t, take(t, m, someday, both()))
}

func TestAlgorithmsDoNotReadEachOther(t *testing.T) {
	gcra, fixed := NewRate(3, 3, day), NewFixedWindow(3, day)
	m := NewMemory(100)
	assert.True(t, take(t, m, someday, []Hit{hit("k", &gcra, Take, 3)}))
	assert.True(t, take(t, m, someday, []Hit{hit("k", &fixed, Take, 3)}))
	assert.False(t, take(t, m, someday, []Hit{hit("k", &gcra, Take, 1)}))
}
