package archive

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Object is what is written to the bucket.
type Object struct {
	Key  Key
	Body []byte // gzipped
}

// Encode makes an object of the spans of one group. The same spans always give the same object.
func Encode(g Group, td ptrace.Traces) (Object, error) {
	content, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
	if err != nil {
		return Object{}, fmt.Errorf("marshal spans: %w", err)
	}
	body, err := compress(content)
	if err != nil {
		return Object{}, err
	}
	return Object{Key: NewKey(g, earliest(td), content), Body: body}, nil
}

// Decode reads what an object holds.
func Decode(r io.Reader) (ptrace.Traces, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return ptrace.Traces{}, fmt.Errorf("gunzip: %w", err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		return ptrace.Traces{}, fmt.Errorf("gunzip: %w", err)
	}
	td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(content)
	if err != nil {
		return ptrace.Traces{}, fmt.Errorf("unmarshal spans: %w", err)
	}
	return td, nil
}

func compress(content []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return b.Bytes(), nil
}

// earliest gives the start of the first span; spans without one count only where no other has any.
func earliest(td ptrace.Traces) time.Time {
	var first uint64
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				if start := uint64(span.StartTimestamp()); start != 0 && (first == 0 || start < first) {
					first = start
				}
			}
		}
	}
	return time.Unix(0, int64(first)).UTC()
}
