package collector_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/archive"
	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/policy"
)

const bucketName = "traces"

// bucket is the archive as an ordinary S3 client sees it.
type bucket struct{ client *s3.Client }

func newBucket(t *testing.T, server *servers.S3) bucket {
	t.Helper()
	b := bucket{s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(server.Endpoint), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})}
	if _, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucketName)}); err != nil {
		t.Fatal(err)
	}
	return b
}

// object is one archived object, read back.
type object struct {
	key    archive.Key
	traces ptrace.Traces
}

// objects reads the whole archive with the collector's own reader, and checks what each object's name says of it.
func (b bucket) objects(t *testing.T) []object {
	t.Helper()
	var objects []object
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			objects = append(objects, b.object(t, *o.Key))
		}
	}
	return objects
}

func (b bucket) object(t *testing.T, name string) object {
	t.Helper()
	rest, ok := strings.CutPrefix(name, "weir/")
	key, err := archive.ParseKey(rest)
	if !ok || err != nil {
		t.Fatalf("an object called %q: %v", name, err)
	}
	out, err := b.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucketName), Key: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Body.Close() }()
	td, err := archive.Decode(out.Body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	checkResources(t, key, td)
	return object{key, td}
}

// checkResources: everything in an object is of the service, class and retention in its name.
func checkResources(t *testing.T, key archive.Key, td ptrace.Traces) {
	t.Helper()
	for _, rs := range td.ResourceSpans().All() {
		text := func(name string) string {
			if v, ok := rs.Resource().Attributes().Get(name); ok {
				return v.AsString()
			}
			return ""
		}
		got := archive.Group{
			Retention: text("weir.retention"), Class: text("weir.class"),
			Service: policy.Ref{Namespace: text("service.namespace"), Name: text("service.name")},
		}
		if got != key.Group {
			t.Fatalf("%s holds spans of %+v", key, got)
		}
	}
}

// spanCounts gives how often each of n spans is in the archive.
func (b bucket) spanCounts(t *testing.T, n int) []uint8 {
	t.Helper()
	counts := make([]uint8, n)
	for _, o := range b.objects(t) {
		for _, rs := range o.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, span := range ss.Spans().All() {
					checkSpan(t, o.key, span)
					counts[spanNumber(span.SpanID())]++
				}
			}
		}
	}
	return counts
}

// checkSpan: a span is what was sent.
func checkSpan(t *testing.T, key archive.Key, span ptrace.Span) {
	t.Helper()
	trace, class := place(spanNumber(span.SpanID()))
	if span.TraceID() != traceID(trace) || classes[class] != key.Class || retentions[key.Class] != key.Retention || span.Name() != "GET /cart" {
		t.Fatalf("%s: span %s of trace %s is not what was sent", key, span.SpanID(), span.TraceID())
	}
}
