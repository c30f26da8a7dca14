package archive

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/machinenativeops/weir/policy"
)

func TestKeyIsTheDocumentedLayout(t *testing.T) {
	k := NewKey(Group{"90d", "main", policy.Ref{Namespace: "shop", Name: "checkout"}},
		time.Date(2026, 11, 23, 13, 59, 59, 0, time.FixedZone("", 3600)), nil)
	want := "retention=90d/class=main/service=shop.checkout/date=2026-11-23/hour=12/e3b0c44298fc1c149afbf4c8996fb924.otlp.pb.gz"
	if k.String() != want {
		t.Errorf("got  %s\nwant %s", k, want)
	}
	if got := k.At("/a/b/"); got != "a/b/"+want {
		t.Errorf("with a prefix: %s", got)
	}
}

func TestKeyIsReadBack(t *testing.T) {
	for _, ref := range []policy.Ref{
		{Namespace: "shop", Name: "checkout"},
		{Name: "checkout"},
		{},
		{Namespace: "a.b", Name: "c.d"},
		{Name: "a.b"},
		{Namespace: "../..", Name: "/x=y/%2F!21 ü\x00"},
		{Namespace: "n"},
	} {
		k := NewKey(Group{"36h", "my/class", ref}, time.Unix(1_800_000_000, 0), []byte("x"))
		if strings.Count(k.String(), "/") != 5 {
			t.Errorf("%s has other than six parts", k)
		}
		if got, err := ParseKey(k.String()); err != nil || got != k {
			t.Errorf("%s is read back as %+v: %v", k, got, err)
		}
	}
}

func TestLongNamesAreCutAndStayDifferent(t *testing.T) {
	long := strings.Repeat("ü", 1000)
	g := Group{"90d", long, policy.Ref{Namespace: long, Name: long + "a"}}
	a := NewKey(g, time.Unix(0, 0), nil)
	g.Service.Name = long + "b"
	b := NewKey(g, time.Unix(0, 0), nil)
	if len(a.At("p")) > 900 || a.String() == b.String() {
		t.Errorf("%d bytes:\n%s\n%s", len(a.String()), a, b)
	}
	if got, err := ParseKey(a.String()); err != nil || !strings.Contains(got.Class, "~") {
		t.Errorf("read back as %+v: %v", got, err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good := NewKey(Group{"90d", "main", policy.Ref{Name: "x"}}, time.Unix(0, 0), nil).String()
	for _, s := range []string{"", "x", good + "x", "a/" + good, strings.Replace(good, "class", "klass", 1), strings.Replace(good, "hour=00", "hour=25", 1)} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("%q is read as %+v", s, k)
		}
	}
}

func TestObjectRoundTrip(t *testing.T) {
	g := Group{"90d", "main", policy.Ref{Name: "x"}}
	td := spans(3, 1_800_003_600, 1_800_000_000)
	a, err := Encode(g, td)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Encode(g, td)
	if err != nil || a.Key != b.Key || !bytes.Equal(a.Body, b.Body) {
		t.Errorf("the same spans give another object: %v", err)
	}
	if got := a.Key.Hour.Unix(); got != 1_800_000_000-1_800_000_000%3600 {
		t.Errorf("hour %s", a.Key.Hour)
	}
	back, err := Decode(bytes.NewReader(a.Body))
	if err != nil || back.SpanCount() != td.SpanCount() {
		t.Errorf("%d spans come back: %v", back.SpanCount(), err)
	}
	other, err := Encode(g, spans(4, 1_800_003_600, 1_800_000_000))
	if err != nil || other.Key == a.Key {
		t.Errorf("other spans share a name: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	body, err := compress([]byte("no spans"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, []byte("plain"), body[:len(body)-4], body} {
		if _, err := Decode(bytes.NewReader(b)); err == nil {
			t.Errorf("%q is read", b)
		}
	}
}

func TestParseBucket(t *testing.T) {
	for s, want := range map[string]Bucket{
		"s3://traces": {Name: "traces"}, "s3://traces/a/b/": {"traces", "a/b"}, "s3://traces/": {Name: "traces"},
	} {
		if got, err := ParseBucket(s); err != nil || got != want {
			t.Errorf("%s: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "traces", "s3://", "http://traces"} {
		if _, err := ParseBucket(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("shop", "check!out")
	f.Fuzz(func(t *testing.T, namespace, name string) {
		if len(namespace) > maxPart/3 || len(name) > maxPart/3 {
			return
		}
		k := NewKey(Group{"90d", name, policy.Ref{Namespace: namespace, Name: name}}, time.Unix(0, 0), nil)
		if got, err := ParseKey(k.String()); err != nil || got != k {
			t.Fatalf("%s is read back as %+v: %v", k, got, err)
		}
	})
}

func spans(n int, starts ...int64) ptrace.Traces {
	td := ptrace.NewTraces()
	ss := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i := range n {
		span := ss.AppendEmpty()
		span.SetSpanID([8]byte{byte(i + 1)})
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Unix(starts[i%len(starts)], 0)))
	}
	return td
}
