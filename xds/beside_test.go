package xds

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// TestListenersBesideWorkloadsAreWhole: those that are put together of what they share and what is their own are, byte by byte,
// what they are if they are made one by one.
func TestListenersBesideWorkloadsAreWhole(t *testing.T) {
	const service = "\n---\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: {endpoints: {static: [{address: 10.0.0.1, port: 1}]}}\n"
	for _, spec := range []string{
		"{}",
		"{tracing: {collector: 'c:4317', percent: 5, tags: [{name: user, header: x-user}]}}",
		"{tracing: {collector: 'c:4317'}, accessLog: {to: otlp, only: {status: '>=500'}}}",
	} {
		set, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte("kind: Mesh\nmetadata: {name: m}\nspec: " + spec + service)}}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		snapshot, err := Translate(mesh.At(set, time.Time{}), Options{})
		if err != nil {
			t.Fatal(err)
		}
		v, _ := snapshot.View(mesh.Proxy{Role: mesh.RoleService, Ref: policy.Ref{Namespace: "shop", Name: "s"}})
		got := v[ListenerType][0]
		alone := newTranslator(mesh.At(set, time.Time{}), Options{})
		d := besideDoor(policy.Ref{Namespace: "shop", Name: "s"})
		want := alone.unnamedListener(d, alone.any(alone.connectionManager(d)))
		want.Name = d.name
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil || alone.err != nil || !bytes.Equal(got.Body, body) {
			t.Errorf("%s: the listener is not what it is alone: %v %v", spec, err, alone.err)
		}
	}
}
