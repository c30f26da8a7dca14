package adaptivesampling

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"

	"github.com/machinenativeops/weir/collector/lazy"
	"github.com/machinenativeops/weir/internal/otlp"
)

// bothWays runs a test with spans that come decoded, and with requests that nobody has decoded.
func bothWays(t *testing.T, test func(*testing.T)) {
	t.Run("decoded", test)
	t.Run("undecoded", test)
}

// inItsWay has a processor get spans in the way that the test is run in.
func inItsWay(tb testing.TB, p processor.Traces) processor.Traces {
	if strings.Contains(tb.Name(), "/undecoded") {
		return undecoded{p, tb}
	}
	return p
}

// undecoded gives a processor requests as they would come, of which the memory is used for something else afterwards.
type undecoded struct {
	processor.Traces
	tb testing.TB
}

func (u undecoded) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	data, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
	if err != nil {
		u.tb.Error(err)
	}
	spans, err := otlp.Check(data)
	if err != nil {
		u.tb.Error(err)
	}
	request := lazy.New(data, spans)
	err = u.Traces.ConsumeTraces(request.In(ctx), ptrace.NewTraces())
	if !request.Taken() {
		u.tb.Error("it was not taken")
	}
	for i := range data {
		data[i] = 0xff
	}
	return err
}
