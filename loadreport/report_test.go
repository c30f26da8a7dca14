package loadreport

import (
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatssvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/proto"
)

// written is a message as Envoy sends it, with the 500 extensions that it has.
func written(tb testing.TB) []byte {
	tb.Helper()
	r := &loadstatssvcv3.LoadStatsRequest{Node: &corev3.Node{Id: "n"}, ClusterStats: []*endpointv3.ClusterStats{{ClusterName: "a", TotalDroppedRequests: 1}, {ClusterName: "b"}}}
	for i := range 500 {
		r.Node.Extensions = append(r.Node.Extensions, &corev3.Extension{
			Name: fmt.Sprintf("envoy.filters.http.number_%d", i), Category: "envoy.filters.http",
			TypeUrls: []string{"envoy.extensions.filters.http.some.v3.Some"},
		})
	}
	b, err := proto.Marshal(r)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestReports(t *testing.T) {
	b := written(t)
	got, err := reports(b)
	if err != nil || len(got) != 2 || got[0].GetClusterName() != "a" || got[0].GetTotalDroppedRequests() != 1 || got[1].GetClusterName() != "b" {
		t.Errorf("%v, %v", got, err)
	}
	for _, n := range []int{1, len(b) - 1} { // in the node, and in a report
		if _, err := reports(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(b))
		}
	}
}

// BenchmarkReports is what Weir does with each message, beside decoding all of it.
func BenchmarkReports(b *testing.B) {
	text := written(b)
	b.Run("as it is", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := reports(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(text, new(loadstatssvcv3.LoadStatsRequest)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
