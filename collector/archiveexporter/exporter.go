package archiveexporter

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"golang.org/x/sync/errgroup"

	"github.com/machinenativeops/weir/archive"
	"github.com/machinenativeops/weir/collector/documents"
	"github.com/machinenativeops/weir/policy"
)

// parallel is how many objects of one batch are written at a time.
const parallel = 8

// archiver writes batches to the bucket that the documents name.
type archiver struct {
	override S3Config
	target   atomic.Pointer[target] // nil before the first documents are applied
}

// target is what one version of the documents says.
type target struct {
	retention *documents.Retention
	bucket    *bucket
}

func (a *archiver) apply(set *policy.Set) error {
	where, err := locate(set.Retention.Spec.Archive, a.override)
	if err != nil {
		return err
	}
	if last := a.target.Load(); last != nil && last.bucket.location == where {
		a.target.Store(&target{documents.NewRetention(set), last.bucket}) // its connections stay
		return nil
	}
	b, err := open(where)
	if err != nil {
		return err
	}
	a.target.Store(&target{documents.NewRetention(set), b})
	return nil
}

// push writes one batch, and gives back what it could not write to be tried again.
func (a *archiver) push(ctx context.Context, td ptrace.Traces) error {
	t := a.target.Load()
	groups := split(td, t.retention)
	errs := make([]error, len(groups))
	var writers errgroup.Group
	writers.SetLimit(parallel)
	for i, g := range groups {
		writers.Go(func() error {
			errs[i] = t.bucket.write(ctx, g)
			return nil // each group stands for itself
		})
	}
	_ = writers.Wait() // errs has them
	return remaining(groups, errs)
}

// remaining gives the error for a batch: nil when all of it is written, or else one that carries the rest.
func remaining(groups []group, errs []error) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	rest := ptrace.NewTraces()
	for i, g := range groups {
		if errs[i] != nil {
			g.traces.ResourceSpans().MoveAndAppendTo(rest.ResourceSpans())
		}
	}
	return consumererror.NewTraces(err, rest)
}

// group is the spans that go into one object.
type group struct {
	archive.Group
	traces ptrace.Traces
}

// split takes a batch apart, in the order in which its groups first appear: the same batch gives the same objects.
func split(td ptrace.Traces, retention *documents.Retention) []group {
	var groups []group
	index := map[archive.Group]int{}
	for _, rs := range td.ResourceSpans().All() {
		var key archive.Group
		key.Service, key.Class, key.Retention = retention.OfResource(rs.Resource())
		i, ok := index[key]
		if !ok {
			i = len(groups)
			index[key] = i
			groups = append(groups, group{key, ptrace.NewTraces()})
		}
		rs.MoveTo(groups[i].traces.ResourceSpans().AppendEmpty())
	}
	return groups
}
