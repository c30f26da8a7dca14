package otlplazy

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver/receiverhelper"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/otlp"
)

// signal takes export requests of one signal that came by one transport.
type signal interface {
	// take hands on what a request has, and keeps nothing of data when it returns. A request without items is taken, and
	// nothing handed on. What is not a request is refused by an error with the status InvalidArgument.
	take(ctx context.Context, data []byte, in encoding) error
}

// encoding is how a request is encoded, as the receiver's telemetry calls it.
type encoding string

const (
	protobuf encoding = "protobuf"
	jsonText encoding = "json"
)

// decoded is a signal of which every request is decoded.
type decoded[T any] struct {
	protobuf, json func([]byte) (T, error)
	count          func(T) int
	begin          func(context.Context) context.Context
	end            func(ctx context.Context, format string, items int, err error)
	consume        func(context.Context, T) error
}

func (d decoded[T]) take(ctx context.Context, data []byte, in encoding) error {
	decode := d.protobuf
	if in == jsonText {
		decode = d.json
	}
	items, err := decode(data)
	if err != nil {
		return malformed(err)
	}
	n := d.count(items)
	if n == 0 {
		return nil
	}
	ctx = d.begin(ctx)
	err = d.consume(ctx, items)
	d.end(ctx, string(in), n, err)
	return err
}

func tracesOf(next consumer.Traces, told *receiverhelper.ObsReport) decoded[ptrace.Traces] {
	return decoded[ptrace.Traces]{
		protobuf: unmarshalTraces, json: new(ptrace.JSONUnmarshaler).UnmarshalTraces, count: ptrace.Traces.SpanCount,
		begin: told.StartTracesOp, end: told.EndTracesOp, consume: next.ConsumeTraces,
	}
}

// unmarshalTraces takes what used to be called instrumentation libraries, too.
func unmarshalTraces(data []byte) (ptrace.Traces, error) {
	request := ptraceotlp.NewExportRequest()
	err := request.UnmarshalProto(data)
	return request.Traces(), err
}

func metricsOf(next consumer.Metrics, told *receiverhelper.ObsReport) decoded[pmetric.Metrics] {
	return decoded[pmetric.Metrics]{
		protobuf: unmarshalMetrics, json: new(pmetric.JSONUnmarshaler).UnmarshalMetrics, count: pmetric.Metrics.DataPointCount,
		begin: told.StartMetricsOp, end: told.EndMetricsOp, consume: next.ConsumeMetrics,
	}
}

func unmarshalMetrics(data []byte) (pmetric.Metrics, error) {
	request := pmetricotlp.NewExportRequest()
	err := request.UnmarshalProto(data)
	return request.Metrics(), err
}

func logsOf(next consumer.Logs, told *receiverhelper.ObsReport) decoded[plog.Logs] {
	return decoded[plog.Logs]{
		protobuf: unmarshalLogs, json: new(plog.JSONUnmarshaler).UnmarshalLogs, count: plog.Logs.LogRecordCount,
		begin: told.StartLogsOp, end: told.EndLogsOp, consume: next.ConsumeLogs,
	}
}

func unmarshalLogs(data []byte) (plog.Logs, error) {
	request := plogotlp.NewExportRequest()
	err := request.UnmarshalProto(data)
	return request.Logs(), err
}

// undecoded are traces of which requests in protobuf are handed on as they came, and decoded only where nobody takes them so.
type undecoded struct{ decoded[ptrace.Traces] }

func (u undecoded) take(ctx context.Context, data []byte, in encoding) error {
	if in != protobuf {
		return u.decoded.take(ctx, data, in)
	}
	spans, err := otlp.Check(data)
	switch {
	case errors.Is(err, otlp.ErrOld):
		return u.decoded.take(ctx, data, in)
	case err != nil:
		return malformed(err)
	case spans == 0:
		return nil
	}
	ctx = u.begin(ctx)
	err = u.handOn(ctx, data, spans)
	u.end(ctx, string(in), spans, err)
	return err
}

func (u undecoded) handOn(ctx context.Context, data []byte, spans int) error {
	request := lazy.New(data, spans)
	defer request.Done()
	if err := u.consume(request.In(ctx), ptrace.NewTraces()); err != nil || request.Taken() {
		return err
	}
	td, err := u.protobuf(data)
	if err != nil {
		return malformed(err)
	}
	return u.consume(ctx, td)
}
