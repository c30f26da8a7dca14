// Package lazy is how a receiver hands on an export request of spans that nobody has decoded: in the context, beside empty
// traces, so that it passes through components that know nothing of it.
//
// The receiver makes a [Request] and hands on the context that carries it. The first component which can judge the bytes
// as they are takes it ([Take]). Where nobody has, the receiver decodes it and hands on the spans as usual: so nothing is
// lost. Several pipelines of one receiver each take it.
package lazy

import (
	"context"
	"sync/atomic"
)

// Request is an export request of spans (OTLP protobuf, ExportTraceServiceRequest), checked to be well formed, that nobody
// has decoded.
type Request struct {
	data  atomic.Pointer[[]byte] // nil when its memory is used for something else
	spans int
	taken atomic.Bool
}

// New makes a request of data, which has that many spans and is not changed before the request is done with.
func New(data []byte, spans int) *Request {
	r := &Request{spans: spans}
	r.data.Store(&data)
	return r
}

// Done lets go of the data. Contexts that carried the request may be kept much longer, as exporters' queues do.
func (r *Request) Done() { r.data.Store(nil) }

type key struct{}

// In gives a context that carries the request.
func (r *Request) In(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, r) }

// Taken says whether anybody has taken it.
func (r *Request) Taken() bool { return r.taken.Load() }

// Take gives the request that ctx carries, marks it as taken, and gives ctx without it. Where ctx carries none, data is nil
// and the spans are in the pdata as usual.
//
// data is the receiver's memory: it is not written to, and kept no longer than the call of ConsumeTraces.
func Take(ctx context.Context) (data []byte, spans int, rest context.Context) {
	r, _ := ctx.Value(key{}).(*Request)
	if r == nil {
		return nil, 0, ctx
	}
	there := r.data.Load()
	if there == nil {
		return nil, 0, ctx
	}
	r.taken.Store(true)
	return *there, r.spans, context.WithValue(ctx, key{}, (*Request)(nil))
}
