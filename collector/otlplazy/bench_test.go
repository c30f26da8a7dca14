package otlplazy

import (
	"sync"
	"syscall"
	"testing"

	"go.opentelemetry.io/collector/receiver"
)

// BenchmarkReceive is what a span of a request of 500 takes to come by gRPC to a component that does nothing: CPU of the receiver
// and of the client together, by the collector's own receiver and by this one. A change should move `undecoded`, which is what
// everything costs that a sampler drops.
func BenchmarkReceive(b *testing.B) {
	const perRequest = 500
	for _, c := range []struct {
		name     string
		factory  receiver.Factory
		settings map[string]any
	}{{"otlp", theirs, nil}, {"decoded", NewFactory(), nil}, {"undecoded", NewFactory(), map[string]any{"undecoded": true}}} {
		b.Run(c.name, func(b *testing.B) {
			w := startOf(b, c.factory, &next{takes: true, drops: true}, c.settings)
			data := marshal(spans(perRequest, 150))
			var senders sync.WaitGroup
			before := cpu()
			for sender := range 4 {
				senders.Go(func() {
					for i := sender; i < b.N; i += 4 {
						if err := w.export(data); err != nil {
							b.Error(err)
						}
					}
				})
			}
			senders.Wait()
			b.ReportMetric(float64(cpu()-before)/float64(b.N*perRequest), "cpu-ns/span")
		})
	}
}

func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
