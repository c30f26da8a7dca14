package collector_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestOtherProtocols: what comes as Zipkin and as Jaeger is sampled and archived like what comes as OTLP.
func TestOtherProtocols(t *testing.T) {
	s3 := servers.Minio(t)
	archived := newBucket(t, s3)
	c := newCollector(t, s3, writePolicy(t, s3, map[string]float64{"default": 100}))
	c.start(t)
	sendZipkin(t, c.zipkin)
	sendJaeger(t, c.jaeger)
	eventually(t, 20*time.Second, "both are archived", func() bool {
		found := map[string]string{}
		for _, o := range archived.objects(t) {
			span := o.traces.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
			found[o.key.Service.Name] = fmt.Sprint(o.key.Class, " ", o.key.Retention, " ", span.Name(), " ", span.TraceState().AsRaw())
		}
		return found["zipkin-shop"] == "default 30d get /z ot=th:0" && found["jaeger-shop"] == "default 30d get /j ot=th:0"
	})
}

func sendZipkin(t *testing.T, address string) {
	t.Helper()
	body := `[{"traceId":"f47ac10b58cc4372a5670e02b2c3d479","id":"0000000000000001","name":"get /z","timestamp":1795435200000000,"duration":1000,"localEndpoint":{"serviceName":"zipkin-shop"}}]`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/api/v2/spans", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusAccepted {
		t.Fatal(res.Status)
	}
}

// sendJaeger sends an api_v2 PostSpansRequest, put together by hand because that takes no module of Jaeger's.
func sendJaeger(t *testing.T, address string) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	timestamp := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1_795_435_200)
	span := field(nil, 1, []byte("jaegerjaegerjaeg"))
	span = field(span, 2, []byte("spanspan"))
	span = field(span, 3, []byte("get /j"))
	span = field(span, 6, timestamp)
	batch := field(field(nil, 1, span), 2, field(nil, 1, []byte("jaeger-shop")))
	request, reply := field(nil, 1, batch), []byte(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := conn.Invoke(ctx, "/jaeger.api_v2.CollectorService/PostSpans", &request, &reply, grpc.ForceCodec(rawCodec{})); err != nil {
		t.Fatal(err)
	}
}

func field(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

func (rawCodec) Name() string { return "proto" }
