package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	services = 5
	aTrace   = 8 // spans
	variants = 64
	epoch    = 1_790_000_000_000_000_000
)

// request is an encoded export request, and where its trace ids are: each sending has others.
type request struct {
	data []byte
	ids  []int
}

// makeRequests makes requests of so many spans, with five attributes each, of traces of eight; one trace of a hundred has
// failed.
func makeRequests(spans int) []request {
	random := rand.New(rand.NewPCG(1, 2))
	out := make([]request, variants)
	for i := range out {
		td := ptrace.NewTraces()
		var slices [services]ptrace.SpanSlice
		for s := range slices {
			rs := td.ResourceSpans().AppendEmpty()
			rs.Resource().Attributes().PutStr("service.name", fmt.Sprintf("service-%d", s))
			rs.Resource().Attributes().PutStr("service.namespace", "shop")
			rs.Resource().Attributes().PutStr("service.version", "1.2.3")
			slices[s] = rs.ScopeSpans().AppendEmpty().Spans()
		}
		ids := map[pcommon.TraceID]bool{}
		var id pcommon.TraceID
		for n := range spans {
			if n%aTrace == 0 {
				binary.BigEndian.PutUint64(id[:], random.Uint64())
				binary.BigEndian.PutUint64(id[8:], random.Uint64())
				ids[id] = true
			}
			addSpan(slices[n%services].AppendEmpty(), id, n, random)
		}
		data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
		if err != nil {
			panic(err)
		}
		out[i] = request{data, places(data, ids)}
	}
	return out
}

func addSpan(span ptrace.Span, id pcommon.TraceID, n int, random *rand.Rand) {
	span.SetTraceID(id)
	span.SetSpanID(pcommon.SpanID{byte(n >> 8), byte(n), 1})
	if n%aTrace > 0 {
		span.SetParentSpanID(pcommon.SpanID{byte(n >> 8), byte(n - n%aTrace), 1})
	}
	span.SetName(fmt.Sprintf("GET /items/%d", n%10))
	span.SetKind(ptrace.SpanKindServer)
	span.SetStartTimestamp(epoch)
	span.SetEndTimestamp(epoch + pcommon.Timestamp(random.Uint64N(200_000_000)))
	a := span.Attributes()
	a.PutStr("http.request.method", "GET")
	a.PutStr("url.path", "/items/of/some/kind")
	a.PutInt("http.response.status_code", 200)
	a.PutStr("server.address", "checkout.shop")
	a.PutStr("user.id", fmt.Sprint(random.Uint64N(1e6)))
	if n%(100*aTrace) == 0 && random.IntN(2) == 0 {
		span.Status().SetCode(ptrace.StatusCodeError)
	}
}

// places finds the trace ids, which are random enough to be nothing else.
func places(data []byte, ids map[pcommon.TraceID]bool) (at []int) {
	for id := range ids {
		for from := 0; ; {
			i := bytes.Index(data[from:], id[:])
			if i < 0 {
				break
			}
			at = append(at, from+i)
			from += i + len(id)
		}
	}
	return at
}

// renew gives the request trace ids that were not sent before, where it lies.
func (r *request) renew(round uint64) {
	mix := round * 0x9e3779b97f4a7c15
	for _, at := range r.ids {
		for half := at; half < at+16; half += 8 {
			binary.LittleEndian.PutUint64(r.data[half:], binary.LittleEndian.Uint64(r.data[half:])^mix)
		}
	}
}

type result struct {
	spans, refused int64
	took, cpu      time.Duration
	sending        time.Duration // of CPU, by this program
	resident       int64
}

// measure starts a collector, sends as much as it takes, and ends it.
func measure(ctx context.Context, o options, name string, requests []request) (result, error) {
	c, err := startCollector(ctx, o, name)
	if c != nil {
		defer c.stop()
	}
	if err != nil {
		return result{}, err
	}
	if err := c.ready(ctx); err != nil {
		return result{}, err
	}
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return result{}, err
	}
	defer func() { _ = conn.Close() }()

	sending, stop := context.WithCancel(ctx)
	defer stop()
	var taken, refused atomic.Int64
	var rounds atomic.Uint64
	var senders sync.WaitGroup
	for sender := range o.senders {
		senders.Go(func() {
			own := requests[sender*len(requests)/o.senders : (sender+1)*len(requests)/o.senders] // nobody else writes to these
			var reply []byte
			for n := 0; sending.Err() == nil; n++ {
				r := &own[n%len(own)]
				r.renew(rounds.Add(1))
				err := conn.Invoke(sending, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", &r.data, &reply, grpc.ForceCodec(raw{}))
				if err == nil {
					taken.Add(int64(o.spans))
				} else if sending.Err() == nil {
					refused.Add(int64(o.spans))
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	wait(ctx, o.warm)
	before, began, refusedBefore := taken.Load(), time.Now(), refused.Load()
	cpuBefore, _ := c.usage()
	sendingBefore := ownCPU()
	if o.profiles == "" {
		wait(ctx, o.measure)
	} else if err := c.profile(ctx, o.measure, filepath.Join(o.profiles, name+".pprof")); err != nil {
		return result{}, err
	}
	r := result{spans: taken.Load() - before, refused: refused.Load() - refusedBefore, took: time.Since(began)}
	cpu, resident := c.usage()
	r.cpu, r.resident, r.sending = cpu-cpuBefore, resident, ownCPU()-sendingBefore
	stop()
	senders.Wait()
	return r, ctx.Err()
}

// ownCPU is the time that this program has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], data...)
	return nil
}

func (raw) Name() string { return "proto" }
