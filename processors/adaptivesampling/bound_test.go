package adaptivesampling

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/documents"
)

// startHolder starts a sampler by itself, to be looked into.
func startHolder(t *testing.T, text string, whole WholeConfig, next *consumertest.TracesSink) *sampler {
	t.Helper()
	set := componenttest.NewNopTelemetrySettings()
	cfg := config(t, text)
	cfg.Whole = whole
	s, err := newSampler(set, cfg, next)
	if err != nil {
		t.Fatal(err)
	}
	watcher := documents.NewWatcher(cfg.Policy, set.Logger, s.apply)
	if err := watcher.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	if err := s.whole.start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watcher.Shutdown(t.Context()) })
	return s
}

// TestBoundsHoldAtEveryMoment looks at what is held while more than there is room for comes from many senders.
func TestBoundsHoldAtEveryMoment(t *testing.T) {
	for _, tt := range []struct {
		name        string
		spans, size int
	}{{"bytes", 1 << 20, 64 << 10}, {"spans", 2000, 1 << 30}} {
		t.Run(tt.name, func(t *testing.T) {
			sink := new(consumertest.TracesSink)
			cfg := defaultConfig().(*Config).Whole
			cfg.MaxSpans, cfg.MaxBytes = tt.spans, tt.size
			s := startHolder(t, rates+held, cfg, sink)
			defer func() { _ = s.whole.shutdown(t.Context()) }()
			end := make(chan struct{})
			var looking, sending sync.WaitGroup
			var spans, bytes, looks int64
			looking.Go(func() {
				for ; ; looks++ {
					spans, bytes = max(spans, s.whole.live.spans.Load()), max(bytes, s.whole.live.bytes.Load()+s.whole.sender.bytes.Load())
					select {
					case <-end:
						return
					default:
						runtime.Gosched()
					}
				}
			})
			for i := range 4 {
				sending.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 1))
					for range 40 {
						if _, err := s.process(t.Context(), incompressible(r, 100)); err == nil {
							t.Error("a batch went through as it was")
						}
					}
				})
			}
			sending.Wait()
			close(end)
			looking.Wait()
			t.Logf("%d spans and %d bytes at most, of %d looks", spans, bytes, looks)
			if spans > int64(cfg.MaxSpans) || bytes > int64(cfg.MaxBytes) {
				t.Errorf("%d spans and %d bytes were held, want %d and %d at most", spans, bytes, cfg.MaxSpans, cfg.MaxBytes)
			}
			if spans < int64(cfg.MaxSpans)/2 && bytes < int64(cfg.MaxBytes)/2 {
				t.Errorf("only %d spans and %d bytes were held: this proves nothing", spans, bytes)
			}
		})
	}
}

// incompressible is a batch of spans which have nothing in common, each of a trace of its own.
func incompressible(r *rand.Rand, spans int) ptrace.Traces {
	td := ptrace.NewTraces()
	all := resource(td, "checkout", "")
	for range spans {
		span := all.AppendEmpty()
		span.SetTraceID(traceID(r.Uint64() >> 8))
		span.SetParentSpanID(pcommon.SpanID{1})
		span.SetName(fmt.Sprintf("GET /%x", r.Uint64()))
		span.Attributes().PutStr("id", fmt.Sprintf("%x", r.Uint64()))
	}
	return td
}

// TestDroppedAsItCameIsNotPacked holds that of a trace which is judged by its root as it comes, what is dropped is not packed,
// and that it is where the trace has to be held.
func TestDroppedAsItCameIsNotPacked(t *testing.T) {
	const long = 1000 // bytes of an attribute
	for _, tt := range []struct {
		name, keep string
		packed     bool
	}{{"judged as it comes", "", false}, {"held", "errors: true", true}} {
		t.Run(tt.name, func(t *testing.T) {
			text := "kind: Sampling\nmetadata: {name: default}\nspec: {classes: {default: 0.0001}, keep: {" + tt.keep + "}, wait: 10m}\n"
			s := startHolder(t, text, defaultConfig().(*Config).Whole, new(consumertest.TracesSink))
			defer func() { _ = s.whole.shutdown(t.Context()) }()
			td := ptrace.NewTraces()
			for i := range 10 {
				span := resource(td, "checkout", "").AppendEmpty()
				span.SetTraceID(traceID(uint64(i))) // of the lowest randomness
				span.Attributes().PutStr("long", strings.Repeat(fmt.Sprint(i), long))
			}
			r := new(reader)
			r.holder, r.rates, r.rules, r.now = s.whole, s.rates.Load(), s.whole.rules.Load(), time.Now().UnixNano()
			b := &batch{number: 1, arrived: r.now}
			request, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
			if err != nil {
				t.Fatal(err)
			}
			r.look(b, request)
			r.judge(b, nil)
			r.hold(b)
			if packed := len(b.data) > 10*long; packed != tt.packed {
				t.Errorf("it takes %d bytes, want packed: %v", len(b.data), tt.packed)
			}
			if want := map[bool]int{true: 10}[tt.packed]; b.spans != want {
				t.Errorf("%d spans count as held, want %d", b.spans, want)
			}
			if got := len(r.judged.Traces); got != 10-b.spans {
				t.Errorf("%d traces are judged", got)
			}
		})
	}
}
