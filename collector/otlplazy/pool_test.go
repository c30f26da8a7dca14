package otlplazy

import "testing"

// TestPool: a buffer is as long as was asked for, and is used again for what fits into it.
func TestPool(t *testing.T) {
	var p pool
	for _, n := range []int{0, 1, 4095, 4096, 4097, 100_000, 16 << 20, 16<<20 + 1} {
		b := p.Get(n)
		if len(*b) != n {
			t.Errorf("%d bytes for %d", len(*b), n)
		}
		p.Put(b)
		again := p.Get(n)
		if len(*again) != n {
			t.Errorf("%d bytes for %d", len(*again), n)
		}
	}
	odd := make([]byte, 5000)
	p.Put(&odd)
	if b := p.Get(8000); len(*b) != 8000 {
		t.Errorf("%d bytes for 8000", len(*b))
	}
}
