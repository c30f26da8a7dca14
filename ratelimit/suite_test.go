package ratelimit_test

import (
	"testing"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/ratelimit/storetest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	s := storetest.Suite{Questions: 40_000, New: func(*testing.T) ratelimit.Store { return ratelimit.NewMemory(10_000) }}
	s.Run(t)
}
