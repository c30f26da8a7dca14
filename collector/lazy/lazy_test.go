package lazy_test

import (
	"context"
	"testing"
	"time"

	"github.com/machinenativeops/weir/collector/lazy"
)

// TestTake: a request is there for each who looks for it in the receiver's context, however wrapped, and not behind them.
func TestTake(t *testing.T) {
	r := lazy.New([]byte("request"), 3)
	carried := r.In(t.Context())
	if r.Taken() {
		t.Fatal("taken before anybody has")
	}
	wrapped, cancel := context.WithTimeout(carried, time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{carried, wrapped} {
		data, spans, rest := lazy.Take(ctx)
		if string(data) != "request" || spans != 3 || !r.Taken() {
			t.Fatalf("%q, %d spans, taken: %v", data, spans, r.Taken())
		}
		if data, spans, _ := lazy.Take(rest); data != nil || spans != 0 {
			t.Fatalf("what was taken is there still: %q, %d spans", data, spans)
		}
	}
	r.Done()
	if data, spans, _ := lazy.Take(carried); data != nil || spans != 0 {
		t.Fatalf("what is done with is there still: %q, %d spans", data, spans)
	}
	data, spans, rest := lazy.Take(t.Context())
	if data != nil || spans != 0 || rest != t.Context() {
		t.Fatalf("%q and %d spans, of a context that carries none", data, spans)
	}
}
