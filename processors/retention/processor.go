package retention

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
)

// marker writes class and retention on resources.
type marker struct {
	retention atomic.Pointer[documents.Retention] // nil before the first documents are applied
}

func (m *marker) apply(set *policy.Set) error {
	m.retention.Store(documents.NewRetention(set))
	return nil
}

func (m *marker) process(_ context.Context, td ptrace.Traces) (ptrace.Traces, error) {
	r := m.retention.Load()
	for _, rs := range td.ResourceSpans().All() {
		class, kept := r.Of(documents.Service(rs.Resource()))
		attributes := rs.Resource().Attributes()
		attributes.PutStr(sampling.ClassAttribute, class)
		attributes.PutStr(documents.RetentionAttribute, kept)
	}
	return td, nil
}
